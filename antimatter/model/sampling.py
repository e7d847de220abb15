"""Generates text token by token: temperature, top-k and top-p (nucleus sampling, Holtzman et al.
2020).

Shapes: B samples side by side, T tokens, V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from antimatter.model.config import Sampling
from antimatter.model.gpt import GPT, KeyValueCache


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """The distribution of the next token, (..., V) -> (..., V).

    The order is that of llama.cpp and Hugging Face: temperature, then top-k, then top-p. With
    temperature 0 the most likely token has probability 1.
    """
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    ranked, order = (
        (logits / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    )
    if sampling.top_k:
        ranked[..., sampling.top_k :] = 0
    ranked = ranked / ranked.sum(-1, keepdim=True)
    # The token that crosses top_p still belongs to the set, so compare the sum before each token
    before = ranked.cumsum(-1) - ranked
    ranked[before >= sampling.top_p] = 0
    return torch.zeros_like(logits).scatter_(-1, order, ranked / ranked.sum(-1, keepdim=True))


@torch.no_grad()
def steps(
    model: GPT,
    prompt: list[int],
    samples: int,
    sampling: Sampling,
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Continues a prompt by sampling.max_new_tokens tokens, one at a time.

    Beyond the model's context each token is computed from the latest `block_size` tokens. These
    have other positions at every step, so they are read again and the cache does not help.

    Args:
        prompt: token ids, at least one.
        samples: B.
        generator: of the draws, on the CPU.

    Yields:
        The next token of each sample, (B,), on the CPU.
    """
    weight, context = model.head.weight, model.config.block_size
    cache = KeyValueCache(model.config, samples, like=weight)
    ids = unread = torch.tensor([prompt] * samples)  # (B, T)
    for _ in range(sampling.max_new_tokens):
        if cache.length + unread.shape[1] > context:
            cache.length, unread = 0, ids[:, -context:]
        logits = model.head(model.hidden(unread.to(weight.device), cache)[:, -1])  # (B, V)
        unread = token = torch.multinomial(
            probabilities(logits.float().cpu(), sampling), 1, generator=generator
        )
        ids = torch.cat([ids, token], dim=1)
        yield token[:, 0]


def generate(
    model: GPT,
    prompt: list[int],
    samples: int,
    sampling: Sampling,
    end: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """As steps(), until each sample has ended.

    Args:
        end: the token that ends a sample; -1 for none.

    Returns:
        The new token ids of each sample. One that ended by itself has `end` as its last token.
    """
    drawn, ended = [], torch.zeros(samples, dtype=torch.bool)
    for token in steps(model, prompt, samples, sampling, generator):
        drawn.append(token)
        ended |= token == end
        if ended.all():
            break
    rows = torch.stack(drawn, dim=1).tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]
