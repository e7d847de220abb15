"""The code page of a text by its language: decoded with the right one, it is a language that the
code page is for.
"""

import re
from itertools import pairwise

from antimatter.data import language_model

# Languages (ISO 639-1) that are written with each. Of equal scores the first has precedence
LANGUAGES = {
    "cp1252": "en de fr es it pt nl sv da no nn fi is ca gl eu af id ms ga",
    "cp1250": "cs sk pl hu hr sl ro sh bs sq",
    "iso8859_2": "cs sk pl hu hr sl ro sh bs sq",
    "cp1251": "ru uk bg sr mk be",
    "koi8_r": "ru",
    "cp1253": "el",
    "cp1254": "tr az",
    "cp1255": "he yi",
    "cp1256": "ar fa ur",
    "cp1257": "lt lv et",
    "cp1258": "vi",
    "gb18030": "zh",
    "big5": "zh",
    "cp932": "ja",
    "euc_jp": "ja",
    "euc_kr": "ko",
}
MIN_SCORE = 0.5  # of fastText
LENGTH = 4000  # characters of the lines that are not ASCII, which decide
MIN_LENGTH = 60  # below, fastText knows too little
_FOREIGN = re.compile(r"[^\x00-\x7f]")
_LETTER = re.compile(r"[^\W\d_]|\u0300|\u0301|\u0303|\u0309|\u0323")


def by_language(window: bytes) -> str | None:
    """The codec whose text is the likeliest, None if none gives a language of its own."""
    best, best_score = None, MIN_SCORE
    for codec, languages in LANGUAGES.items():
        try:
            text = window.decode(codec)
        except UnicodeDecodeError as error:
            # The end of a window may cut a character of several bytes
            if error.start < len(window) - 4:
                continue
            text = window[: error.start].decode(codec, "replace")
        lines = [line for line in text.splitlines() if _FOREIGN.search(line)]
        sample = " ".join(lines)[:LENGTH]
        foreign = "".join(_FOREIGN.findall(sample))
        if not foreign or len(sample.encode(codec, "replace")) < MIN_LENGTH:
            continue
        labels, scores = language_model.load().predict(sample, k=3)
        own = {f"__label__{language}" for language in languages.split()}
        # Croatian, Serbian and Bosnian share the score
        likely = min(
            1.0, sum(float(s) for name, s in zip(labels, scores, strict=True) if name in own)
        )
        if not labels or labels[0] not in own:
            continue
        # Beyond ASCII it is letters, while another page has signs, and capitals within words
        letters = len(_LETTER.findall(foreign)) / len(foreign)
        inner = sum(
            a.islower() and b.isupper() and not (a + b).isascii() for a, b in pairwise(sample)
        )
        score = likely * letters * max(0.0, 1 - 3 * inner / len(foreign))
        if score > best_score + 1e-4:
            best, best_score = codec, score
    return best
