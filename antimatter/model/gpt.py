"""The network: a decoder-only transformer, to be read from top to bottom.

Pre-LayerNorm blocks as in GPT-2 (Radford et al. 2019), learned absolute positions, and a
feed-forward network with Leaky ReLU in place of GELU.

Shapes: B batch, T new tokens, S tokens with the cached ones before them, C channels, H heads,
D channels of a head (C = H * D), N selected positions, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from antimatter.model.config import GPTConfig

# Every matrix and embedding starts as N(0, INIT_STD^2), those that write into the residual stream
# with residual_scale times that deviation
INIT_STD = 0.02
RESIDUAL = ("attn.proj.weight", "ffn.down.weight")
# Up to this many tokens a CPU computes attention faster with the whole (T, S) matrix in memory
# (benchmarks/train_step.py)
SHORT = 512


class KeyValueCache:
    """The keys and values of the tokens that a model has read, for the tokens that follow.

    For one batch, without gradients.
    """

    def __init__(self, config: GPTConfig, batch: int, like: Tensor) -> None:
        """
        Args:
            batch: B, the rows that are read side by side.
            like: a tensor with the device and type of the cache.
        """
        heads, channels = config.n_head, config.n_embd // config.n_head
        # (layers, keys and values, B, H, block_size, D)
        self.buffer = like.new_empty(config.n_layer, 2, batch, heads, config.block_size, channels)
        # Tokens read, the same number in each layer
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the keys and values of the next T tokens, each (B, H, T, D), in one layer.

        Returns:
            Those of all tokens so far, each (B, H, S, D).
        """
        end = self.length + k.shape[2]
        self.buffer[layer, 0, :, :, self.length : end] = k
        self.buffer[layer, 1, :, :, self.length : end] = v
        return self.buffer[layer, 0, :, :, :end], self.buffer[layer, 1, :, :, :end]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout: float,
    blocked: Tensor | None = None,
) -> Tensor:
    """Causal attention, softmax(QKᵀ/√D)V: each token attends to itself and to earlier ones.

    Args:
        q: (B, H, T, D), the last T tokens.
        k, v: (B, H, S, D) with S >= T.
        blocked: (B, T, T) bool, further pairs of a token and one that it must not attend to;
            only with S = T.

    Returns:
        (B, H, T, D).
    """
    B, H, T, D = q.shape
    S = k.shape[2]
    if q.device.type == "cpu" and S <= SHORT and not dropout:
        mask = q.new_full((T, S), -math.inf).triu(S - T + 1)  # (T, S)
        if blocked is not None:
            mask = mask.masked_fill(blocked, -math.inf).repeat_interleave(H, 0)  # (B * H, T, S)
        scores = torch.baddbmm(
            mask.expand(B * H, T, S),
            q.reshape(B * H, T, D),
            k.reshape(B * H, S, D).transpose(1, 2),
            alpha=D**-0.5,
        )  # (B * H, T, S)
        return (scores.softmax(-1) @ v.reshape(B * H, S, D)).view(B, H, T, D)
    if blocked is None and T == S:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
    if blocked is None:
        allowed = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)  # (T, S)
    else:
        allowed = blocked.logical_not().tril()[:, None]  # (B, 1, T, T)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)


class Attention(nn.Module):
    """Multi-head causal self-attention (Vaswani et al. 2017), with one projection for queries, keys
    and values.
    """

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
        blocked: Tensor | None = None,
        selected: Tensor | None = None,
    ) -> Tensor:  # (B, T, C) -> (B, T, C), or (N, C) with `selected`, (B, T) bool
        B, T, C = x.shape
        H, D = self.n_head, C // self.n_head
        q, k, v = self.qkv(x).view(B, T, 3, H, D).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # each (B, H, S, D)
        y = attend(q, k, v, self.dropout if self.training else 0.0, blocked)
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.proj(y if selected is None else y[selected])


class FeedForward(nn.Module):
    """C -> 4 * C -> C with Leaky ReLU."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.negative_slope = config.negative_slope
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        return self.down(F.leaky_relu(self.up(x), self.negative_slope))


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)): the residual path itself has no norm."""

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
        blocked: Tensor | None = None,
        selected: Tensor | None = None,
    ) -> Tensor:  # (B, T, C) -> (B, T, C), or (N, C) with `selected`, (B, T) bool
        y = self.attn(self.attn_norm(x), cache, blocked, selected)
        x = (x if selected is None else x[selected]) + self.dropout(y)
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


def _embedding(rows: int, columns: int) -> nn.Embedding:
    """An embedding without values; GPT draws its own."""
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
        # A model without values: torch would import its compiler, for seconds, to fill none
        if self.norm.weight.is_meta:
            return
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scale = self.config.residual_scale if name.endswith(RESIDUAL) else 1.0
                nn.init.normal_(parameter, mean=0.0, std=scale * INIT_STD, generator=generator)
            # The weights of norms stay at one, as nn.LayerNorm has set them
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def hidden(
        self,
        ids: Tensor,
        cache: KeyValueCache | None = None,
        segments: Tensor | None = None,
        selected: Tensor | None = None,
    ) -> Tensor:
        """The final normalised state of each position, (B, T) -> (B, T, C).

        Args:
            cache: the tokens before these; it contains these as well afterwards.
            segments: (B, T, 2): the number of the text that a token belongs to, and the number of
                the opening that this text continues. For a token of an opening both are equal.
                Each text is then read as if it alone followed its opening: at the positions after
                it, and without attention to other texts. Not together with a cache.
            selected: (B, T) bool. Returns the states of these positions only, (N, C). Behind the
                attention of the last layer no position needs another one, so the rest is skipped.
        """
        start = cache.length if cache is not None else 0
        end = start + ids.shape[1]
        context = self.config.block_size
        assert end <= context, f"{end} tokens exceed the context of {context}"
        positions = torch.arange(start, end, device=ids.device)  # (T,)
        blocked = None
        if segments is not None:
            text, opening = segments.unbind(-1)  # each (B, T)
            other = text[:, None, :]  # (B, 1, T)
            blocked = (text[:, :, None] != other) & (opening[:, :, None] != other)  # (B, T, T)
            positions = positions - blocked.tril().sum(-1)  # (B, T)
        x = self.token_embedding(ids) + self.position_embedding(positions)  # (B, T, C)
        x = self.dropout(x)
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            x = block(x, cache, blocked, selected if layer == last else None)
        if cache is not None:
            cache.length = end
        return self.norm(x)

    def forward(self, ids: Tensor) -> Tensor:  # (B, T) -> (B, T, V)
        return self.head(self.hidden(ids))

    def n_parameters(self) -> int:
        """Trainable values; tied matrices count once."""
        return sum(parameter.numel() for parameter in self.parameters())
