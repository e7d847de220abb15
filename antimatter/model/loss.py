"""The training objective, which evaluation sums too: the product with the head and the
cross-entropy in one, a chunk of rows at a time.

With V = 50,257 the logits of a micro-batch would be by far the largest tensor of all. They never
exist as a whole: each chunk of logits gives its losses and its gradient and is freed. So the head
costs three matrix products and little memory.

Shapes: N tokens, B batch, T time, C channels, V vocabulary, F frequency bins.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from antimatter.model.config import LossConfig
from antimatter.model.gpt import GPT

# Logits in memory at once: as many as a CPU's cache holds, or enough rows to keep a GPU busy
LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}
# Logits of which a CPU computes losses and gradient at once: their float32 values, 1 MB, are what
# the cache of a core holds
BLOCK = 1 << 18
# The head is padded to a multiple of it: a GPU multiplies by 50,304 columns faster than by 50,257
ALIGNED = 128

Kernel = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def softmax_gradient(
    logits: Tensor, targets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The losses of some rows, and the gradient of their weighted sum. torch.compile can fuse it.

    Args:
        logits: (N, V).
        targets: (N, 1).
        weights: (N, 1), or None for 1.

    Returns:
        Losses, (N,) float32, and the gradient, (N, V) in the type of the logits; on a CPU in their
        place.
    """
    if not logits.is_cuda:
        return _softmax_gradient_by_blocks(logits, targets, weights)
    # In bf16 the sum over V terms would keep three digits only
    p = logits.softmax(-1, dtype=torch.float32)
    largest, largest_p = logits.amax(-1, keepdim=True), p.amax(-1, keepdim=True)
    losses = _losses(largest, largest_p, logits.gather(1, targets))
    # A deterministic scatter sorts its indices; a comparison is one more fused operation
    gradient = p - (torch.arange(p.shape[1], device=p.device) == targets)
    return losses, (gradient if weights is None else gradient.mul_(weights)).to(logits.dtype)


def _softmax_gradient_by_blocks(
    logits: Tensor, targets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same, a block of rows at a time. All blocks use one buffer, which stays in the cache."""
    target_logits = logits.gather(1, targets)
    minus_one = torch.full(targets.shape, -1.0, device=logits.device)
    rows = max(1, BLOCK // logits.shape[1])
    buffer = torch.empty(rows, logits.shape[1], device=logits.device)
    largest, largest_p = torch.empty(2, len(logits), 1, device=logits.device)
    for start in range(0, len(logits), rows):
        here = slice(start, start + rows)
        p = buffer[: len(logits) - start].copy_(logits[here])
        torch.amax(p, -1, keepdim=True, out=largest[here])
        torch.softmax(p, -1, out=p)
        torch.amax(p, -1, keepdim=True, out=largest_p[here])
        p.scatter_add_(1, targets[here], minus_one[here])
        logits[here] = p if weights is None else p.mul_(weights[here])
    return _losses(largest, largest_p, target_logits), logits


def _losses(largest: Tensor, largest_p: Tensor, of_targets: Tensor) -> Tensor:
    """Of logits, their softmax and those of the targets, each (N, 1) -> (N,)."""
    # log(sum(exp(logits))) by way of the largest p: it is at least 1 / V, so its log is exact
    log_sum = largest.float() - largest_p.log()
    return (log_sum - of_targets.float())[:, 0]


class _HeadAndLoss(torch.autograd.Function):
    """Computes the gradients in forward, while the logits exist; backward only scales them."""

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
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)  # (N,)
        hidden_gradient = torch.empty_like(hidden)  # (N, C)
        # In float32, as it is a sum over many chunks
        matrix_gradient = torch.zeros(matrix.shape, dtype=torch.float32, device=hidden.device)
        for rows in _chunks(hidden, head):
            logits = hidden[rows] @ matrix.t()  # (rows, V')
            # The padding is no token: probability and gradient 0
            logits[:, len(head) :] = -math.inf
            chunk_weights = None if weights is None else weights[rows, None]
            losses[rows], gradient = kernel(logits, targets[rows, None], chunk_weights)
            torch.mm(gradient, matrix, out=hidden_gradient[rows])
            matrix_gradient += gradient.t() @ hidden[rows]
        ctx.save_for_backward(hidden_gradient, matrix_gradient[: len(head)])
        ctx.mark_non_differentiable(losses)
        return (losses if weights is None else losses * weights).mean(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, head_gradient = ctx.saved_tensors
        # The mean is taken here: in forward, without the loss scale, 1 / N would underflow in fp16
        scale = scale / len(hidden_gradient)
        scaled = hidden_gradient * scale.to(hidden_gradient.dtype)
        return scaled, head_gradient * scale, None, None, None


def linear_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    kernel: Kernel = softmax_gradient,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of hidden @ head.T against the targets, in nats, without all logits in memory.

    Under autocast the products have its type; softmax, sums and the gradient of `head` are in
    float32. The method is that of Liger Kernel (Hsu et al. 2024), in plain PyTorch.
    tests/model/test_loss.py compares it with the plain computation.

    Args:
        hidden: final states of the model, (B, T, C).
        head: (V, C).
        targets: (B, T).
        weights: (B, T), the weight of each token; None is 1.
        kernel: softmax_gradient, or a compiled form of it.

    Returns:
        The mean of weights times losses, (), which has a gradient; and the losses without weights,
        (B, T) float32.
    """
    device, dtype = hidden.device.type, hidden.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    rows, flat = hidden.flatten(0, 1).to(dtype), targets.flatten()  # (N, C), (N,)
    flat_weights = None if weights is None else weights.flatten()  # (N,)
    if torch.is_grad_enabled():
        mean, losses = _HeadAndLoss.apply(rows, head, flat, flat_weights, kernel)  # type: ignore[no-untyped-call]
        return mean, losses.view_as(targets)
    matrix = head.to(dtype)
    parts = [
        F.cross_entropy((rows[chunk] @ matrix.t()).float(), flat[chunk], reduction="none")
        for chunk in _chunks(rows, head)
    ]
    losses = torch.cat(parts)  # (N,)
    mean = (losses if flat_weights is None else losses * flat_weights).mean()
    return mean, losses.view_as(targets)


def _aligned(head: Tensor, dtype: torch.dtype) -> Tensor:
    """(V, C) in another type, with zeros for further rows up to a multiple of ALIGNED, (V', C)."""
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
    """The loss of all targets by frequency bin, with the model in eval mode.

    Args:
        batches: of any sizes: inputs and targets, (B, T) each; weights, (B, T), where a target
            counts if it is above 0 (None: all count); segments as in GPT.hidden, (B, T, 2) or None.
        bins: the bin of each token, (V,), as frequency_bins() returns them; None is one bin.

    Returns:
        Summed negative log-likelihoods in nats, and the number of targets: each (F,) float64 on the
        CPU.
    """
    device, training = model.head.weight.device, model.training
    bins = torch.zeros(model.config.vocab_size, dtype=torch.long) if bins is None else bins
    n_bins = int(bins.max()) + 1
    sums = torch.zeros(n_bins, dtype=torch.float64)
    counts = torch.zeros(n_bins, dtype=torch.float64)
    model.eval()
    for inputs, targets, weights, segments in batches:
        segments = None if segments is None else segments.to(device)
        hidden = model.hidden(inputs.to(device), segments=segments)
        _, losses = linear_cross_entropy(hidden, model.head.weight, targets.to(device))
        target_bins, nats = bins[targets.flatten().cpu()], losses.flatten().cpu().double()  # (N,)
        if weights is not None:
            counted = weights.flatten().cpu() > 0
            target_bins, nats = target_bins[counted], nats[counted]
        sums += torch.bincount(target_bins, nats, n_bins)
        counts += torch.bincount(target_bins, minlength=n_bins)
    model.train(training)
    return sums, counts


def frequency_bins(counts: Tensor) -> Tensor:
    """The bin of each token by its number of occurrences, (V,) -> (V,) int64.

    Bin 0 is 0 to 3 occurrences, and each further bin a factor of 4: 4 to 15, 16 to 63, ...
    """
    return (counts.double().clamp(min=1).log2() / 2).floor().long()


class RareTokenBalance:
    """Larger weights for rare tokens, which a model learns late.

    Tokens are binned by frequency. The weight of a bin is the moving average of its loss relative
    to the mean, to a power, so it follows the training. Weights are scaled to average 1 over the
    corpus, so that the learning rate keeps its meaning.
    """

    def __init__(self, config: LossConfig, counts: Tensor) -> None:
        """
        Args:
            counts: occurrences of each token in the corpus, (V,).
        """
        self.config = config
        self.bins = frequency_bins(counts)  # (V,)
        # The share of each bin in the corpus, (F,)
        self.share = torch.bincount(self.bins, counts.double()) / counts.double().sum()
        # Of the loss of each bin in nats, (F,); 0 before its first token
        self.averages = torch.zeros_like(self.share)

    def weights(self) -> Tensor:
        """The weight of each token, (V,) float32. A bin without losses so far counts as average."""
        has_average = self.averages > 0
        if not has_average.any():
            return torch.ones(len(self.bins))
        mean = (self.share * self.averages)[has_average].sum() / self.share[has_average].sum()
        relative = torch.where(has_average, self.averages / mean, 1.0)  # (F,)
        limit = self.config.rare_token_limit
        weights = (relative**self.config.rare_token_power).clamp(1 / limit, limit)
        return (weights / (self.share * weights).sum()).float()[self.bins]

    def update(self, sums: Tensor, counts: Tensor) -> None:
        """Adds a step to the averages.

        Args:
            sums: unweighted losses by bin over all ranks, in nats, (F,).
            counts: the number of targets by bin, (F,).
        """
        losses = sums / counts.clamp(min=1)
        # The first loss of a bin is its average
        decay = torch.where(self.averages > 0, self.config.rare_token_decay, 0.0)
        averages = decay * self.averages + (1 - decay) * losses
        self.averages = torch.where(counts > 0, averages, self.averages)


def perplexity(loss: float) -> float:
    """The exponential of a loss in nats per token.

    Above 709.78, the range of a float, it is infinity; only a model that diverged has such a loss.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
