"""What params.yaml says of the shards.

Apart from the code that it steers, so that values are checked without importing datatrove.
"""

from dataclasses import dataclass

from antimatter.errors import UserError

MAX_VOCAB = 1 << 16  # ids are uint16


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    tokens_per_file: int
    validation_fraction: float  # of the documents
    max_similarity: float  # Jaccard, of a document of validation and one of train
    seed: int  # of the hash that chooses them

    def __post_init__(self) -> None:
        if self.tokens_per_file < 1:
            raise UserError(f"tokens_per_file must be at least 1, got {self.tokens_per_file}")
        if not 0 < self.validation_fraction < 1:
            raise UserError(
                f"validation_fraction must lie between 0 and 1, got {self.validation_fraction}"
            )
        if not 0 < self.max_similarity <= 1:
            raise UserError(f"max_similarity must lie in (0, 1], got {self.max_similarity}")
        if self.seed < 0:
            raise UserError(f"seed must be at least 0, got {self.seed}")
