"""Personal data in text: e-mail addresses, telephone numbers, IP addresses, and secret keys.

The patterns favour precision over recall: a version, a date, an ISBN or a number in a table is not
a telephone number. Each takes linear time on any text: repetitions are bounded or possessive
(`++`), so the engine never backtracks into them.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from ipaddress import ip_address
from itertools import pairwise

# Reserved for examples (RFC 2606, RFC 5737, 555-01xx of the North American Numbering Plan), so a
# model that memorises them identifies nobody
PLACEHOLDERS = {
    "key": "[key]",
    "email": "email@example.com",
    "ip": "192.0.2.1",
    "phone": "555-0100",
}


@dataclass(frozen=True, kw_only=True)
class PersonalConfig:
    """Which kinds are replaced by placeholders."""

    email: bool
    phone: bool
    ip: bool
    key: bool

    def kinds(self) -> list[str]:
        """The enabled kinds in the order in which they are masked."""
        chosen = {field.name for field in fields(self) if getattr(self, field.name)}
        return [kind for kind in PATTERNS if kind in chosen]


def mask(text: str, kinds: list[str]) -> tuple[str, Counter[str]]:
    """The text with a placeholder for each piece of personal data, and how many of each kind."""
    counts = Counter[str]()
    for kind in kinds:
        spans = list(_spans(text, kind))
        if spans:
            counts[kind] = len(spans)
            ends = [(0, 0), *spans, (len(text), len(text))]
            parts = [text[end:start] for (_, end), (start, _) in pairwise(ends)]
            text = PLACEHOLDERS[kind].join(parts)
    return text, counts


def kinds_in(text: str) -> Iterator[str]:
    """The kinds of personal data in a text."""
    return (kind for kind in PATTERNS if any(_spans(text, kind)))


def _spans(text: str, kind: str) -> Iterator[tuple[int, int]]:
    """The places of a kind, (start, end), in order."""
    for match in PATTERNS[kind].finditer(text):
        # The group without its context, as in `phone: ...`
        group = match.lastindex or 0
        if IS_PERSONAL[kind](match[group]):
            yield match.span(group)


# ---- patterns

_BLOCK = r"-----{} (?:[A-Z]{{1,12}} ){{0,3}}PRIVATE KEY-----"
# Keys with the prefix of their issuer, JSON Web Tokens, and private keys in PEM
_KEY = "|".join(
    (
        r"(?:AKIA|ASIA)[0-9A-Z]{16}(?!\w)",
        r"gh[opsur]_[0-9A-Za-z]{36,255}(?!\w)",
        r"github_pat_\w{22,255}(?!\w)",
        r"glpat-[\w-]{20,255}+",
        r"sk-(?=[a-z-]{0,20}[A-Z\d])(?=\D{0,40}\d)[\w-]{20,255}+",
        r"xox[abprs]-[0-9A-Za-z-]{10,255}+",
        r"hf_[0-9A-Za-z]{34}(?!\w)",
        r"AIza[\w-]{35}(?![\w-])",
        r"eyJ[\w-]{10,}+\.eyJ[\w-]{10,}+\.[\w-]{10,}+",
        _BLOCK.format("BEGIN") + r"(?:[^-]|-(?!----))*+(?:" + _BLOCK.format("END") + ")?",
    )
)
_EMAIL = r"(?<![\w.+%-])([\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,5}[a-z]{2,24})(?![\w@-])"
_IP = "|".join(
    (
        r"(?<![\w.:=+-])(?<!ersion )(\d{1,3}(?:\.\d{1,3}){3})(?!\.?\w|-\w)",
        r"(?<![\w:.])([0-9a-f]{1,4}(?:::?[0-9a-f]{1,4}){2,7})(?![\w:])",
    )
)
# A number is a telephone number if it has the North American format, a country code, or a cue such
# as "phone" before it
_LINE = "(?:phone|telephone|tel|cell|mobile|fax|whatsapp)"
_CUE = "|".join(
    (
        rf"\b{_LINE}(?: number| no\.?)?(?: is|[.:])? {{0,2}}",
        r"\b(?:call|text|reach) (?:me|us|him|her) (?:at|on) ",
        rf"\bmy (?:{_LINE} )?number is ",
    )
)
_PHONE = "|".join(
    (
        rf"(?:{_CUE})(\(?\+?\d[ ().\d-]{{5,18}}\d)(?![\w/-])",
        r"(?<![\w.+/-])((?:\+?1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d(?:[.-]| (?=\d{3}-)))"
        r"[2-9]\d\d[.-]\d{4})(?![\w/-]|\.\d)",
        r"(?<![\w.+/-])(\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\) ?)?\d(?:[ .-]?\d){5,13})(?![\w/-]|\.\d)",
    )
)
# `icon@2x.png` and `git@github.com` look like addresses
_NO_EMAIL = re.compile(
    r"git@|.*@(?:.*\.)?example\.(?:com|net|org)$"
    r"|.*\.(?:example|invalid|test|local|css|gif|html|jpe?g|js|pdf|png|py|svg|webp)$",
    re.I,
)
# A date, two years, or groups of three digits as in a table
_NO_PHONE = re.compile(
    r"\d{4}([ .-])\d\d?\1\d\d?|\d\d?([ .-])\d\d?\2\d{2,4}|\d{4} ?- ?\d{4}"
    r"|\+?\d{1,3}(?: \d{3})+|(?:.*\D)?555\D?01\d\d"
)


def _is_email(text: str) -> bool:
    return not _NO_EMAIL.match(text) and ".." not in text


def _is_phone(text: str) -> bool:
    digits = sum(character.isdigit() for character in text)
    return 7 <= digits <= 15 and not _NO_PHONE.fullmatch(text)


def _is_public_ip(text: str) -> bool:
    """Whether it is an address on the public internet. An IPv4 address whose parts mostly have one
    digit counts as a version number.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return False
    longer = sum(len(part) > 1 for part in text.split("."))
    return address.is_global and (address.version == 6 or longer > 1)


PATTERNS = {
    "key": re.compile(rf"(?<![\w.-])({_KEY})", re.A),
    "email": re.compile(_EMAIL, re.A | re.I),
    "ip": re.compile(_IP, re.A | re.I),
    "phone": re.compile(_PHONE, re.A | re.I),
}
# Further checks of what a pattern matches
IS_PERSONAL: dict[str, Callable[[str], bool]] = {
    "key": bool,
    "email": _is_email,
    "ip": _is_public_ip,
    "phone": _is_phone,
}
