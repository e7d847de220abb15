"""What the rules must know of a language: how its sentences end, its stop words, and whether spaces
separate its words.

English has the rules of the papers, to the letter. Other languages have the same rules with their
own marks and words; rules for which nothing is known here are switched off.
"""

import re
from dataclasses import dataclass
from functools import cache

from datatrove.pipeline.filters.c4_filters import ELLIPSIS, END_PUNCTUATION
from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS
from datatrove.utils.text import TERMINAL_PUNCTUATION

# The code of a corpus in several languages, or in one that fastText does not know
ANY = "any"
# Languages that are written without spaces between words (ISO 639-1)
UNSPACED = frozenset({"zh", "ja", "th", "lo", "km", "my", "bo", "dz"})
# Their letters: Thai and Lao, Tibetan, Burmese, Khmer, kana, ideographs
_UNSPACED_LETTER = re.compile(
    "[\u0e00-\u0eff\u0f40-\u0fbc\u1000-\u109f\u1780-\u17d3\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# The commonest function words, as Gopher's eight are for English. In text without spaces they are
# single characters
_STOP_WORDS = {
    "ar": "في من على إلى أن عن هذا هذه التي الذي لا ما مع كان و ثم",
    "bg": "и на да се за от не в е са със че по като",
    "cs": "a v se na je že s z do o i to jako pro",
    "da": "og i at det er en til på som for ikke med den af",
    "de": "der die das und in zu den von ist mit nicht ein eine auf für sich im dem",
    "el": "και το να του της η ο με για που από είναι στην δεν",
    "es": "de la que el en y a los se del las un por con no una",
    "fa": "و در به از که این را با است برای آن یک تا می",
    "fi": "ja on ei se että hän oli mutta niin kuin myös tai ovat kun",
    "fr": "de la le et les des en un une du que est pour dans qui ne",
    "he": "של את על לא הוא היא זה עם אם כי גם או אני כל",
    "hi": "के में की है और से का को पर यह कि एक नहीं ने",
    "hu": "a az és hogy nem is egy van meg de csak ez már mint",
    "id": "yang dan di dari untuk dengan ini itu pada tidak dalam adalah ke akan",
    "it": "di e il la che in un a per non una sono con del della le",
    "ja": "の に は を た が で て と し も な か れ",
    "nl": "de het een van en in is dat op te met voor niet zijn",
    "no": "og i det er en til på som for ikke med den av å",
    "pl": "i w nie na się z do to że jest o jak a po",
    "pt": "de a o que e do da em um para com não uma os as no",
    "ro": "de și în a la cu pe care nu o un din este pentru",
    "ru": "и в не на что с по как это к но из у за он",
    "sv": "och i att det en som på är av för med den inte till",
    "tr": "ve bir bu da de için ile ne çok daha gibi o ama olarak",
    "uk": "і в не на що з до як та у це за але від",
    "vi": "và của là có không được trong cho một các những với đã người",
    "zh": "的 一 是 不 了 在 有 我 他 这 這 中 和 人 也 就",
}
# What may follow the mark that ends a sentence. “ closes in German
_CLOSING = "\"'“”’»›)）]」』】》"


@dataclass(frozen=True)
class Traits:
    """What the rules know of a language."""

    code: str  # ISO 639-1, or ANY
    stop_words: frozenset[str]  # none: the rule is off
    sentence_end: re.Pattern[str]  # the mark, with what closes behind it

    @property
    def is_english(self) -> bool:
        return self.code == "en"

    def spaced(self, text: str) -> str:
        """The text as the rules count its words: each letter of a script without spaces between
        words is a word. Text of other scripts is returned as it is.
        """
        if self.code not in UNSPACED | {ANY} or text.isascii():
            return text
        return _UNSPACED_LETTER.sub(r" \g<0> ", text)

    def ends_sentence(self, line: str) -> bool:
        """Whether a line ends like a sentence: what C4 asks of each."""
        if self.is_english:
            return line.endswith(END_PUNCTUATION) and not line.endswith(ELLIPSIS)
        # A quotation may end without a mark of its own, as in C4. Two "…" end a sentence in Chinese
        # and Japanese; one shows that a line was cut, as "..." does
        complete = line.endswith(("……", *_CLOSING)) or line[-1:] in TERMINAL_PUNCTUATION
        return complete and not line.endswith(ELLIPSIS)


@cache
def traits(code: str) -> Traits:
    """The traits of a language by its code (ISO 639-1), or of ANY."""
    if code == "en":
        ends = re.compile(r"""[.!?]+["')\]]*(?=\s|$)""")
        return Traits(code, frozenset(STOP_WORDS), ends)
    spaced = "".join(mark for mark in sorted(TERMINAL_PUNCTUATION) if mark in ".!?")
    # Full-width marks end a sentence without a space behind them
    others = "".join(mark for mark in sorted(TERMINAL_PUNCTUATION) if mark not in ".!?")
    closing = f"[{re.escape(_CLOSING)}]*"
    ends = re.compile(f"[{spaced}…]+{closing}(?=\\s|$)|[{others}]+{closing}")
    return Traits(code, frozenset(_STOP_WORDS.get(code, "").split()), ends)
