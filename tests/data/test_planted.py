"""The cleaning against a corpus whose truth is known: what share of each kind it catches or keeps, and for which reasons."""

import dataclasses
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import planted_corpus
from helpers.planted_corpus import Planted, plant

from antimatter import params
from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.cleaning.pipeline import Report, clean
from antimatter.tasks.config import EngineRuntime

ROOT = Path(__file__).parents[2]
SIZE, FILES = 2000, 8
MARKS = {
    "clean": 0.95,
    "clean/mojibake": 0.95,
    "clean/tokens": 0.95,
    "exact": 1.0,
    "near/0.8": 0.97,
    "rubbish": 1.0,
}  # share kept of clean documents, share removed of the others

SHORT = {
    "too_few_sentences",
    "gopher_short_doc",
}  # what is left when the lines that are no sentences have gone
LAYOUT = {
    "line_punct_ratio",
    "short_line_ratio",
    "list_ratio",
    "gopher_too_many_bullets",
    "gopher_too_many_end_ellipsis",
}
NO_PROSE = {
    "language",
    "gopher_below_alpha_threshold",
    "gopher_enough_stop_words",
    "gopher_above_avg_threshold",
    "gopher_below_avg_threshold",
}
SYMBOLS = {"gopher_too_many_hashes", "gopher_too_many_ellipsis"}
REPEATED = {
    "char_dup_ratio",
    *(f"dup_{part}_{unit}" for part in ("line", "para") for unit in ("frac", "char_frac")),
} | {
    *(f"top_{n}_gram" for n in range(2, 5)),
    *(f"duplicated_{n}_n_grams" for n in range(5, 11)),
}
BROKEN = re.compile(
    "[ÂÃâ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
)  # a byte that begins a character of several, and one that goes on

REASONS = {  # by the first word of a class of rubbish: what it may be dropped for
    **dict.fromkeys(
        ("cookies", "javascript", "calls", "terms", "error"), SHORT | LAYOUT | {"site_notice"}
    ),
    **dict.fromkeys(
        ("code", "html", "tagged", "json"),
        SHORT | LAYOUT | NO_PROSE | REPEATED | {"curly_bracket", "code", "code_lines", "markup"},
    ),
    **dict.fromkeys(("menu", "links", "tables"), SHORT | LAYOUT | NO_PROSE),
    **dict.fromkeys(
        ("products", "tags", "shouting"), SHORT | LAYOUT | NO_PROSE | REPEATED | {"price_list"}
    ),
    **dict.fromkeys(("blob", "gibberish"), SHORT | NO_PROSE | {"gibberish"}),
    "lorem": {"lorem_ipsum", "language"},
    "too": SHORT,
    "symbols": SHORT | LAYOUT | NO_PROSE | SYMBOLS,
    "spam": REPEATED | {"keyword_spam"},
    "repeated": SHORT | REPEATED,
    "empty": {"empty"},
    "binary": {"empty"} | SHORT | NO_PROSE,
    "foreign": {"language", "mixed_language"},
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: what became of a kind."""

    kind: str
    documents: int
    share: float  # kept, of clean documents; removed, of others
    mark: float | None
    reasons: dict[str, int]
    unexpected: set[str]

    def __str__(self) -> str:
        verdict = "" if self.holds else "  <-- misses its mark"
        mark = f"{self.mark:7.0%}" if self.mark else "       "
        return f"{self.kind:32}{self.documents:6}{self.share:8.1%}{mark}  {', '.join(f'{k} {n}' for k, n in self.reasons.items())}{verdict}"

    @property
    def holds(self) -> bool:
        return (self.mark is None or self.share >= self.mark) and not self.unexpected


def cleaned(
    documents: list[Planted], folder: Path, config: CleanConfig, files: int, workers: int
) -> tuple[dict[str, str], Report]:
    """What is left of documents in so many files, by id. The one place that knows how to call the cleaning."""
    (folder / "raw").mkdir(parents=True)
    for n in range(files):
        rows = [
            {"id": one.id, "text": one.text, "source": "planted", "licence": "MIT", "kind": "text"}
            for one in documents[n * len(documents) // files : (n + 1) * len(documents) // files]
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "raw" / f"{n:05d}.parquet")
    runtime = dataclasses.replace(
        params.read(EngineRuntime, "runtime", ROOT / "params.yaml", part=True), workers=workers
    )
    report = clean(folder / "raw", folder / "work", config, runtime)
    paths = sorted((folder / "work" / "cleaned").glob("*.parquet"))
    return {
        row["id"]: row["text"] for path in paths for row in pq.read_table(path).to_pylist()
    }, report


def judge(documents: list[Planted], folder: Path, config: CleanConfig) -> list[Row]:
    """Cleans all at once, for duplicates and clean documents. Then each class of rubbish for itself, to learn the reasons, and without a look for
    duplicates, lest rubbish seem recognised that is only alike."""
    left, _ = cleaned(documents, folder / "all", config, FILES, workers=2)
    twins = {one.twin: one.id for one in documents if one.twin}
    found = {
        one.id
        for one in documents
        if (
            one.id in left or twins.get(one.id) in left
            if _is_clean(one)
            else not {one.id, one.twin} <= left.keys()
        )
    }

    rules = dataclasses.replace(
        config,
        exact_duplicates=False,
        near_duplicates=dataclasses.replace(config.near_duplicates, enabled=False),
    )
    prose = next(
        one for one in documents if _is_clean(one) and one.id in left
    )  # because it is an error when nothing is left
    reasons: dict[str, dict[str, int]] = {}
    for group in {_group(one.kind) for one in documents if not one.twin}:
        some = [one for one in documents if _group(one.kind) == group]
        through, report = cleaned([prose, *some], folder / group, rules, 1, workers=1)
        reasons[group] = report.dropped
        if group != "clean":
            found = found - {one.id for one in some} | {
                one.id for one in some if one.id not in through
            }

    rows = []
    for kind in ["clean", *sorted({one.kind for one in documents})]:
        some = [one for one in documents if one.kind.startswith(kind)]
        why = reasons.get(_group(kind), {}) if "clean/" not in kind else {}
        unexpected = set(why) - REASONS[_group(kind)] if kind.startswith("rubbish") else set()
        mark = MARKS.get(kind) or MARKS.get(
            kind.split("/")[0] if not kind.startswith("clean") else ""
        )
        rows.append(
            Row(
                kind,
                len(some),
                sum(one.id in found for one in some) / len(some),
                mark,
                why,
                unexpected,
            )
        )
    return rows


def _is_clean(one: Planted) -> bool:
    return one.kind.startswith("clean")


def _group(kind: str) -> str:
    """A class of rubbish without its variants."""
    return kind.split("/")[0] if kind.startswith("clean") else kind.split("/")[-1].split(" ")[0]


@pytest.fixture(scope="module")
def documents() -> list[Planted]:
    return plant(1, SIZE)


@pytest.mark.parametrize("name", ["params.yaml", "presets/300m.yaml"])
def test_the_cleaning_holds_its_marks(documents, tmp_path, name):
    rows = judge(documents, tmp_path, params.read(CleanConfig, "cleaned", ROOT / name))
    if not all(row.holds for row in rows):
        pytest.fail("\n".join(map(str, rows)), pytrace=False)


def test_broken_text_is_repaired(documents, tmp_path):
    some = [one for one in documents if one.kind == "clean/mojibake"]
    assert len(some) > 5 and all(BROKEN.search(one.text) for one in some)
    left, _ = cleaned(
        some, tmp_path, params.read(CleanConfig, "cleaned", ROOT / "params.yaml"), 1, workers=1
    )
    assert len(left) > 0.9 * len(some) and not any(BROKEN.search(text) for text in left.values())


def test_the_corpus_is_what_it_says(documents):
    by_id = {one.id: one for one in documents}
    assert len(by_id) == len(documents)
    assert not any(
        planted_corpus.CHOICE.search(one.text)
        for one in documents
        if _is_clean(one) or one.kind == "rubbish/menu"
    )
    place = {one.id: n * FILES // len(documents) for n, one in enumerate(documents)}
    pairs = [(one, by_id[one.twin]) for one in documents if one.twin]
    assert {place[one.id] > place[twin.id] for one, twin in pairs} == {False, True}
    assert not any(place[one.id] == place[twin.id] for one, twin in pairs)
    for one, twin in pairs:
        wanted = float(one.kind.split("/")[1]) if one.kind.startswith("near") else 1.0
        assert one.similarity == planted_corpus.jaccard(one.text, twin.text)
        assert abs(one.similarity - wanted) <= (planted_corpus.TOLERANCE if wanted < 1 else 0)


def test_clean_documents_are_distinct(documents):
    shingled = [planted_corpus.shingles(one.text) for one in documents if _is_clean(one)][:150]
    assert all(len(a & b) / len(a | b) < 0.3 for n, a in enumerate(shingled) for b in shingled[:n])


def test_the_corpus_depends_on_its_seed_alone():
    assert plant(3, 200) == plant(3, 200)
    assert plant(3, 200) != plant(4, 200)
