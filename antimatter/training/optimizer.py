"""AdamW (Loshchilov & Hutter 2019) with weight decay on matrices only; on request with Muon (Jordan
et al. 2024) for the hidden matrices.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from antimatter.errors import UserError
from antimatter.training.config import OptimizerConfig

# Part of the names of its parameters; a tied head is the same parameter
EMBEDDING = "token_embedding"
# The beginning of the names of the layers' parameters, whose matrices are the hidden ones
BLOCKS = "blocks."
# The end of the name of a matrix that is three: for queries, keys and values
FUSED = "qkv.weight"


def build(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW with three groups of parameters, or without the hidden matrices beside Muon.

    Biases and norms do not decay: pulling a gain towards zero does not regularise. The token
    embedding has another learning rate, because a row of it learns only from its own token, and a
    matrix of a block from every token (docs/log.md has the gain).

    Raises:
        UserError: this torch has no Muon.
    """
    named = dict(model.named_parameters())
    hidden = {name: p for name, p in named.items() if name.startswith(BLOCKS) and p.ndim == 2}
    if config.kind == "adamw":
        hidden = {}
    named = {name: p for name, p in named.items() if name not in hidden}
    embeddings = [p for name, p in named.items() if EMBEDDING in name]
    matrices = [p for name, p in named.items() if p.ndim >= 2 and EMBEDDING not in name]
    vectors = [p for p in named.values() if p.ndim < 2]
    decay, multiple = config.weight_decay, config.embedding_rate
    groups = [
        {"params": embeddings, "weight_decay": decay, "times": multiple},
        {"params": matrices, "weight_decay": decay, "times": 1.0},
        {"params": vectors, "weight_decay": 0.0, "times": 1.0},
    ]
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
    if hidden:
        optimizer = MuonAndAdamW(hidden, optimizer, config)
    set_learning_rate(optimizer, config.learning_rate)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the matrices; that of the other groups is a multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["times"]


class MuonAndAdamW(torch.optim.Optimizer):
    """torch's Muon for some matrices, and AdamW for the other parameters.

    One optimizer, because both have to skip a step whose gradient overflowed in fp16, whichever
    parameter it was. Muon's update is as large as AdamW's usual one (Liu et al. 2025, "Muon is
    scalable for LLM training"), so that both have one learning rate and one weight decay.

    Args:
        matrices: by name. To Muon one that is FUSED is three.
        others: with the rest of the parameters.
    """

    def __init__(
        self,
        matrices: Mapping[str, nn.Parameter],
        others: torch.optim.Optimizer,
        config: OptimizerConfig,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UserError(
                f"optimizer.kind is muon, but torch {torch.__version__} has no Muon: install torch "
                "2.9 or newer, or set it to adamw"
            )
        # The groups of AdamW are the same objects here
        own = {"params": list(matrices.values()), "times": 1.0}
        super().__init__([own, *others.param_groups], {})
        self.others = others
        # Parts share the memory of their matrix
        self.parts: list[tuple[nn.Parameter, Sequence[nn.Parameter]]] = []
        for name, matrix in matrices.items():
            pieces = matrix.detach().chunk(3 if name.endswith(FUSED) else 1)
            self.parts.append((matrix, [nn.Parameter(piece) for piece in pieces]))
        self.muon = torch.optim.Muon(
            [part for _, parts in self.parts for part in parts],
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            adjust_lr_fn="match_rms_adamw",
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates all parameters."""
        for matrix, parts in self.parts:
            if matrix.grad is not None:
                for part, gradient in zip(parts, matrix.grad.chunk(len(parts)), strict=True):
                    part.grad = gradient
        self.muon.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self.muon.step()
        # Or they would keep the memory of the gradient
        self.muon.zero_grad()
        self.others.step()

    def state_dict(self) -> dict[str, Any]:
        """Those of both, by name."""
        return {"muon": self.muon.state_dict(), "adamw": self.others.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads what state_dict() has returned. Muon keeps the settings of its configuration."""
        built = {**self.muon.param_groups[0]}
        self.muon.load_state_dict(state_dict["muon"])
        self.muon.param_groups[0].update(built)
        self.others.load_state_dict(state_dict["adamw"])
        # These are new objects now
        self.param_groups[1:] = self.others.param_groups
