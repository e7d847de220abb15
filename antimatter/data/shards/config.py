"""The configuration of the shards.

Separate from the code that uses it, so that values are checked without importing datatrove.
"""

from dataclasses import dataclass
from typing import Annotated

from antimatter.params import Count, PositiveInt, Section, Within

MAX_VOCAB = 1 << 16  # ids are uint16


@dataclass(frozen=True, kw_only=True)
class ShardsConfig(Section):
    tokens_per_file: PositiveInt
    validation_fraction: Annotated[float, Within("(0, 1)")]  # of the documents
    max_similarity: Annotated[
        float, Within("(0, 1]")
    ]  # Jaccard, of a document of validation and one of train
    seed: Count  # of the hash that chooses the documents of validation
