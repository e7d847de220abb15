"""Perplexity of texts of one's own: any files, folders and glob patterns."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from antimatter import files
from antimatter.data.sources import local, paths
from antimatter.data.sources.paths import FilesConfig
from antimatter.data.special_tokens import BOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.evaluation import perplexity
from antimatter.evaluation.perplexity import Score
from antimatter.model.gpt import GPT


@dataclass(frozen=True)
class Text:
    """A file that was scored."""

    path: str
    sha256: str  # of the file; empty for standard input
    documents: int
    score: Score

    def figures(self) -> dict[str, Any]:
        digest = {"sha256": self.sha256} if self.sha256 else {}
        return {
            **digest,
            "documents": self.documents,
            "tokens": self.score.tokens,
            "bytes": self.score.bytes,
            **self.score.figures(),
        }


def score(
    model: GPT,
    tokenizer: Tokenizer,
    patterns: Sequence[str],
    *,
    column: str,
    stride: int,
    key: str,
    stream: TextIO | None = None,
) -> list[Text]:
    """Scores each file that the patterns name. Each document is read from its BOS, which is not scored; so what stands beside it changes nothing.

    What a folder or a pattern holds that is no text is told and left out; a file that is named itself has to be one.

    Args:
        patterns: files, folders (with what is in them, but nothing hidden), glob patterns, or - for standard input.
        column: of JSON and parquet: what holds the text.
        stride: see perplexity.sliding(); block_size if that is less.
        key: what names the patterns, for errors.
        stream: for progress and what is left out; None is stderr.

    Raises:
        FileNotFoundError: a pattern names nothing.
        ValueError: a file is no text, or there is none in all that is named; the tokenizer does not fit the model.
    """
    if not patterns:
        return []
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, the model was trained with {model.config.vocab_size:,}: name the one of the model"
        )
    found = paths.find(patterns, key)
    progress = _Progress(len(found), stream or sys.stderr)
    texts = []
    for path, named in found:
        try:
            texts.append(
                _score(
                    model,
                    tokenizer,
                    path,
                    column,
                    min(stride, model.config.block_size),
                    key,
                    progress,
                )
            )
        except ValueError as error:
            if named:
                raise
            progress.say(f"left out: {str(error).rpartition(': ')[0]}")  # the way out is none here
    progress.end()
    if not texts:
        raise UserError(f"{key}: no text in {', '.join(patterns)}")
    return texts


def in_all(texts: Sequence[Text]) -> Score:
    scores = [text.score for text in texts]
    return Score(
        sum(s.tokens for s in scores), sum(s.nats for s in scores), sum(s.bytes for s in scores)
    )


def table(texts: Sequence[Text]) -> Iterator[str]:
    """The figures for people, a line a file, and all of them together."""
    rows = [(text.path, text.score) for text in texts]
    if len(rows) > 1:
        rows.append(("in all", in_all(texts)))
    width = max(len(name) for name, _ in rows)
    yield f"{'':{width}}{'tokens':>14}{'bytes':>14}{'loss':>9}{'perplexity':>13}{'bits per byte':>15}"
    for name, found in rows:
        figures = found.figures()
        numbers = (
            f"{figures['loss']:9.4f}{figures['perplexity']:13,.2f}{figures['bits_per_byte']:15.4f}"
        )
        yield f"{name:{width}}{found.tokens:14,}{found.bytes:14,}{numbers}"


def _score(
    model: GPT,
    tokenizer: Tokenizer,
    path: str,
    column: str,
    stride: int,
    key: str,
    progress: "_Progress",
) -> Text:
    documents = size = tokens = 0
    nats = 0.0

    def streams() -> Iterator[np.ndarray]:
        nonlocal documents, size
        for text in _documents(path, column, key):
            documents, size = documents + 1, size + len(text.encode())
            yield np.concatenate([np.array([BOS], np.uint32), tokenizer.encode_array(text)])

    progress.begin(path)
    for scored in perplexity.score(
        model, perplexity.sliding(streams(), model.config.block_size, stride)
    ):
        nats += float(scored.losses.sum())
        tokens += len(scored.ids)
        progress.tell(tokens)
    if not tokens:
        raise UserError(f"{path} is empty: take it out of {key}")
    return Text(
        path,
        files.sha256(paths.located(path)) if path != paths.STDIN else "",
        documents,
        Score(tokens, nats, size),
    )


def _documents(path: str, column: str, key: str) -> Iterator[str]:
    """The texts in a file: those of JSON and parquet, or the whole of any other."""
    if path != paths.STDIN and paths.KIND.search(path) and not path.endswith(".txt"):
        part = paths.Part(
            FilesConfig(pattern=path, text_column=column, licence=""), (path,), 0, key
        )
        yield from (local.plain(document.text) for document in local.read(part) if document.text)
        return
    content = sys.stdin.buffer.read() if path == paths.STDIN else paths.located(path).read_bytes()
    name = "standard input" if path == paths.STDIN else path
    try:
        text = local.plain(content.decode())
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is no UTF-8 text ({error}): convert it, or take it out of {key}"
        ) from None
    if "\0" in text:
        raise UserError(f"{name} is no text, it holds zero bytes: take it out of {key}")
    if not text.strip():
        raise UserError(f"{name} is empty: take it out of {key}")
    yield text


class _Progress:
    """How far it is, for who waits longer than a moment: one line that is renewed on a terminal, a line every half minute elsewhere."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self.number, self.total, self.stream = 0, total, stream
        self.interval = 0.5 if stream.isatty() else 30.0
        self.path, self.before, self.tokens, self.drawn = "", 0, 0, False
        self.started = self.shown = time.monotonic()

    def begin(self, path: str) -> None:
        self.number, self.path, self.before, self.tokens = (
            self.number + 1,
            path,
            self.before + self.tokens,
            0,
        )

    def tell(self, tokens: int) -> None:
        """`tokens` of the file are scored."""
        self.tokens, now = tokens, time.monotonic()
        if now - self.shown >= self.interval:
            self.shown, rate = now, (self.before + tokens) / (now - self.started)
            of = f"file {self.number:,} of {self.total:,}, " if self.total > 1 else ""
            self._write(
                f"{of}{self.path}: {tokens:,} tokens, {rate:,.0f} tokens/s",
                stays=not self.stream.isatty(),
            )

    def say(self, text: str) -> None:
        self._write(text, stays=True)

    def end(self) -> None:
        if self.drawn:
            self._write("", stays=False)

    def _write(self, text: str, stays: bool) -> None:
        self.stream.write(
            ("\r\033[K" if self.stream.isatty() else "") + text + ("\n" if stays else "")
        )
        self.stream.flush()
        self.drawn = not stays and text != ""
