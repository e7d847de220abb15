"""One optimisation step: the gradient of a batch by micro-batches, its norm, and the update."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from antimatter.data.batches import Batch
from antimatter.errors import UserError
from antimatter.model.gpt import GPT
from antimatter.model.loss import RareTokenBalance, linear_cross_entropy, softmax_gradient
from antimatter.training.config import Precision
from antimatter.training.numerics import autocast


class Objective(nn.Module):
    """The model with its loss: what DistributedDataParallel wraps, since it wants the whole computation in one forward."""

    def __init__(self, model: GPT, compile: bool = False) -> None:
        """Raises ValueError where there is no compiler for torch.compile."""
        super().__init__()
        if compile and not any(shutil.which(name) for name in ("gcc", "g++", "clang", "clang++")):
            raise UserError(
                "checkpoints.compile is true, but there is no C++ compiler here: install g++, or set it to false"
            )
        self.model, self.compiled = model, compile
        self.hidden = torch.compile(model.hidden) if compile else model.hidden
        self.kernel = torch.compile(softmax_gradient) if compile else softmax_gradient

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        counts: Tensor | None,
        segments: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The mean of count times loss, and the loss of each token: four of (B, T) -> (), (B, T).

        On a CPU the head and most of the last layer are spared for targets that count 0; their
        losses are given as 0. The two are more than half of a small model's arithmetic. A GPU would
        have to wait to learn how many targets they are.
        """
        head = self.model.head.weight
        kept = None if counts is None or inputs.device.type != "cpu" else counts > 0
        if counts is None or kept is None or kept.all() or not kept.any():
            hidden = self.hidden(inputs, segments=segments)
            return linear_cross_entropy(hidden, head, targets, counts, self.kernel)
        # A selection in its midst would cut a compiled model in two
        wanted = None if self.compiled else kept
        hidden = self.hidden(inputs, segments=segments, wanted=wanted)
        hidden = hidden[kept] if wanted is None else hidden
        part = (hidden[None], head, targets[kept][None], counts[kept][None])
        mean, some = linear_cross_entropy(*part, self.kernel)
        losses = torch.zeros(targets.shape).masked_scatter(kept, some)
        return mean * (some.numel() / targets.numel()), losses


@dataclass(frozen=True)
class Gradient:
    """What accumulate_gradients() has seen of a batch; the gradient itself lies in the parameters."""

    # Mean over the targets, weighted by what the batch says that they count, but not by the
    # balance; nats, ()
    loss: Tensor
    bin_losses: Tensor  # summed by frequency bin, (F,) float64; empty without the balance
    bin_counts: Tensor  # (F,) float64


def accumulate_gradients(
    objective: Callable[..., tuple[Tensor, Tensor]],
    batch: Batch,
    micro_batch: int,
    precision: Precision,
    scaler: torch.amp.GradScaler,
    balance: RareTokenBalance | None = None,
) -> Gradient:
    """Adds the gradient of the batch's mean loss to the parameters, by micro-batches. Nothing waits for the device here.

    Args:
        objective: an Objective, maybe in DistributedDataParallel, which then means the gradient over the ranks with the last micro-batch.
        batch: of this rank, on the device.

    Raises:
        ValueError: the device has too little memory, or torch.compile does not work on this machine.
    """
    device = batch.inputs.device
    rows = range(0, len(batch.inputs), micro_batch)
    parts = [
        Batch(*(None if one is None else one[row : row + micro_batch] for one in batch))  # type: ignore[arg-type]
        for row in rows
    ]
    weights = None if balance is None else balance.weights().to(device)
    bins = None if balance is None else balance.bins.to(device)
    n_bins = 0 if balance is None else len(balance.share)
    total = torch.zeros((), device=device)
    bin_losses, bin_counts = (
        torch.zeros(n_bins, dtype=torch.float64, device=device) for _ in range(2)
    )
    for number, (inputs, targets, own, segments) in enumerate(parts, 1):
        counts = own
        if weights is not None:
            counts = weights[targets] if own is None else weights[targets] * own
        alone = isinstance(objective, DistributedDataParallel) and number < len(parts)
        try:
            with objective.no_sync() if alone else nullcontext():  # type: ignore[attr-defined]
                with autocast(device, precision):
                    mean, losses = objective(inputs, targets, counts, segments)
                # backward() sums; the step wants the mean
                scaler.scale(mean / len(parts)).backward()
        except torch.OutOfMemoryError:
            raise UserError(
                f"{device} is out of memory with runtime.micro_batch {len(inputs)}: halve it, the step stays the same"
            ) from None
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"torch.compile does not work here ({reason}): set checkpoints.compile to false"
            ) from error
        total += (losses if own is None else losses * own).mean() / len(parts)
        if bins is not None:
            # A product: sums in a fixed order on a GPU too
            which = nn.functional.one_hot(bins[targets.flatten()], n_bins).double()
            if own is not None:
                which *= (own.flatten() > 0)[:, None]
            bin_losses += losses.flatten().double() @ which
            bin_counts += which.sum(0)
    return Gradient(total, bin_losses, bin_counts)


def clip(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, limit: float
) -> Tensor:
    """Scales the gradient down to a global norm of `limit` at most; its norm before that, ()."""
    scaler.unscale_(optimizer)
    return nn.utils.clip_grad_norm_(model.parameters(), limit)


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """One step by the gradient, which is gone afterwards. A gradient that overflowed in fp16 is skipped, and the loss scale falls."""
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
