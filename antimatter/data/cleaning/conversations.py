"""Rules for conversations: turns are tidied, and bad turns are cut out.

People who chat write without capitals and full stops, laugh in every line, and talk about their own
lives. A small model learns regular text best, and should not claim somebody's life. A bad turn does
not drop the whole conversation: the turns before it and after it become separate conversations.
"""

import re
from typing import NamedTuple

from datatrove.data import Document

from antimatter.data.cleaning import pii
from antimatter.data.cleaning.config import ConversationConfig, LanguageConfig
from antimatter.data.cleaning.repair import fix_text
from antimatter.data.cleaning.rules import Language
from antimatter.data.documents import SEPARATOR


class Turn(NamedTuple):
    original: str
    tidied: str
    reason: str  # why it is cut out; empty if it is kept


class ConversationRules:
    """Tidies the turns of a conversation, and decides which are cut out and why."""

    def __init__(self, config: ConversationConfig, language: LanguageConfig) -> None:
        self.config = config
        self.language = Language(language) if language.enabled else None

    def __call__(self, text: str) -> list[Turn]:
        """All turns of a conversation. Each run of kept turns becomes a conversation: it has
        min_turns or more, and its first speaker is the user, since both sides are people.
        """
        turns = text.split(SEPARATOR)
        if not self.config.enabled:
            return [Turn(turn, fix_text(turn).strip(), "") for turn in turns]
        tidied = [tidy(turn) for turn in turns]
        return [Turn(*turn) for turn in zip(turns, tidied, self._reasons(tidied), strict=True)]

    def _reasons(self, turns: list[str]) -> list[str]:
        whole = Document(SEPARATOR.join(turns), "")
        if self.language and self.language.filter(whole) is not True:
            return ["language"] * len(turns)
        spoken = [SPOKEN.findall(turn.lower()) for turn in turns]
        reasons = [self._fault(turn, words) for turn, words in zip(turns, spoken, strict=True)]
        if self.config.biography == "drop":
            for i, words in enumerate(spoken[:-1], 1):
                if not reasons[i] and PERSONAL_QUESTIONS.occur_in(words):
                    reasons[i] = "biography"
        bounds = [i for i, reason in enumerate(reasons) if reason]
        for before, after in zip([-1, *bounds], [*bounds, len(turns)], strict=True):
            first = before + 1
            # The assistant has the last turn
            end = after - (after - first) % 2
            reasons[first:end] = [self._fault_of_run(turns[first:end])] * (end - first)
            reasons[end:after] = ["unanswered"] * (after - end)
        return reasons

    def _fault(self, turn: str, words: list[str]) -> str:
        """Why a turn is bad; empty if it is good."""
        if not words:
            return "no_words"
        if len(words) > self.config.max_turn_words:
            return "too_long"
        if len(words) > MANY and len(set(words)) < len(words) * VARIED:
            return "repeated_words"
        others = sum(not character.isascii() for character in turn)
        if others > self.config.max_non_ascii * len(turn):
            return "non_ascii"
        if PROFANITY.occur_in(words):
            return "profanity"
        if DIGIT_OR_AT.search(turn):
            if HANDLE.search(turn):
                return "handle"
            if NUMBER.search(turn):
                return "phone"
            if kind := next(pii.kinds_in(turn), ""):
                return kind
        if LINK.search(turn):
            return "link"
        if self.config.biography == "drop" and BIOGRAPHY.occur_in(words):
            return "biography"
        return ""

    def _fault_of_run(self, turns: list[str]) -> str:
        if len(turns) < self.config.min_turns:
            return "too_few"
        short = sum(turn.count(" ") < 2 for turn in turns)
        return "short" if short > self.config.max_short_turns * len(turns) else ""


# ---- bad turns

MANY = 5  # words; of more than these ...
VARIED = 0.35  # ... at least this share must be distinct
LINK = re.compile(r"https?:|www\.|\w\.(?:com|edu|gov|io|me|net|org|tv)\b", re.I)
# Only a turn with one of these is searched for HANDLE, NUMBER and the patterns of pii.py
DIGIT_OR_AT = re.compile(r"[\d@]")
HANDLE = re.compile(r"(?<!\w)@\w")
NUMBER = re.compile(r"\d{7}|(?<!\d)\d{3}[ .-]\d{4}(?!\d)")


class Phrases:
    """A list of words and phrases to search for, in which `*` means any ending and `_` a space."""

    def __init__(self, text: str) -> None:
        entries = text.lower().split()
        self.words = frozenset(entry for entry in entries if entry.isalpha())
        self.stems = tuple(entry[:-1] for entry in entries if entry.endswith("*"))
        phrases = [entry for entry in entries if not entry.endswith("*") and not entry.isalpha()]
        self.phrases = tuple(f" {phrase.replace('_', ' ')} " for phrase in phrases)

    def occur_in(self, words: list[str]) -> bool:
        """Whether any of them does.

        Args:
            words: in lower case and without punctuation.
        """
        if not self.words.isdisjoint(words) or any(word.startswith(self.stems) for word in words):
            return True
        text = f" {' '.join(words)} "
        return any(phrase in text for phrase in self.phrases)


PROFANITY = Phrases(
    """ass asses asshole* bastard* bitch* boob* cocaine cock cocks cum cunt* damn dick dicks fag
    fags faggot* fuck* heroin hitler hoe hoes horny illegals jizz kill_myself kill_yourself
    masturbat* motherf* naked nazi* nigg* nude* orgasm* penis* piss* porn* prostitut* pussy rape
    raped rapes raping rapist* retard* sex sexual* sexy shit* slut* suicid* tits vagina* whore*
    wtf"""
)
# Where the authors live and study, what they believe, and the experiment in which they chat. From
# these a model learns to say that it is a student, and of which church
BIOGRAPHY = Phrases(
    """byu* provo utah orem slc salt_lake cougar* wilk wilkinson deseret
    university universities college* campus semester* midterm* finals professor* prof roommate*
    dorm dorms freshman freshmen sophomore* major majors majored majoring minoring grad_school
    homework class classes classmate* exam exams student* graduate graduated graduating graduation
    undergrad* degree tuition scholarship* assignment* internship* school studying
    church churches lds mormon* mission missions missionar* temple* bishop* ward wards
    relief_society prophet* conference seminary scripture* gospel fhe pray praying prayer* jesus
    christ god heavenly bible commandment*
    my_name name's i_live i_grew_up i'm_from i_am_from i_was_born hometown home_town years_old
    chat chats chatted chatter* chatting chatbot* bot bots leaderboard* leader_board score scores
    points ipad* macbook* prompt prompts typing website experiment survey* matched disconnect*
    on_here talking_to_myself real_conversation paired guideline* textism* acronym* catfish*
    tas testing_center"""
)
# The answer is cut out whatever its words are: it may be a bare name
PERSONAL_QUESTIONS = Phrases(
    """your_name where_are_you_from where_you_from where_did_you_grow where_do_you_live
    where's_home where_is_home how_old_are_you who_are_you who_is_this who's_this what_year"""
)
SPOKEN = re.compile(r"[a-z0-9']+")

# ---- tidying

LAUGHTER = re.compile(
    r"\b(?:(?=[bmuw]{0,3}[ae]*h[ae]*h)[bmuw]{0,3}[aeh]{3,}|ha ha|lo+l[oz]*|lmf?ao+|rofl|xd+)\b",
    re.I,
)
EMOTICON = re.compile(
    r"[:;]['-]?[()]+|(?<![\w:])(?:[:;=]['^o-]?[/3DOPSX\\|\[\]dopsx*()]+"
    r"|<3+|\^[_.]?\^|T_T|-_+-)(?!\w)"
)
# A word that corrects the previous message: `*you`
CORRECTION = re.compile(r"(?:^|(?<=[.!?] ))(?:\*+ ?[\w']+|[\w']+\*+)(?:[.!?]+|$)")
WORD = re.compile(r"(?<![\w/'.@-])[A-Za-z][a-z/']*(?![\w/'@-]|\.\w)")
SHORTHAND = """
    a lot: alot
    aren't: arent
    because: bc b/c cuz coz
    can't: cant
    couldn't: couldnt
    definitely: def
    didn't: didnt
    doesn't: doesnt
    don't: dont
    favorite: fav fave
    hadn't: hadnt
    hasn't: hasnt
    haven't: havent
    he's: hes
    hello: hullo helo
    how about you: hbu
    how's: hows
    I: i
    I don't know: idk
    I know: ik
    I'm: i'm im
    I'd: i'd
    I'll: i'll
    I've: i've ive
    isn't: isnt
    just kidding: jk
    never mind: nvm
    oh my goodness: omg
    okay: k kk ok okie
    people: ppl
    please: pls plz
    probably: prob probs prolly
    right now: rn
    she's: shes
    shouldn't: shouldnt
    thanks: thx thanx
    that's: thats
    there's: theres
    they're: theyre
    they've: theyve
    though: tho
    through: thru
    to be honest: tbh
    wasn't: wasnt
    we've: weve
    weren't: werent
    what: wut wat
    what about you: wbu
    what's: whats
    where's: wheres
    who's: whos
    won't: wont
    wouldn't: wouldnt
    yeah: yea ya yah
    you: u
    you all: yall y'all
    you're: youre
    you've: youve
    your: ur
"""
# The beginning of a question, even if it ends in a full stop
QUESTION = re.compile(
    r"(?:(?:and|but|cool|good|great|hello|hey|hi|nice|oh|okay|so|well|wow|yeah|yes)[, ]+)*"
    r"(?:(?:what|how|why|where|when|who|which)"
    r"(?:'s|'re| is| are| do| does| did| was| were| would| will| can| could| have| has| should"
    r"| about| kinds? of| time| else)"
    r"|(?:is|are|was|were|do|does|did|have|has|can|could|will|would|should)"
    r" (?:you|your|it|that|this|he|she|they|there|we)|and you$|have you)\b",
    re.I,
)
REPEATED = re.compile(r"([A-Za-z])\1{2,}")
FINAL = re.compile(r"""[.!?]["')]*$""")


def _shorthand() -> dict[str, str]:
    spelled_out: dict[str, str] = {}
    for line in SHORTHAND.strip().splitlines():
        whole, short = line.strip().split(": ")
        spelled_out |= dict.fromkeys(short.split(), whole)
    return spelled_out


SPELLED_OUT = _shorthand()


def tidy(turn: str) -> str:
    """A turn as a careful writer would write it: without laughter, emoticons and shorthand, with
    capitals and full stops. A turn of nothing but laughter becomes one word.
    """
    text = " ".join(fix_text(turn).split())
    letters = [character for character in text if character.isalpha()]
    if len(letters) > 3 and sum(map(str.isupper, letters)) > len(letters) / 2:
        # Shouted
        text = text.lower()
    text, laughs = LAUGHTER.subn("", EMOTICON.sub("", text))
    if "*" in text:
        text = CORRECTION.sub("", text)
    text = REPEATED.sub(_fewer, text)
    text = WORD.sub(lambda word: SPELLED_OUT.get(word[0].lower(), word[0]), text)
    text = _punctuated(text)
    if not text:
        return "Haha." if laughs else ""
    if not FINAL.search(text):
        text = text.rstrip(" ,;:-*>") + "."
    return " ".join(map(_sentence, re.split(r"(?<=[.!?]) ", text)))


def _fewer(letters: re.Match[str]) -> str:
    """One letter of three or more, as in `sooo`; two in `goood`."""
    letter, end = letters[1], letters.end()
    inside = letters.string[end : end + 1].isalpha()
    return letter * 2 if letter in "eo" and inside else letter


def _punctuated(text: str) -> str:
    """One punctuation mark instead of several, each directly after its word."""
    text = re.sub(r"[!?.,;:> ]*\?[!?., ]*(?=$| )", "? ", text)
    text = re.sub(r"[!.,;: ]*![!., ]*(?=$| )", "! ", text)
    text = re.sub(r" +(?=[.,;:])", "", text)
    text = re.sub(r"([.!?]),+", r"\1", text)
    text = re.sub(r"[,;:]+(?=[.,;:])", "", text)
    text = re.sub(r"\.{2,}", "...", text)
    text = re.sub(r",(?=[A-Za-z])", ", ", text)
    text = re.sub(r"(?:^| )[^\w\s&+=$%<>-]+(?= |$)", "", text)
    return " ".join(text.split()).lstrip(" .,;:!?-*~")


def _sentence(text: str) -> str:
    if text.endswith(".") and not text.endswith("..") and QUESTION.match(text):
        text = text[:-1] + "?"
    first = next((i for i, character in enumerate(text) if character.isalnum()), 0)
    return text[:first] + text[first : first + 1].upper() + text[first + 1 :]
