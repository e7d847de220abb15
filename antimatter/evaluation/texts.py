"""Perplexity of a user's own texts: any files, folders and glob patterns."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TextIO

import numpy as np

from antimatter import files
from antimatter.data.sources import columns, encodings, kinds, local, paths
from antimatter.data.sources.paths import FilesConfig
from antimatter.data.special_tokens import BOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.evaluation import scoring
from antimatter.evaluation.scoring import Score
from antimatter.model.gpt import GPT
from antimatter.progress import StatusLine
from antimatter.text import table as aligned


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
    """Scores each file that the patterns name. Each document is read from its BOS, which is not
    scored, so the score does not depend on the documents beside it.

    Non-text files found through a folder or a pattern are reported and skipped; a file named
    explicitly must be text.

    Args:
        patterns: files, folders (all files below them that are not hidden), glob patterns, or - for
            standard input.
        column: the text column of JSON and parquet.
        stride: see scoring.sliding(); block_size if that is less.
        key: the name of the patterns in errors.
        stream: for progress and skipped files; None is stderr.

    Raises:
        UserError: a pattern names nothing, a file is not text, no file is text, or the tokenizer
            does not fit the model.
    """
    if not patterns:
        return []
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, the model was trained with "
            f"{model.config.vocab_size:,}: name the tokenizer of the model"
        )
    stride = min(stride, model.config.block_size)
    listed = paths.find(patterns, key)
    texts: list[Text] = []
    with StatusLine(stream=stream) as status:
        for number, (path, is_named) in enumerate(listed, 1):
            name = f"file {number:,} of {len(listed):,}, {path}" if len(listed) > 1 else path
            before = sum(text.score.tokens for text in texts)
            show = partial(_show, status, name, before)
            try:
                texts.append(_score(model, tokenizer, path, column, stride, key, show))
            except UserError as error:
                if is_named:
                    raise
                # Without the fix at its end, which a skipped file does not need
                status.log(f"left out: {str(error).rpartition(': ')[0]}")
    if not texts:
        raise UserError(f"{key}: no text in {', '.join(patterns)}")
    return texts


def in_all(texts: Sequence[Text]) -> Score:
    scores = [text.score for text in texts]
    return Score(
        sum(score.tokens for score in scores),
        sum(score.nats for score in scores),
        sum(score.bytes for score in scores),
    )


def table(texts: Sequence[Text]) -> Iterator[str]:
    """The figures for people, one line per file, and a last line for all of them."""
    scores = [(text.path, text.score) for text in texts]
    if len(scores) > 1:
        scores.append(("in all", in_all(texts)))
    rows = [("", "tokens", "bytes", "loss", "perplexity", "bits per byte")]
    for name, total in scores:
        loss, perplexity, bits = total.figures().values()
        row = (f"{total.tokens:,}", f"{total.bytes:,}", f"{loss:.4f}", f"{perplexity:,.2f}")
        rows.append((name, *row, f"{bits:.4f}"))
    return aligned(rows, right=range(1, 6))


def _show(status: StatusLine, name: str, before: int, tokens: int) -> None:
    """Shows the progress within a file, after `before` tokens in other files."""
    if status.is_due():
        rate = (before + tokens) / (time.monotonic() - status.started)
        status.show(f"{name}: {tokens:,} tokens, {rate:,.0f} tokens/s")


def _score(
    model: GPT,
    tokenizer: Tokenizer,
    path: str,
    column: str,
    stride: int,
    key: str,
    on_progress: Callable[[int], None],
) -> Text:
    documents = size = tokens = 0
    nats = 0.0

    # One document at a time, as a file may be larger than the memory
    def streams() -> Iterator[np.ndarray]:
        nonlocal documents, size
        for text in _documents(path, column, key):
            documents, size = documents + 1, size + len(text.encode())
            yield np.concatenate([np.array([BOS], np.uint32), tokenizer.encode_array(text)])

    windows = scoring.sliding(streams(), model.config.block_size, stride)
    for scored in scoring.score(model, windows):
        nats += float(scored.losses.sum())
        tokens += len(scored.ids)
        on_progress(tokens)
    if not tokens:
        raise UserError(f"{path} is empty: take it out of {key}")
    sha256 = "" if path == paths.STDIN else files.sha256(paths.located(path))
    return Text(path, sha256, documents, Score(tokens, nats, size))


def _documents(path: str, column: str, key: str) -> Iterator[str]:
    """The texts in a file of a kind that raw.files takes, or the whole of any other."""
    if path != paths.STDIN and kinds.kind_of(path):
        config = FilesConfig(pattern=path, text_column=column, licence="")
        documents = local.read(paths.Part(config, (path,), 0, key))
        yield from (local.plain(document.text) for document in documents if document.text)
        return
    content = sys.stdin.buffer.read() if path == paths.STDIN else paths.located(path).read_bytes()
    name = "standard input" if path == paths.STDIN else path
    decoded = encodings.decode(content)
    # The ending does not say that it is text, so it must be certain
    if decoded is None or not decoded[1].codec.startswith("utf"):
        fix = f"convert it to UTF-8, or take it out of {key}"
        raise UserError(f"{name} is not UTF-8 text: {fix}")
    text = local.plain(columns.encodable(decoded[0]))
    if not text.strip():
        raise UserError(f"{name} is empty: take it out of {key}")
    yield text
