"""The text of .epub and .pdf files."""

import io
import logging
import posixpath
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree import ElementTree

from antimatter.data.sources import webpage
from antimatter.data.sources.faults import Fault
from antimatter.data.sources.opened import Source, whole

MAX_BOOK = 1 << 28  # bytes of a file
_PACKAGE = ".//{*}rootfile"


def epub(source: Source) -> Iterator[str]:
    """The chapters of a book, in the order in which one reads them.

    Raises:
        Fault: it is no book, or its text is encrypted.
    """
    with zipfile.ZipFile(io.BytesIO(whole(source, MAX_BOOK))) as book:
        try:
            yield from _chapters(book)
        # A damaged archive may have places that do not exist, which is a ValueError
        except (KeyError, ElementTree.ParseError, ValueError, RuntimeError) as error:
            reason = f"is no EPUB that can be read ({error})"
            fix = f"it may be damaged or protected; take it out of {source.key}"
            raise Fault(source.path, reason, fix, size=source.size) from None


def _chapters(book: zipfile.ZipFile) -> Iterator[str]:
    container = ElementTree.fromstring(_read(book, "META-INF/container.xml"))
    root = container.find(_PACKAGE)
    path = root.get("full-path", "") if root is not None else ""
    package = ElementTree.fromstring(_read(book, path))
    pages = {
        one.get("id"): one.get("href", "") for one in package.findall(".//{*}manifest/{*}item")
    }
    for reference in package.findall(".//{*}spine/{*}itemref"):
        href = pages.get(reference.get("idref"))
        if not href:
            continue
        name = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(href)))
        page = webpage.decoded(_read(book, name))
        if page and (text := webpage.text_of(page[0])).strip():
            yield text


def _read(book: zipfile.ZipFile, name: str) -> bytes:
    with book.open(name) as stream:
        data = stream.read(webpage.MAX_PAGE + 1)
    if len(data) > webpage.MAX_PAGE:
        raise KeyError(f"{name} is larger than {webpage.MAX_PAGE >> 20} MB")
    return data


def pdf(source: Source) -> str:
    """The text of all pages.

    Raises:
        Fault: it is encrypted or damaged, or holds no text.
    """
    import pypdf

    # It warns of every oddity of a file, which users cannot change
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    data = io.BytesIO(whole(source, MAX_BOOK))
    out = f"take it out of {source.key}"
    try:
        reader = pypdf.PdfReader(data)
        is_locked = reader.is_encrypted and not reader.decrypt("")
        pages = [] if is_locked else [page.extract_text() for page in reader.pages]
    # A damaged file makes pypdf raise errors of any kind
    except Exception as error:
        reason = f"cannot be read ({type(error).__name__}: {error})".replace("\n", " ")
        fix = f"it may be damaged; {out}"
        raise Fault(source.path, reason, fix, size=source.size) from None
    if is_locked:
        fix = f"save it without its password, or {out}"
        raise Fault(source.path, "is encrypted", fix, size=source.size)
    text = "\n".join(page.strip() for page in pages).strip()
    if not text:
        fix = f"turn it into text with OCR, or {out}"
        raise Fault(source.path, "holds no text: it may be a scan", fix, size=source.size)
    return text
