"""The cleaning measured on a corpus with known truth: which share of each kind it keeps or removes,
and for which reasons.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import planted_corpus
from helpers.planted_corpus import Planted, plant
from helpers.planted_text import CHOICE

from antimatter import params
from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.cleaning.pipeline import Report, clean
from antimatter.tasks.config import TasksRuntime

ROOT = Path(__file__).parents[3]
SIZE, FILES = 2000, 8
# Share that must be kept of clean documents, and removed of the others
GOALS = {
    "clean": 0.95,
    "clean/mojibake": 0.95,
    "clean/tokens": 0.95,
    "exact": 1.0,
    "near/0.8": 0.97,
    "junk": 1.0,
}

# Too little text remains when the lines that are no sentences are dropped
SHORT = {"too_few_sentences", "gopher_short_doc"}
LAYOUT = {"line_punct_ratio", "short_line_ratio", "list_ratio", "gopher_too_many_bullets"}
LAYOUT |= {"gopher_too_many_end_ellipsis"}
NO_PROSE = {"language", "gopher_below_alpha_threshold", "gopher_enough_stop_words"}
NO_PROSE |= {"gopher_above_avg_threshold", "gopher_below_avg_threshold"}
SYMBOLS = {"gopher_too_many_hashes", "gopher_too_many_ellipsis"}
REPEATED = {"char_dup_ratio"}
REPEATED |= {f"dup_{part}_{unit}" for part in ("line", "para") for unit in ("frac", "char_frac")}
REPEATED |= {f"top_{n}_gram" for n in range(2, 5)}
REPEATED |= {f"duplicated_{n}_n_grams" for n in range(5, 11)}
# First and second byte of a multi-byte character, decoded as cp1252 or latin-1
BROKEN = re.compile("[ÂÃâ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]")

# By the first word of a class of junk: why it may be dropped
REASONS = {
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
    """The result for a kind of document."""

    kind: str
    documents: int
    share: float  # kept, of clean documents; removed, of others
    goal: float | None
    reasons: dict[str, int]
    unexpected: set[str]

    def __str__(self) -> str:
        goal = "" if self.goal is None else f"{self.goal:.0%}"
        reasons = ", ".join(f"{reason} {n}" for reason, n in self.reasons.items())
        mark = "" if self.holds else "  <-- misses its goal"
        return f"{self.kind:32}{self.documents:6}{self.share:8.1%}{goal:>7}  {reasons}{mark}"

    @property
    def holds(self) -> bool:
        return (self.goal is None or self.share >= self.goal) and not self.unexpected


def cleaned(
    documents: Sequence[Planted], folder: Path, config: CleanConfig, files: int, workers: int
) -> tuple[dict[str, str], Report]:
    """The cleaned text of documents in `files` raw files, by id."""
    (folder / "raw").mkdir(parents=True)
    for n in range(files):
        part = documents[n * len(documents) // files : (n + 1) * len(documents) // files]
        same = {"source": "planted", "licence": "MIT", "kind": "text"}
        rows = [{"id": document.id, "text": document.text, **same} for document in part]
        pq.write_table(pa.Table.from_pylist(rows), folder / "raw" / f"{n:05d}.parquet")
    runtime = params.read(TasksRuntime, "runtime", ROOT / "params.yaml", part=True)
    runtime = dataclasses.replace(runtime, workers=workers)
    report = clean(folder / "raw", folder / "work", config, runtime)
    tables = map(pq.read_table, sorted((folder / "work" / "cleaned").glob("*.parquet")))
    return {row["id"]: row["text"] for table in tables for row in table.to_pylist()}, report


def measure(documents: Sequence[Planted], folder: Path, config: CleanConfig) -> list[Row]:
    """Cleans all documents at once, for the duplicates and the clean ones. Then each class of junk
    alone, for its reasons, and without the search for duplicates, which would hide that junk is
    only removed because it resembles other junk.
    """
    kept, _ = cleaned(documents, folder / "all", config, FILES, workers=2)
    twins = {one.twin: one.id for one in documents if one.twin}

    def as_expected(one: Planted) -> bool:
        if _is_clean(one):
            # Of a clean document and its duplicate, either may be kept
            return one.id in kept or twins.get(one.id) in kept
        return not {one.id, one.twin} <= kept.keys()

    right = {one.id for one in documents if as_expected(one)}
    near = dataclasses.replace(config.near_duplicates, enabled=False)
    rules = dataclasses.replace(config, exact_duplicates=False, near_duplicates=near)
    # One document that is kept, because it is an error if none is
    prose = next(one for one in documents if _is_clean(one) and one.id in kept)
    reasons: dict[str, dict[str, int]] = {}
    for group in sorted({_group(one.kind) for one in documents if not one.twin}):
        members = [one for one in documents if _group(one.kind) == group]
        passed, report = cleaned([prose, *members], folder / group, rules, 1, workers=1)
        reasons[group] = report.dropped
        if group != "clean":
            right -= {one.id for one in members if one.id in passed}
            right |= {one.id for one in members if one.id not in passed}

    rows = []
    for kind in ["clean", *sorted({one.kind for one in documents})]:
        members = [one for one in documents if one.kind.startswith(kind)]
        why = {} if kind.startswith("clean/") else reasons.get(_group(kind), {})
        unexpected = set(why) - REASONS[_group(kind)] if kind.startswith("junk") else set()
        share = sum(one.id in right for one in members) / len(members)
        rows.append(Row(kind, len(members), share, _goal(kind), why, unexpected))
    return rows


def _is_clean(one: Planted) -> bool:
    return one.kind.startswith("clean")


def _group(kind: str) -> str:
    """`clean`, a kind of duplicates, or a class of junk without its variants."""
    return kind.split("/")[0] if kind.startswith("clean") else kind.split("/")[-1].split(" ")[0]


def _goal(kind: str) -> float | None:
    """The goal of a kind, or of all kinds of duplicates or junk."""
    group, _, name = kind.partition("/")
    return GOALS.get(kind, None if name and group == "clean" else GOALS.get(group))


@pytest.fixture(scope="module")
def documents() -> list[Planted]:
    return plant(1, SIZE)


@pytest.mark.parametrize(
    "name", ["params.yaml", pytest.param("presets/300m.yaml", marks=pytest.mark.slow)]
)
def test_the_cleaning_reaches_its_goals(documents, tmp_path, name):
    rows = measure(documents, tmp_path, params.read(CleanConfig, "cleaned", ROOT / name))
    if not all(row.holds for row in rows):
        pytest.fail("\n".join(map(str, rows)), pytrace=False)
    assert sum(row.goal is not None for row in rows) > len(GOALS)


def test_broken_text_is_repaired(documents, tmp_path):
    broken = [one for one in documents if one.kind == "clean/mojibake"]
    assert len(broken) > 5 and all(BROKEN.search(one.text) for one in broken)
    config = params.read(CleanConfig, "cleaned", ROOT / "params.yaml")
    kept, _ = cleaned(broken, tmp_path, config, 1, workers=1)
    assert len(kept) > 0.9 * len(broken)
    assert not any(BROKEN.search(text) for text in kept.values())


def test_the_corpus_is_as_described(documents):
    by_id = {one.id: one for one in documents}
    assert len(by_id) == len(documents)
    for one in documents:
        if _is_clean(one) or one.kind == "junk/menu":
            assert not CHOICE.search(one.text)
    file = {one.id: n * FILES // len(documents) for n, one in enumerate(documents)}
    pairs = [(one, by_id[one.twin]) for one in documents if one.twin]
    assert {file[one.id] > file[twin.id] for one, twin in pairs} == {False, True}
    assert not any(file[one.id] == file[twin.id] for one, twin in pairs)
    for one, twin in pairs:
        group, _, name = one.kind.partition("/")
        wanted = float(name) if group == "near" else 1.0
        tolerance = planted_corpus.TOLERANCE if group == "near" else 0
        assert one.similarity == planted_corpus.jaccard(one.text, twin.text)
        assert abs(one.similarity - wanted) <= tolerance


def test_clean_documents_are_distinct(documents):
    clean_texts = [one.text for one in documents if _is_clean(one)][:150]
    shingled = list(map(planted_corpus.shingles, clean_texts))
    for n, a in enumerate(shingled):
        assert all(len(a & b) / len(a | b) < 0.3 for b in shingled[:n])


def test_the_corpus_depends_on_its_seed_alone():
    assert plant(3, 200) == plant(3, 200)
    assert plant(3, 200) != plant(4, 200)
