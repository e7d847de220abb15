"""Text from a model, token by token: temperature, top-k and top-p (nucleus, Holtzman et al. 2020), stopping at an end token."""

import torch
from torch import Tensor

from antimatter.model.config import Sampling
from antimatter.model.gpt import GPT, KeyValueCache


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """What the next token is drawn from, (..., V) -> (..., V): temperature first, then top-k, then top-p, as llama.cpp and Hugging Face nest them.

    With temperature 0 all of it lies on the most likely token.
    """
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    ranked, order = (
        (logits / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    )
    if sampling.top_k:
        ranked[..., sampling.top_k :] = 0
    ranked = ranked / ranked.sum(-1, keepdim=True)
    before = ranked.cumsum(-1) - ranked  # the token that crosses top_p still belongs to the set
    ranked[before >= sampling.top_p] = 0
    return torch.zeros_like(logits).scatter_(-1, order, ranked / ranked.sum(-1, keepdim=True))


@torch.no_grad()
def generate(
    model: GPT,
    prompt: list[int],
    samples: int,
    sampling: Sampling,
    end: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """Continuations of a prompt, without the prompt itself; one that ended by itself has `end` as its last token.

    Past the model's context the oldest tokens fall out of sight, and what is left moves to other positions, so each token reads all of it anew.

    Args:
        prompt: token ids, at least one.
        generator: makes the draw reproducible; on the CPU.
    """
    weight, context = model.head.weight, model.config.block_size
    cache = KeyValueCache(model.config, samples, like=weight)
    ids = unread = torch.tensor([prompt] * samples)  # (B, T)
    ended = torch.zeros(samples, dtype=torch.bool)
    for _ in range(sampling.max_new_tokens):
        if cache.length + unread.shape[1] > context:
            cache.length, unread = 0, ids[:, -context:]
        logits = model.head(model.hidden(unread.to(weight.device), cache)[:, -1])  # (B, V)
        unread = token = torch.multinomial(
            probabilities(logits.float().cpu(), sampling), 1, generator=generator
        )
        ids = torch.cat([ids, token], dim=1)
        ended |= token[:, 0] == end
        if ended.all():
            break
    rows = ids[:, len(prompt) :].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]
