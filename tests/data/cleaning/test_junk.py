"""Junk that the other rules let through, and good text that looks like it."""

import dataclasses
from pathlib import Path
from random import Random

import pytest
from datatrove.data import Document

from antimatter import params
from antimatter.data.cleaning.config import CleanConfig, JunkConfig
from antimatter.data.cleaning.junk import Junk
from antimatter.data.cleaning.languages import traits
from antimatter.data.cleaning.rules import enabled_rules, first_rejection
from antimatter.errors import UserError

RULES = {
    "site_notice": 0.09,
    "markup": 0.1,
    "code": 0.12,
    "code_lines": 0.5,
    "filler": 0.05,
    "price_list": 0.04,
    "keyword_spam": 0.13,
    "foreign": 0.5,
    "gibberish": 0.75,
}
# Where it is not the name of the rule
REASONS = {"filler": "lorem_ipsum", "foreign": "mixed_language"}


def line(text: str) -> str:
    return " ".join(text.split())


FERRY = line("""
The ferry to the island leaves at six in the morning, when the harbour still smells of tar and wet
rope. Its captain is a woman of seventy who learned the tides from her father. She counts the
passengers twice, once as they come aboard and once beyond the breakwater. Most of them carry
bread for the lighthouse and letters for the school. In winter there may be no crossing for a
week, and then the children of the island have a holiday that nobody planned. They fish through
holes in the ice of the upper lake and sell what they catch to the innkeeper. He once told a
visitor that he had never tasted a better trout, and that he had stopped asking where it came
from. The visitor was an inspector of the fisheries.
""")
SILAS = line("""
Uncle Silas never locked his door. When the baker asked why, Uncle Silas said that thieves needed
exercise as well. On Sundays Uncle Silas put on his brown hat and walked to the bridge, where he
counted the boats and wrote the number on his cuff. We thought that this was a kind of prayer. My
mother held that Uncle Silas had once loved a girl from one of those boats, but she had it from
the baker, and he had it from nobody. In his last summer Uncle Silas gave me the cuffs, forty of
them in a cigar box. I have added up the numbers more than once. There were more boats in the year
of the flood than in all the years after it, and on one day there is no number, only a small
drawing of a girl. Uncle Silas, said the priest at the grave, was a man of few words. He had not
seen the cuffs.
""")
LETTER = line("""
Dear Mr. Thorpe, thank you for your letter and for the samples, which reached us in good order. We
have shown them to our customers, and we should like to order forty yards of the blue at $3.50 and
sixty of the grey at $2.75. Please send them by the usual carrier. You asked for news of your
brother: he called on us in June, looking very well, and spoke of visiting you before the winter.
We hope that you will give us the pleasure of coming with him, and that you will not think of
staying at the inn.
""")
GERMAN = line("""
Die Fähre fährt um sechs Uhr ab, wenn der Hafen noch nach Teer riecht. Die Kapitänin ist siebzig
und hat die Gezeiten von ihrem Vater gelernt. Sie zählt die Fahrgäste zweimal, und die meisten
bringen Brot für den Leuchtturm mit. Im Winter gibt es manchmal eine Woche lang keine Überfahrt.
Dann haben die Kinder der Insel Ferien, die niemand geplant hat. Sie angeln durch das Eis des
oberen Sees und verkaufen ihren Fang dem Wirt. Einem Gast sagte er einmal, bessere Forellen habe
er nie gegessen. Der Gast war von der Fischereiaufsicht, aber er bestellte trotzdem eine zweite
Portion.
""")


def gibberish() -> str:
    """Words of random letters among stop words."""
    random = Random(5)
    common = "the of and to in is that with have be".split()

    def word() -> str:
        if random.random() < 0.4:
            return random.choice(common)
        return "".join(random.choices("aeioubdgklmnprst", k=6))

    words = [word() for _ in range(200)]
    return " ".join(" ".join(words[n : n + 10]).capitalize() + "." for n in range(0, 200, 10))


JUNK = {
    "site_notice": [
        line("""
        We would like your permission to store small files on your device. They let our partners
        show you ads that suit you and tell us which pages of this site you visit. You may refuse,
        but then some offers may not be available. Please choose below whether you agree. Your
        consent can be changed at any time in the privacy preferences of your account.
        """),
        line("""
        Sorry, we could not find the page you requested. It may have been removed, or the address
        may contain an error. Please try our search, or log in to your account if you are a
        registered user. If you followed a link on another website, please tell us where you found
        it. You may also email our support with any request, and they will reply.
        """),
        line("""
        By using this service you agree to be bound by these conditions. You may not copy, sell or
        offer any part of our content without permission. We shall not be liable for any loss, and
        we give no warranty that our site is free of error. Any dispute shall be subject to the
        law of our seat. We may change this agreement, and you must not use the service if you do
        not agree.
        """),
    ],
    "markup": [
        " ".join(
            word if n % 4 or "." in word else f"<b>{word}</b>"
            for n, word in enumerate(FERRY.split())
        )
    ],
    "price_list": [
        line("""
        Oak table with two benches, was $420, now only $380. Brass lamp with a green shade, $45,
        and the same in red for $42. Set of six chairs with a cane seat at $210. Pine bed, single,
        $190, or double for $260. Rug of undyed wool, three metres long, from $150. Kitchen clock
        that runs for a year, $24, and batteries for it at $3 the pair.
        """)
    ],
    "code": [
        line('''
        def area(shape): return shape.width * shape.height class Room(Shape): """The room of a
        house.""" def __init__(self, name): self.name = name def open(self): for door in
        self.doors: door.unlock() if not door.is_open(): raise ValueError("the door is stuck and
        the key is lost") print("all of the doors are open now.") with open(path) as file: rooms =
        [line.strip() for line in file if line] assert rooms == 4 # the kitchen is a room.
        ''')
    ],
    "code_lines": [
        "\n".join(start + sentence + end for sentence in FERRY.split(". ")[:6])
        for start, end in (('"text": "', '."'), ("# ", "."))
    ],
    "filler": [
        line(f"""
        {FERRY} Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut aliquip
        ex ea commodo consequat. Duis aute irure dolor in reprehenderit in voluptate velit esse
        cillum dolore eu fugiat nulla pariatur. {LETTER}
        """)
    ],
    "keyword_spam": [
        line("""
        Nothing keeps tools dry like garden sheds, and for garden sheds there is one address in
        the county. The oldest that he made has lasted for thirty years. People who want garden
        sheds ask a friend, and the friend tells them where garden sheds are still made of oak and
        not of pine, which will rot. When winter comes, garden sheds must stand firm against the
        wind and the snow. So look at garden sheds in spring, when the man has time for you, and
        remember that garden sheds cost less than a cellar. Whoever owns one of his garden sheds
        will never buy another.
        """)
    ],
    "foreign": [f"{FERRY}\n{SILAS[:473]}\n{GERMAN}"],
    "gibberish": [gibberish()],
}

GOOD = {
    "about cookies": line("""
        An HTTP cookie is a small block of data that a web server creates while someone browses a
        website and that the browser stores. Cookies were devised in 1994 by Lou Montulli, who was
        looking for a way to let an online shop remember the basket of a visitor. The server sends
        the cookie together with the page, and the browser returns it with every later request to
        the same site. Session cookies disappear when the browser is closed; others stay until
        they expire. Because those set by advertisers made it possible to follow a user from one
        site to the next, the European directive of 2002 asked for consent. By 2020 most browsers
        had begun to block them.
        """),
    "about programs": line("""
        A function in Python begins with the word def, its name and its parameters in brackets, as
        in def area(width, height). What follows the colon and stands further to the right belongs
        to it. The value after return is what the caller gets: area(2, 3) gives 6 if the body
        multiplies the two. Beginners often write print where they mean return, and then wonder
        why the result cannot be used again. A function without a return gives None, which the
        interactive interpreter does not even show. It is good style to say in one line what a
        function does, and to leave the how to the code.
        """),
    "about contracts": line("""
        Under the law of England an agreement becomes a contract when there is an offer, an
        acceptance, consideration and an intention to be bound. Courts have never asked whether
        the bargain was fair, and a rent of one pound a year was once held to be enough. A party
        who breaks a term that goes to the root of the contract gives the other the right to end
        it, whereas breach of a mere warranty leads to damages. Clauses that exclude liability
        were read narrowly long before the act of 1977, which forbids a business to exclude
        liability for death by negligence.
        """),
    "a how-to with a tag and a key": (
        "To make a word stand out on a page, put <b> before it and </b> behind it, and the word "
        "appears in bold type.\n"
        "A line in a settings file has a name and a value with a colon between them, as in this "
        "example.\n"
        '"colour": "The value is a word in double quotes."\n'
        "Every line but the last ends with a comma, which is where most mistakes are made.\n"
        "Save the file, start the program again, and look whether the colour has changed as it "
        "should.\n"
        "If it has not, there is usually a quote too many, or one is missing at the end of a line."
    ),
    "a letter with two prices": LETTER,
    "a name again and again": SILAS,
    "an essay with long quotations": "\n".join(
        [
            SILAS,
            "Of the ferry, he said, one should read in German.",
            GERMAN[:427],
            "Quis esse nolit, he asked, and nulla dies without the ferry.",
            FERRY,
            LETTER,
        ]
    ),
    "spaced dots": SILAS.replace(". ", ". . . . "),
    "an article with a notice at its foot": f"{FERRY}\nSubscribe to our free newsletter, and you "
    "will find more stories like this one in your inbox.",
}


@pytest.fixture(scope="module")
def others() -> list:
    path = Path(__file__).parents[3] / "presets/300m.yaml"
    return list(enabled_rules(params.read(CleanConfig, "cleaned", path)))


def verdict(text: str, others: list, **rules: float) -> str:
    """Why a document is dropped, by the other rules or else by these; "" if it is not."""
    junk = Junk(JunkConfig(enabled=True, **rules), traits("en"))
    return first_rejection(Document(text=text, id=""), [*others, junk])


@pytest.mark.parametrize(
    ("rule", "text"), [(rule, text) for rule, texts in JUNK.items() for text in texts]
)
def test_each_rule_drops_what_no_other_does(others, rule, text):
    assert verdict(text, others, **RULES) == REASONS.get(rule, rule)
    assert verdict(text, others, **RULES | {rule: 0}) == ""


@pytest.mark.parametrize("name", GOOD)
def test_good_text_that_looks_like_junk_is_kept(others, name):
    assert verdict(GOOD[name], others, **RULES) == ""


@pytest.mark.parametrize(
    "text", ["", "word", "One line.\n\n\nAnother.", "…" * 300, "é\U0001f600 " * 700]
)
def test_no_text_is_too_odd_to_judge(text):
    # Thresholds so high that every rule is applied
    junk = Junk(JunkConfig(enabled=True, **dict.fromkeys(RULES, 1.0)), traits("en"))
    reasons = {REASONS.get(rule, rule) for rule in RULES}
    assert first_rejection(Document(text=text, id=""), [junk]) in {"", *reasons}


@pytest.mark.parametrize("rule", RULES)
def test_a_threshold_is_a_share(rule):
    for value in (-0.1, 1.1):
        with pytest.raises(UserError, match=rf"{rule} .*\[0, 1\], got {value}"):
            JunkConfig(enabled=True, **RULES | {rule: value})


def test_every_rule_is_tested():
    names = {field.name for field in dataclasses.fields(JunkConfig)} - {"enabled"}
    assert set(RULES) == set(JUNK) == names
