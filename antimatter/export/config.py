"""The section `gguf` of params.yaml.

It is apart from the code that uses it, so that values can be checked without importing torch.
"""

import re
from dataclasses import dataclass
from typing import Literal

from antimatter.errors import UserError
from antimatter.params import Positive, PositiveInt, Section

FileType = Literal["f32", "f16", "q8_0", "q4_k_m"]


@dataclass(frozen=True, kw_only=True)
class MaxKL(Section):
    """Limit of KL(torch || llama.cpp) in nats per token, by file type. The stage fails above it."""

    f32: Positive
    f16: Positive
    q8_0: Positive
    q4_k_m: Positive


@dataclass(frozen=True, kw_only=True)
class GGUFConfig(Section):
    name: str  # of the model, and of the files: <name>-<type>.gguf
    license: str  # of the weights, an SPDX identifier
    description: str  # a sentence for people; empty: one from what is recorded of the training
    languages: tuple[str, ...]  # of the text, as ISO 639 codes
    url: str  # of a page about the model; empty: none
    types: tuple[FileType, ...]
    relu_scale: int  # c of gelu_form
    model: Literal["tuned", "checkpoints"]  # the folder of models/ that the stage exports
    # How many contexts of the validation split, and how many rows of held-out conversations,
    # llama.cpp and torch are compared on
    windows: PositiveInt
    max_kl: MaxKL

    def validate(self) -> None:
        if not re.fullmatch(r"[^\W_][\w.-]*", self.name):
            allowed = "letters, digits, dots, dashes and underscores"
            raise UserError(f"name must be {allowed}, got {self.name!r}")
        if not self.license:
            raise UserError("license must be an SPDX identifier such as mit, got nothing")
        for code in self.languages:
            if not re.fullmatch(r"[a-z]{2,3}", code):
                raise UserError(f"languages must be ISO 639 codes such as en, got {code!r}")
        if not self.types or len(set(self.types)) < len(self.types):
            raise UserError(f"types must name at least one type, each once, got {list(self.types)}")
        if self.relu_scale < 1 or self.relu_scale & (self.relu_scale - 1):
            reason = "(scaling by it is then exact)"
            raise UserError(f"relu_scale must be a power of two {reason}, got {self.relu_scale}")
