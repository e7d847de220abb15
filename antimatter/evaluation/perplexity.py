"""How well the model predicts the validation split: as a whole, by the frequency of the token in
train, by its position in the context, and by source.
"""

# V vocabulary, G groups
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from antimatter.data.shards.reader import Shards
from antimatter.evaluation.scoring import Score, score, sliding
from antimatter.model.gpt import GPT
from antimatter.model.loss import frequency_bins, perplexity


@dataclass(frozen=True)
class Bin:
    """The scored tokens whose frequency or position lies between `least` and `most`."""

    least: int
    most: int
    tokens: int
    loss: float  # mean negative log-likelihood, nats per token

    @property
    def name(self) -> str:
        return f"{self.least}-{self.most}" if self.least < self.most else str(self.least)

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)


@dataclass(frozen=True)
class FrequencyBin(Bin):
    vocabulary: int  # different tokens with this frequency


@dataclass(frozen=True)
class Evaluation:
    windows: Score  # each window by itself, as in training
    sliding: Score  # windows that overlap
    # By the count of the token in train, rarest first; sums up to `windows`
    frequencies: list[FrequencyBin]
    # By the number of tokens before it in its window; sums up to `windows`
    positions: list[Bin]
    sources: dict[str, Score]  # sums up to `sliding`


def evaluate(model: GPT, shards: Shards, stride: int) -> Evaluation:
    """Scores every token of validation, without loss weights. A window holds neighbouring tokens of
    a file, also of several documents, as in training.

    Args:
        model: in eval mode.
        stride: of the sliding windows; block_size if that is less.

    Raises:
        UserError: the shards do not record the sources of their documents.
    """
    context = model.config.block_size
    documents = shards.validation_documents()
    bins = frequency_bins(torch.from_numpy(shards.token_counts().astype(np.int64))).numpy()  # (V,)
    names = shards.sources()
    by_frequency = _Sums(bins.max() + 1)
    by_position = _Sums(_position(np.array([context]))[0] + 1)
    by_source = _Sums(len(names))

    for scored in score(model, sliding(shards.split("validation"), context, context)):
        by_frequency.add(bins[scored.ids], scored.losses)
        by_position.add(_position(scored.context), scored.losses)

    # Documents whose BOS was a target; that of a stream's first document never is
    begun = 0
    for scored in score(model, sliding(shards.split("validation"), context, min(stride, context))):
        begins = np.cumsum(scored.ids == shards.index["bos"])
        by_source.add(documents["source"][scored.stream + begun + begins], scored.losses)
        begun += int(begins[-1])

    size = shards.bytes("validation")
    sizes = np.bincount(documents["source"], documents["bytes"], len(names))
    frequencies = [
        FrequencyBin(4**i if i else 0, 4 ** (i + 1) - 1, n, nats / n, int((bins == i).sum()))
        for i, n, nats in by_frequency.groups()
    ]
    positions = [
        Bin(2 ** (i - 1) + 1 if i else 1, min(2**i, context), n, nats / n)
        for i, n, nats in by_position.groups()
    ]
    return Evaluation(
        windows=by_frequency.total(size),
        sliding=by_source.total(size),
        frequencies=frequencies,
        positions=positions,
        sources={names[i]: Score(n, nats, int(sizes[i])) for i, n, nats in by_source.groups()},
    )


def _position(context: np.ndarray) -> np.ndarray:
    """The bin of a number of tokens of context: 1, 2, 3 to 4, 5 to 8, ..."""
    return np.ceil(np.log2(context)).astype(np.int64)


class _Sums:
    """Losses summed by group."""

    def __init__(self, groups: int) -> None:
        self.nats, self.tokens = np.zeros(groups), np.zeros(groups, np.int64)  # both (G,)

    def add(self, group: np.ndarray, losses: np.ndarray) -> None:
        self.nats += np.bincount(group, losses, len(self.nats))
        self.tokens += np.bincount(group, minlength=len(self.tokens))

    def total(self, size: int) -> Score:
        """All groups together, of a text of this many bytes."""
        return Score(int(self.tokens.sum()), float(self.nats.sum()), size)

    def groups(self) -> Iterator[tuple[int, int, float]]:
        """The number, tokens and nats of each group that has tokens."""
        for i in np.flatnonzero(self.tokens).tolist():
            yield i, int(self.tokens[i]), float(self.nats[i])
