"""What params.yaml says of the GGUF files.

Apart from the code that it steers, so that values are checked without importing torch.
"""

from dataclasses import dataclass
from typing import Literal

from antimatter.errors import UserError

FileType = Literal["f32", "f16", "q8_0", "q4_k_m"]


@dataclass(frozen=True, kw_only=True)
class MaxKL:
    """KL(torch || llama.cpp) in nats per token, by the type of the file. Above it the stage fails."""

    f32: float
    f16: float
    q8_0: float
    q4_k_m: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UserError(f"{name} must be positive, got {value}")


@dataclass(frozen=True, kw_only=True)
class GGUFConfig:
    name: str  # of the model, and of the files: <name>-<type>.gguf
    license: str  # of the weights, an SPDX identifier
    types: tuple[FileType, ...]
    relu_scale: int  # c of gelu_form
    model: Literal["tuned", "checkpoints"]  # the folder of models/ that the stage exports
    # On which llama.cpp is compared with torch: so many contexts of the validation split, and so
    # many rows of held-out conversations
    windows: int
    max_kl: MaxKL

    def __post_init__(self) -> None:
        if (
            not self.name.replace("-", "").replace("_", "").replace(".", "").isalnum()
            or not self.name[0].isalnum()
        ):
            raise UserError(
                f"name must be letters, digits, dots, dashes and underscores, got {self.name!r}"
            )
        if not self.license:
            raise UserError("license must be an SPDX identifier such as mit, got nothing")
        if not self.types or len(set(self.types)) < len(self.types):
            raise UserError(f"types must name at least one type, each once, got {list(self.types)}")
        if self.relu_scale < 1 or self.relu_scale & (self.relu_scale - 1):
            raise UserError(
                f"relu_scale must be a power of two (scaling by it is then exact), got {self.relu_scale}"
            )
        if self.windows < 1:
            raise UserError(f"windows must be at least 1, got {self.windows}")
