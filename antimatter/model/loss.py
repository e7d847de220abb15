"""The training objective, and the same quantity as evaluation sums it: the head's product and the cross-entropy in one, a few rows at a time.

With V = 50,257 the logits of a micro-batch are the largest tensor of all by far. They never exist here: the logits of some rows are made,
their losses and their gradient taken, and forgotten. So the head costs three matrix products and no memory to speak of.
"""

# N tokens, B batch, T time, C channels, V vocabulary, F frequency bins
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from antimatter.model.config import LossConfig
from antimatter.model.gpt import GPT

# Held at once: a CPU's cache, or enough rows to fill a GPU
LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}
ALIGNED = 128  # columns; a GPU multiplies by 50,304 of them faster than by 50,257

Kernel = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def softmax_gradient(
    logits: Tensor, targets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Losses of some rows, (N,) in float32, and the gradient of their weighted sum, (N, V) in the type of the logits. One pass that can be compiled.

    The softmax is taken in float32: in bf16 its sum over V terms keeps three digits only.

    Args:
        logits: (N, V).
        targets: (N, 1).
        weights: (N, 1), or None for 1.
    """
    p = logits.softmax(-1, dtype=torch.float32)
    # The largest p is at least 1 / V: its log is exact
    log_sum = logits.amax(-1, keepdim=True).float() - p.amax(-1, keepdim=True).log()
    losses = log_sum - logits.gather(1, targets).float()
    # A deterministic scatter sorts its indices there; this is one more term of a fused loop
    if p.is_cuda:
        gradient = p - (torch.arange(p.shape[1], device=p.device) == targets)
    else:
        gradient = p.scatter_add_(1, targets, p.new_full(targets.shape, -1.0))
    return losses[:, 0], (gradient if weights is None else gradient.mul_(weights)).to(logits.dtype)


class _HeadAndLoss(torch.autograd.Function):
    """Takes the gradients in forward, where the logits are at hand; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        kernel: Kernel,
    ) -> tuple[Tensor, Tensor]:
        matrix = _aligned(head, hidden.dtype)  # (V', C)
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        for_hidden = torch.empty_like(hidden)
        # float32: a sum over many chunks
        for_matrix = torch.zeros(matrix.shape, dtype=torch.float32, device=hidden.device)
        for rows in _chunks(hidden, head):
            logits = hidden[rows] @ matrix.t()  # (N, V')
            logits[:, len(head) :] = -math.inf  # no token: probability and gradient 0
            losses[rows], gradient = kernel(
                logits, targets[rows, None], None if weights is None else weights[rows, None]
            )
            torch.mm(gradient, matrix, out=for_hidden[rows])
            for_matrix += gradient.t() @ hidden[rows]
        ctx.save_for_backward(for_hidden, for_matrix[: len(head)])
        ctx.mark_non_differentiable(losses)
        return (losses if weights is None else losses * weights).mean(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        for_hidden, for_head = ctx.saved_tensors
        # Only here: 1 / N would underflow in fp16 before it meets the loss scale
        scale = scale / len(for_hidden)
        return for_hidden * scale.to(for_hidden.dtype), for_head * scale, None, None, None


def linear_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    kernel: Kernel = softmax_gradient,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of hidden @ head.T against the targets, in nats, without ever holding the logits.

    Under autocast the products are in its type; softmax, sums and the gradient of `head` are in float32. Held against the plain computation in
    tests/model/test_loss.py. The method is that of Liger Kernel (Hsu et al. 2024), in plain PyTorch.

    Args:
        hidden: final states of the model, (B, T, C).
        head: (V, C).
        targets: (B, T).
        weights: (B, T), what each token counts; None is 1.
        kernel: softmax_gradient, or a compiled form of it.

    Returns:
        The mean of weights x losses, to be differentiated; the losses without weights, (B, T), in float32.
    """
    device = hidden.device.type
    # (N, C)
    rows = hidden.flatten(0, 1).to(
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    )
    if torch.is_grad_enabled():
        mean, losses = _HeadAndLoss.apply(
            rows, head, targets.flatten(), None if weights is None else weights.flatten(), kernel
        )  # type: ignore[no-untyped-call]
        return mean, losses.view_as(targets)
    matrix, flat = head.to(rows.dtype), targets.flatten()
    losses = torch.cat(
        [
            F.cross_entropy((rows[chunk] @ matrix.t()).float(), flat[chunk], reduction="none")
            for chunk in _chunks(rows, head)
        ]
    )
    return (losses if weights is None else losses * weights.flatten()).mean(), losses.view_as(
        targets
    )


def _aligned(head: Tensor, dtype: torch.dtype) -> Tensor:
    """(V, C) in another type, with rows of zeros up to the next multiple of ALIGNED."""
    return F.pad(head.detach().to(dtype), (0, 0, 0, -len(head) % ALIGNED))


def _chunks(hidden: Tensor, head: Tensor) -> list[slice]:
    rows = max(1, LOGITS.get(hidden.device.type, LOGITS["cpu"]) // len(head))
    return [slice(start, start + rows) for start in range(0, len(hidden), rows)]


@torch.no_grad()
def sum_losses(
    model: GPT,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None, Tensor | None]],
    bins: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihoods of all targets by frequency bin, in nats, and how many they are: both (F,) float64 on the CPU.

    The model is in eval mode meanwhile.

    Args:
        batches: inputs, targets, which targets count (those above 0; None: all) and segments (see
            GPT.hidden), (B, T) each, of any sizes.
        bins: (V,), as frequency_bins() gives them; None is one bin for all.
    """
    device, training = model.head.weight.device, model.training
    bins = torch.zeros(model.config.vocab_size, dtype=torch.long) if bins is None else bins
    n_bins = int(bins.max()) + 1
    sums, counts = (
        torch.zeros(n_bins, dtype=torch.float64),
        torch.zeros(n_bins, dtype=torch.float64),
    )
    model.eval()
    for inputs, targets, counted, segments in batches:
        segments = None if segments is None else segments.to(device)
        hidden = model.hidden(inputs.to(device), segments=segments)
        _, losses = linear_cross_entropy(hidden, model.head.weight, targets.to(device))
        which, nats = bins[targets.flatten().cpu()], losses.flatten().cpu().double()
        if counted is not None:
            kept = counted.flatten().cpu() > 0
            which, nats = which[kept], nats[kept]
        sums += torch.bincount(which, nats, n_bins)
        counts += torch.bincount(which, minlength=n_bins)
    model.train(training)
    return sums, counts


def frequency_bins(counts: Tensor) -> Tensor:
    """The bin of each token by how often it occurs, (V,) -> (V,) int64: bin 0 for 0 to 3 times, then each a factor of 4: 4 to 15, 16 to 63, ..."""
    return (counts.double().clamp(min=1).log2() / 2).floor().long()


class RareTokenBalance:
    """Weights for tokens so that rare ones, which are learnt late, count more: bins by frequency, each weighted by the moving average of its loss
    relative to the mean, to a power. The weights follow the training; scaled to average 1 over the corpus, they leave the learning rate its meaning.
    """

    def __init__(self, config: LossConfig, counts: Tensor) -> None:
        """
        Args:
            counts: how often each token occurs in the corpus, (V,).
        """
        self.config = config
        self.bins = frequency_bins(counts)
        # (F,) of the corpus
        self.share = torch.bincount(self.bins, counts.double()) / counts.double().sum()
        self.averages = torch.zeros_like(self.share)  # (F,) of the loss, nats; 0 is none yet

    def weights(self) -> Tensor:
        """Of each token, (V,) float32; 1 for a bin that was not met yet."""
        known = self.averages > 0
        if not known.any():
            return torch.ones(len(self.bins))
        mean = (self.share * self.averages)[known].sum() / self.share[known].sum()
        relative = torch.where(known, self.averages / mean, 1.0)
        weights = (relative**self.config.rare_token_power).clamp(
            1 / self.config.rare_token_limit, self.config.rare_token_limit
        )
        return (weights / (self.share * weights).sum()).float()[self.bins]

    def update(self, sums: Tensor, counts: Tensor) -> None:
        """Takes in the unweighted losses of a step, over all ranks: (F,) sums in nats and (F,) counts."""
        met = counts > 0
        losses = sums / counts.clamp(min=1)
        # The first loss of a bin is its average
        decay = torch.where(self.averages > 0, self.config.rare_token_decay, 0.0)
        self.averages = torch.where(
            met, decay * self.averages + (1 - decay) * losses, self.averages
        )


def perplexity(loss: float) -> float:
    """The exponential of a loss in nats per token; infinity above 709.78, where a float ends. Only
    a model that diverged is there.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
