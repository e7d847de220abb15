"""Which text counts as personal data, and which does not."""

import re

import pytest

from antimatter.data.cleaning import pii
from antimatter.data.cleaning.pii import PATTERNS, PersonalConfig

ALL = PersonalConfig(email=True, phone=True, ip=True, key=True).kinds()
PERSONAL = {
    "email": ["ann.lee+x@mail.uni-a.de", "Write to bob@post.net, please."],
    "phone": [
        "(415) 237-4821",
        "call 415-237-4821.",
        "+49 30 5557 1234",
        "1 415 237-4821",
        "+1 (415) 237-4821",
    ],
    "ip": ["from 142.250.74.78:443"],
    "key": [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "sk-proj-a1b2c3d4e5f6a7b8c9d0",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow/x+=\n-----END RSA PRIVATE KEY-----",
    ],
}
IMPERSONAL = [
    "a@example.com, user@host.invalid, @decorator, x @ y, a@b",
    "numpy 2.4.6, version 10.0.0.1, 1.2.3.4, Python 3.11.2.0",
    "2018-10-15, 15.10.2018, 12:30:45, 1,234,567.89, 3.14159265358979",
    "ISBN 978-3-16-148410-0, ISO 8601-1:2019, RFC 2606",
    "127.0.0.1 10.0.0.255 192.168.100.200 192.0.2.1 999.999.999.999",
    "pages 212-234, 100-200-300, 555-0100, $415-237-4821x",
    "0.123 4567.8901 22 333 4444 55555 666666",
    "skip-this-very-long-option-name, sk-learn, the risk-free-rate-of-return-is-low",
]


@pytest.mark.parametrize("kind", PERSONAL)
def test_each_kind_becomes_its_placeholder_and_is_counted(kind: str) -> None:
    for text in PERSONAL[kind]:
        masked, counts = pii.mask(text, ALL)
        assert pii.PLACEHOLDERS[kind] in masked, text
        assert counts == {kind: 1}, text
        assert not re.search(r"lee|bob|4821|1234|142|AKIA|a1[bB]2|MIIE", masked), masked


@pytest.mark.parametrize("text", IMPERSONAL)
def test_versions_dates_numbers_and_reserved_names_are_kept(text: str) -> None:
    assert pii.mask(text, ALL) == (text, {})


def test_masked_text_holds_nothing_personal() -> None:
    for texts in PERSONAL.values():
        for text in texts:
            assert not list(pii.kinds_in(pii.mask(text, ALL)[0]))


def test_only_the_enabled_kinds_are_masked() -> None:
    email = PersonalConfig(email=True, phone=False, ip=False, key=False).kinds()
    masked, _ = pii.mask("ann@post.net 8.8.8.8 142.250.74.78", email)
    assert masked == "email@example.com 8.8.8.8 142.250.74.78"


@pytest.mark.parametrize(
    "unit",
    ["a@", "1.", "415-237-", "+1", "eyJaaaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", "a.b-", "sk-"],
)
def test_a_text_that_almost_matches_everywhere_takes_linear_time(unit: str) -> None:
    """With a pattern that backtracks, this would never end."""
    text = unit * (300_000 // len(unit))
    for pattern in PATTERNS.values():
        assert isinstance(pattern.sub("", text), str)
