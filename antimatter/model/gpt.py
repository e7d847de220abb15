"""The network: a decoder-only transformer, read from top to bottom.

Pre-LayerNorm blocks (Radford et al. 2019, GPT-2), learned absolute positions, and a feed-forward network with Leaky ReLU in place of GELU.
"""

# B batch, T time, S time with the cached tokens before it, C channels, H heads, D channels per
# head, V vocabulary
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from antimatter.model.config import GPTConfig

# Of every weight matrix and embedding: the seed document's N(0, 0.02). GPT-2 divides that of the
# projections into the residual stream by the square root of their number; here all have the same
INIT_STD = 0.02
# Tokens; up to here a CPU computes attention faster with its whole (T, S) matrix in memory
# (benchmarks/train_step.py)
SHORT = 512


class KeyValueCache:
    """The keys and values of the tokens that a model has read, so that the next ones need not read them again. For one batch, without gradients."""

    def __init__(self, config: GPTConfig, batch: int, like: Tensor) -> None:
        """
        Args:
            batch: B, rows that are read side by side.
            like: a tensor of the device and type to keep them in.
        """
        self.kept = like.new_empty(
            config.n_layer,
            2,
            batch,
            config.n_head,
            config.block_size,
            config.n_embd // config.n_head,
        )
        self.length = 0  # tokens read, the same in each layer

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the keys and values of the T next tokens, (B, H, T, D) each, and gives those of all so far, (B, H, S, D)."""
        end = self.length + k.shape[2]
        self.kept[layer, 0, :, :, self.length : end] = k
        self.kept[layer, 1, :, :, self.length : end] = v
        return self.kept[layer, 0, :, :, :end], self.kept[layer, 1, :, :, :end]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout: float,
    apart: Tensor | None = None,
) -> Tensor:
    """Causal attention: softmax(QKᵀ/√D)V, where token i of the T last ones sees itself and what stands before it.

    Args:
        q: (B, H, T, D).
        k, v: (B, H, S, D) with S >= T.
        apart: (B, T, T), which tokens do not see which, besides those that come later; with S = T.

    Returns:
        (B, H, T, D).
    """
    T, S = q.shape[2], k.shape[2]
    if q.device.type == "cpu" and S <= SHORT and not dropout:
        (B, H, _, D), mask = q.shape, q.new_full((T, S), -math.inf).triu(S - T + 1)
        if apart is not None:
            # (B * H, T, S)
            mask = mask.masked_fill(apart, -math.inf).repeat_interleave(H, 0)
        scores = torch.baddbmm(
            mask.expand(B * H, T, S),
            q.reshape(B * H, T, D),
            k.reshape(B * H, S, D).transpose(1, 2),
            alpha=D**-0.5,
        )
        return (scores.softmax(-1) @ v.reshape(B * H, S, D)).view(B, H, T, D)
    if apart is not None:
        seen = apart.logical_not().tril()[:, None]  # (B, 1, T, T)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
    if T == S:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T),
        dropout_p=dropout,
    )


class Attention(nn.Module):
    """Multi-head causal self-attention (Vaswani et al. 2017) with one fused projection for queries, keys and values."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(
        self,
        x: Tensor,
        cache: KeyValueCache | None = None,
        apart: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:  # (B, T, C) -> (B, T, C), or (N, C) of the tokens that are wanted
        B, T, C = x.shape
        # Each (B, H, T, D)
        q, k, v = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # each (B, H, S, D)
        y = attend(q, k, v, self.dropout if self.training else 0.0, apart)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.proj(y if wanted is None else y[wanted])


class FeedForward(nn.Module):
    """C -> 4C -> C with Leaky ReLU."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.negative_slope = config.negative_slope
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        return self.down(F.leaky_relu(self.up(x), self.negative_slope))


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)): the residual path itself is never normalised."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attn_norm = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config, layer)
        self.ffn_norm = nn.LayerNorm(config.n_embd)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        cache: KeyValueCache | None = None,
        apart: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:  # (B, T, C) -> (B, T, C), or (N, C) of the tokens that are wanted
        y = self.attn(self.attn_norm(x), cache, apart, wanted)
        x = (x if wanted is None else x[wanted]) + self.dropout(y)
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


def _embedding(rows: int, columns: int) -> nn.Embedding:
    """Without the values that torch would draw; GPT draws its own."""
    return nn.Embedding.from_pretrained(torch.empty(rows, columns), freeze=False)


class GPT(nn.Module):
    """Token ids to logits. The weights are a function of `config.seed` alone."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = _embedding(config.vocab_size, config.n_embd)
        self.position_embedding = _embedding(config.block_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.head.weight = self.token_embedding.weight
        self._initialise(torch.Generator().manual_seed(config.seed))

    def _initialise(self, generator: torch.Generator) -> None:
        if self.norm.weight.is_meta:
            return  # there are no values; to fill none torch would import its compiler, for seconds
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, mean=0.0, std=INIT_STD, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)  # norm weights stay at one, where nn.LayerNorm puts them

    def hidden(
        self,
        ids: Tensor,
        cache: KeyValueCache | None = None,
        segments: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """The final normalised state of each position, (B, T) -> (B, T, C).

        Args:
            cache: what was read before these tokens; it has read them too afterwards.
            segments: (B, T, 2), the number of the text that a token belongs to, and that of the
                opening which the text goes on from; an opening's own two are equal. Each text is
                then read as if it stood alone after its opening: at the positions that follow it,
                and without a look at other texts. Not with a cache.
            wanted: (B, T) bool; then only the states of these positions are made, (N, C). The last
                layer, where no other position is looked at any more, spares the rest.
        """
        start = cache.length if cache is not None else 0
        end = start + ids.shape[1]
        assert self.config.block_size >= end, (
            f"{end} tokens exceed the context of {self.config.block_size}"
        )
        positions = torch.arange(start, end, device=ids.device)
        apart = None
        if segments is not None:
            text, opening = segments.unbind(-1)  # (B, T) each
            seen = text[:, None, :]
            apart = (text[:, :, None] != seen) & (opening[:, :, None] != seen)  # (B, T, T)
            positions = positions - apart.tril().sum(-1)  # (B, T)
        x = self.dropout(self.token_embedding(ids) + self.position_embedding(positions))
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            x = block(x, cache, apart, wanted if layer == last else None)
        if cache is not None:
            cache.length = end
        return self.norm(x)

    def forward(self, ids: Tensor) -> Tensor:  # (B, T) -> (B, T, V)
        return self.head(self.hidden(ids))

    def n_parameters(self) -> int:
        """Trainable values; tied matrices count once."""
        return sum(parameter.numel() for parameter in self.parameters())
