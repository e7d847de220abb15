"""One optimisation step: the gradient of a batch by micro-batches, its norm, and the update.

Shapes: B sequences, T tokens, F frequency bins, N tokens of a micro-batch (N = B * T).
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

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
    """The model with its loss, as DistributedDataParallel needs the whole computation in one
    forward().
    """

    def __init__(self, model: GPT, compile: bool = False) -> None:
        """Raises UserError if torch.compile has no compiler here."""
        super().__init__()
        if compile and not any(shutil.which(name) for name in ("gcc", "g++", "clang", "clang++")):
            raise UserError(
                "checkpoints.compile is true, but there is no C++ compiler here: install g++, or "
                "set it to false"
            )
        self.model, self.compiled = model, compile
        self.hidden = torch.compile(model.hidden) if compile else model.hidden
        self.kernel = torch.compile(softmax_gradient) if compile else softmax_gradient

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        segments: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The mean of weight times loss, (), and the loss of each target, (B, T).

        On a CPU a target of weight 0 costs neither the head nor most of the last layer, which are
        more than half of a small model's arithmetic; its loss is returned as 0. A GPU would have to
        wait for the number of these targets.

        Args:
            inputs, targets, weights: (B, T).
            segments: (B, T, 2), as in GPT.hidden().
        """
        head = self.model.head.weight
        if weights is None or not _can_skip(weights):
            hidden = self.hidden(inputs, segments=segments)
            return linear_cross_entropy(hidden, head, targets, weights, self.kernel)
        counted = weights > 0  # (B, T)
        # A selection inside of a compiled model would cut its graph in two
        if self.compiled:
            hidden = self.hidden(inputs, segments=segments)[counted]
        else:
            hidden = self.hidden(inputs, segments=segments, selected=counted)
        part = (hidden[None], head, targets[counted][None], weights[counted][None])
        mean, some = linear_cross_entropy(*part, self.kernel)
        losses = torch.zeros(targets.shape).masked_scatter(counted, some)
        return mean * (some.numel() / targets.numel()), losses


def _can_skip(weights: Tensor) -> bool:
    """Whether to skip targets of weight 0: on a CPU, if there are such targets and others."""
    if weights.device.type != "cpu":
        return False
    counted = weights > 0
    return bool(counted.any()) and not bool(counted.all())


@dataclass(frozen=True)
class Gradient:
    """The figures of a batch; the gradient itself is in the parameters."""

    # The mean over the targets in nats, with the weights of the batch but not of the balance, ()
    loss: Tensor
    # Summed by frequency bin, (F,) float64; empty without the balance
    bin_losses: Tensor
    # Targets by frequency bin, (F,) float64
    bin_counts: Tensor


def accumulate_gradients(
    objective: Callable[..., tuple[Tensor, Tensor]],
    batch: Batch,
    micro_batch: int,
    precision: Precision,
    scaler: torch.amp.GradScaler,
    balance: RareTokenBalance | None = None,
) -> Gradient:
    """Adds the gradient of the batch's mean loss to the parameters, micro-batch by micro-batch.

    Never waits for the device.

    Args:
        objective: an Objective, or DistributedDataParallel around one, which averages the gradient
            over the ranks.
        batch: of this rank, on the device.

    Raises:
        UserError: the device has too little memory, or torch.compile does not work here.
    """
    device = batch.inputs.device
    parts = _split(batch, micro_batch)
    token_weights = None if balance is None else balance.weights().to(device)  # (V,)
    bins = None if balance is None else balance.bins.to(device)  # (V,)
    n_bins = 0 if balance is None else len(balance.share)
    total = torch.zeros((), device=device)
    bin_losses = torch.zeros(n_bins, dtype=torch.float64, device=device)
    bin_counts = torch.zeros(n_bins, dtype=torch.float64, device=device)
    for number, (inputs, targets, own, segments) in enumerate(parts, 1):
        weights = own
        if token_weights is not None:
            weights = token_weights[targets] if own is None else token_weights[targets] * own
        with _as_user_errors(inputs), _exchange(objective, is_last=number == len(parts)):
            with autocast(device, precision):
                mean, losses = objective(inputs, targets, weights, segments)
            # backward() adds up, and the result must be the mean over the micro-batches
            scaler.scale(mean / len(parts)).backward()
        total += (losses if own is None else losses * own).mean() / len(parts)
        if bins is not None:
            # As a matrix product, whose sums have a fixed order on a GPU too
            one_hot = nn.functional.one_hot(bins[targets.flatten()], n_bins).double()  # (N, F)
            if own is not None:
                one_hot *= (own.flatten() > 0)[:, None]
            bin_losses += losses.flatten().double() @ one_hot
            bin_counts += one_hot.sum(0)
    return Gradient(total, bin_losses, bin_counts)


def _split(batch: Batch, micro_batch: int) -> list[Batch]:
    """Micro-batches of `micro_batch` sequences."""
    starts = range(0, len(batch.inputs), micro_batch)
    slices = [slice(start, start + micro_batch) for start in starts]
    return [Batch(*(None if part is None else part[rows] for part in batch)) for rows in slices]  # type: ignore[arg-type]


def _exchange(objective: Callable[..., Any], *, is_last: bool) -> AbstractContextManager[None]:
    """Ranks exchange their gradients once, with the last micro-batch."""
    if isinstance(objective, DistributedDataParallel) and not is_last:
        return objective.no_sync()
    return nullcontext()


@contextmanager
def _as_user_errors(inputs: Tensor) -> Iterator[None]:
    """Raises UserError for too little memory and for a compiler that does not work."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"{inputs.device} is out of memory with runtime.micro_batch {len(inputs)}: halve it, "
            "the results stay the same"
        ) from None
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"torch.compile does not work here ({reason}): set checkpoints.compile to false"
        ) from error


def clip(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, limit: float
) -> Tensor:
    """Scales the gradient down to a global norm of at most `limit`; returns the norm before, ()."""
    scaler.unscale_(optimizer)
    return nn.utils.clip_grad_norm_(model.parameters(), limit)


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Updates the weights and drops the gradient.

    A gradient that overflowed in fp16 updates nothing and lowers the loss scale.
    """
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
