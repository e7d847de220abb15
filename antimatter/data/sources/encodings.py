"""The encoding of a text file, by a fixed rule, so that a file is the same text on every machine.

1. A byte-order mark decides: UTF-8, UTF-16 or UTF-32.
2. Zero bytes: UTF-16 if they are in every second place, as they are in Latin text; no text
   otherwise.
3. Bytes that are valid UTF-8 to the end are UTF-8.
4. Otherwise one window around the first byte that is not UTF-8 decides. It is damaged UTF-8 if it
   has ten times as many valid characters as invalid bytes; no text if it has many control
   characters; or the code page whose text is a language that it is for (code_pages.py); or, if the
   text is too short for that, what charset-normalizer finds among the encodings in LEGACY.
   Windows-1252 has precedence over Windows-1250 there, which shares most of its letters.
"""

import codecs
import io
import re
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import charset_normalizer

from antimatter.data.sources.code_pages import by_language
from antimatter.data.sources.faults import Fault, Report, shown
from antimatter.data.sources.opened import Source

LEGACY = (
    *("cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1256"),
    *("gb18030", "big5", "cp932", "euc_jp", "euc_kr"),
)
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with BOM"),
    # Before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16 LE"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16 BE"),
)
CHUNK = 1 << 20
WINDOW = 1 << 16  # bytes, of which a quarter precede the first byte that is not UTF-8
# Control characters beyond white space and escape
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_KANA = re.compile("[\u3041-\u30ff]")


class Encoding(NamedTuple):
    codec: str
    label: str  # for people and metrics
    errors: str  # as codecs take it: replace, if the file is known to be damaged
    is_guess: bool = False  # by the language or the bytes, not by a mark or a declaration


UTF8 = Encoding("utf-8", "UTF-8", "strict")


def detect(open_file: Callable[[], BinaryIO]) -> Encoding | None:
    """The encoding of a text file; None if it is no text.

    Args:
        open_file: opens the file at its beginning.
    """
    with open_file() as file:
        chunk = file.read(CHUNK)
        for mark, codec, label in BOMS:
            if chunk.startswith(mark):
                return Encoding(codec, label, "replace")
        if b"\0" in chunk:
            return _utf_16(chunk)
        decoder = codecs.getincrementaldecoder("utf-8")()
        before = b""
        while chunk:
            # A later one is damage of a text, or of what only begins like one
            if b"\0" in chunk:
                return None
            try:
                decoder.decode(chunk, final=False)
            except UnicodeDecodeError as error:
                place = len(before) + error.start
                window = before + chunk + file.read(WINDOW)
                start = max(0, place - WINDOW // 4)
                return _legacy(_whole_lines(window[start : start + WINDOW], start > 0))
            before = chunk[-(WINDOW // 4) :]
            chunk = file.read(CHUNK)
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return _legacy(before)
    return UTF8


def of(source: Source, report: Report) -> Encoding:
    """The encoding of a file, which is counted: the one that params.yaml names, or what is found.

    Raises:
        Fault: it is no text.
    """
    named = source.encoding
    encoding = Encoding(named, named, "replace") if named else detect(source.open)
    if encoding is None:
        raise no_text(source)
    counted(encoding, source, report)
    return encoding


def counted(encoding: Encoding, source: Source, report: Report) -> None:
    """Counts an encoding, and names a file whose encoding is a guess."""
    report.counts[f"encoding {encoding.label}"] += 1
    if encoding.is_guess:
        report.guess(f"{shown(source.path)} ({encoding.label})")


def no_text(source: Source) -> Fault:
    fix = f"take it out of {source.key}, or give it the ending of its kind"
    return Fault(source.path, "is not text", fix, size=source.size)


def decode(data: bytes) -> tuple[str, Encoding] | None:
    """The text of a small file, and its encoding; None if it is no text."""
    encoding = detect(lambda: io.BytesIO(data))
    return (data.decode(encoding.codec, encoding.errors), encoding) if encoding else None


def _utf_16(data: bytes) -> Encoding | None:
    """UTF-16 without a mark, of Latin text: its characters have a zero byte each."""
    data = data[: len(data) // 2 * 2][:WINDOW]
    even, odd = data[::2].count(0), data[1::2].count(0)
    half = len(data) // 2
    for zeros, others, codec, label in (
        (odd, even, "utf-16-le", "UTF-16 LE"),
        (even, odd, "utf-16-be", "UTF-16 BE"),
    ):
        if zeros > 0.4 * half and others < 0.02 * half and _decodes(data, codec):
            return Encoding(codec, f"{label} without BOM", "replace")
    return None


def _decodes(data: bytes, codec: str) -> bool:
    try:
        data.decode(codec)
    except UnicodeDecodeError as error:
        # The end of the window may cut a pair
        return error.start >= len(data) - 4
    return True


def _whole_lines(window: bytes, is_cut: bool) -> bytes:
    """A window without the characters that it cuts at its ends, if it has several lines."""
    first = window.find(b"\n") + 1 if is_cut else 0
    last = window.rfind(b"\n") + 1 if len(window) == WINDOW else len(window)
    return window[first:last] if last > first else window


def _legacy(window: bytes) -> Encoding | None:
    if b"\0" in window or len(_CONTROL.findall(window)) > 0.01 * len(window):
        return None
    text = window.decode(errors="surrogateescape")
    invalid = len(re.findall("[\udc80-\udcff]", text))
    if len(re.findall("[^\x00-\x7f]", text)) - invalid >= 10 * invalid:
        return Encoding("utf-8", "UTF-8, damaged", "replace")
    found = charset_normalizer.from_bytes(window, cp_isolation=list(LEGACY))
    best = found.best()
    if best is None:
        return None
    names = {name for match in found for name in match.could_be_from_charset}
    if codec := by_language(window):
        return Encoding(codec, codec, "replace", is_guess=True)
    codec = best.encoding
    if codec == "cp1250" and "cp1252" in names:
        codec = "cp1252"
    # Japanese in EUC is valid Korean of rare letters
    if codec == "euc_kr" and "euc_jp" in names:
        japanese = window.decode("euc_jp", "replace")
        codec = "euc_jp" if len(_KANA.findall(japanese)) > 0.1 * len(japanese) else codec
    return Encoding(codec, codec, "replace", is_guess=True)
