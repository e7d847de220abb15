"""Files as people have them: small ones of each kind, with the texts that a reader must find.

All texts were written for these tests.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ENGLISH = (
    "The ferry left the harbour before the fog had lifted, and nobody on the pier could say where "
    "the water ended. Ines counted the bells of the buoys. She had made this crossing every week "
    "since the spring, first with her father's letters and later with nothing but a thermos and "
    "a book that she never opened. When the engine fell silent she knew that they were close to "
    "the sandbank, because the captain always let the tide carry them over the last hundred metres."
)
GERMAN = (
    "Die Bäckerei an der Ecke öffnete schon um fünf, und wer früh genug kam, durfte größere "
    "Stücke vom übrigen Kuchen mitnehmen. Jürgen hörte dort jeden Morgen die Nachrichten, weil "
    "sein Radio zu Hause nur noch rauschte. „Heute wird es heiß“, sagte die Verkäuferin und schob "
    "ihm die Tüte über die Theke. Er zählte das Geld ab, grüßte und überlegte, ob er zu Fuß "
    "gehen sollte."
)
CHINESE = (
    "清晨的市场还没有热闹起来，卖豆腐的老人已经把木板擦得干干净净。他一边等第一位客人，一边给隔壁的"
    "孩子讲从前河水结冰的故事。孩子听得入神，忘了手里还拿着要送回家的葱。太阳慢慢升高，屋顶上的霜一点"
    "一点地化成水，落在石板路上，发出很轻的声音。"
)
ARABIC = (
    "كانت المكتبة الصغيرة تفتح أبوابها بعد صلاة العصر، فيجلس الأطفال على السجادة وينتظرون الحكاية "
    "الجديدة. تقرأ لهم السيدة هدى بصوت هادئ، ثم تسألهم عن النهاية التي يفضلونها. وفي آخر النهار "
    "يعود كل طفل إلى بيته ومعه كتاب مستعار وسؤال لم يجد له جوابا بعد."
)
RUSSIAN = (
    "Утром мы вышли из дома и пошли к реке, где ещё лежал туман. Брат нёс удочки, а я старое ведро "
    "с червями, и никто из нас не хотел говорить первым, чтобы не спугнуть тишину."
)
TEXTS = [ENGLISH, GERMAN, CHINESE, ARABIC]

# Lines that end by their meaning
POEM = """\
The kettle hums, the window weeps,
A cat along the gutter creeps,
The clock forgets what hour it is,
And nobody remembers this.

The letters that you never sent
Lie folded where the drawer is bent,
And every spring I take them out
To read what they are not about."""
PLAY = """\
First Miller:
Before we open up the sluice, hear me speak.

All:
Speak, speak.

First Miller:
You all would rather watch the river rise
Than see the corn go hungry to the stone?

Second Miller:
We would, and if the wheel should break its teeth,
We know a man who carves them out of ash.
He asks for bread and nothing else besides,
And whistles while the water does the rest.

First Miller:
Then let the master keep his silver shut.
The mill will turn without a coin of his,
As long as rain remembers where we live."""
CODE = """\
def total(prices, discount):
    result = 0
    for price in prices:
        if price > discount:
            result += price - discount
        else:
            result += price
    return result


class Basket:
    def __init__(self, prices):
        self.prices = prices
        self.discount = 0"""
LIST = """\
Things to bring to the lake before the others arrive on Saturday:
- the blue tent and the poles that were repaired with wire
- two pans, one of them with a lid that fits on both
- matches in a jar, candles, and the lamp from the shed
- the rope that Marta used for the swing in the garden"""


def prose(paragraphs: int, seed: int = 0) -> list[str]:
    """Different paragraphs of ordinary sentences."""
    who = "the baker|my aunt|a stranger|the teacher|our neighbour|the child|an old man|the nurse"
    did = "carried|remembered|repaired|found|painted|described|forgot|measured|borrowed|sold"
    what = "the bicycle|a wooden box|two lemons|the map|an umbrella|the ladder|a song|the clock"
    when = "before breakfast|in the rain|without a word|last winter|near the station|at noon"
    lists = [part.split("|") for part in (who, did, what, when)]
    result = []
    for number in range(paragraphs):
        sentences = []
        for part in range(3 + (number + seed) % 4):
            n = (number * 7 + part * 13 + seed) * 2654435761 % 2**32
            words = [words[(n >> 5 * i) % len(words)] for i, words in enumerate(lists)]
            sentences.append(f"{' '.join(words)[0].upper()}{' '.join(words)[1:]}.")
        result.append(f"{' '.join(sentences)} This was number {'x' * (number % 5 + 1)} of the day.")
    return result


def wrapped(paragraphs: list[str], width: int = 72) -> str:
    return "\n\n".join(textwrap.fill(text, width) for text in paragraphs) + "\n"


def book(chapters: int, paragraphs: int = 40) -> str:
    """A hard-wrapped book, 10 kB a chapter."""
    parts = [
        f"CHAPTER {number}\n\n{wrapped(prose(paragraphs, seed=number * 101))}"
        for number in range(1, chapters + 1)
    ]
    return "\n\n".join(parts)


PAGE = f"""<!DOCTYPE html>
<html lang="en"><head><title>Crossing</title><meta charset="utf-8">
<style>p {{ color: red }}</style><script>var a = "<p>no text</p>";</script></head>
<body><header><a href="/">Home of the harbour</a></header>
<nav><ul><li>Menu one</li><li>Menu two</li></ul></nav>
<main><article><h1>The crossing</h1>
<p>{ENGLISH}</p><p>Tea &amp; bread,<br>and a
  second   line &mdash; here.</p>
<ul><li>first point</li><li>second point</li></ul>
<pre>def f():
    return 1</pre></article></main>
<aside>Advertisement for shoes</aside><footer>Imprint and cookies</footer></body></html>
"""
PAGE_TEXT = (
    f"The crossing\n\n{ENGLISH}\n\nTea & bread,\nand a second line — here.\n\n"
    "first point\nsecond point\n\ndef f():\n    return 1"
)


def json_lines(texts: list[str]) -> bytes:
    lines = (
        json.dumps({"id": n, "text": text}, ensure_ascii=False) for n, text in enumerate(texts)
    )
    return "".join(f"{line}\n" for line in lines).encode()


def json_array(texts: list[str], indent: int | None = None) -> bytes:
    rows = [{"id": n, "text": text} for n, text in enumerate(texts)]
    return json.dumps(rows, indent=indent, ensure_ascii=False).encode()


def table(texts: list[str], delimiter: str = ",", column: str = "text") -> bytes:
    """CSV, as Python writes it."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerow(["id", column, "year"])
    writer.writerows([str(n), text, "2020"] for n, text in enumerate(texts))
    return stream.getvalue().encode()


def parquet(values: pa.Array, column: str = "text") -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"n": range(len(values)), column: values}), sink)
    return sink.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return stream.getvalue()


def epub(chapters: list[str]) -> bytes:
    """A book of EPUB 3 whose order of reading is not that of its names."""
    names = [f"text/page%20{len(chapters) - n}.xhtml" for n in range(len(chapters))]
    items = "".join(
        f'<item id="c{n}" href="{name}" media-type="application/xhtml+xml"/>'
        for n, name in enumerate(names)
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">'
        '<rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    )
    files = {"mimetype": "application/epub+zip", "META-INF/container.xml": container}
    files["OEBPS/book.opf"] = package
    for name, text in zip(names, chapters, strict=True):
        page = f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{text}</body></html>'
        files[f"OEBPS/{name.replace('%20', ' ')}"] = page
    return archive({name: content.encode() for name, content in files.items()})


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
