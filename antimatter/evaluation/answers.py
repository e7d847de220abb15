"""The answers of a model to many prompts at a time, and the prompt before an answer."""

# B prompts side by side, T time, V vocabulary
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xxhash
from torch import Tensor

from antimatter.chat.template import ROLES, Message, prompt_tokens
from antimatter.data.special_tokens import ASSISTANT, BOS, EOS, PAD, SYSTEM, USER
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import coherence
from antimatter.model.config import Sampling
from antimatter.model.gpt import GPT, KeyValueCache
from antimatter.model.sampling import probabilities

BATCH = 32  # prompts in a forward pass: memory only
NEVER_IN_AN_ANSWER = frozenset((PAD, BOS, USER, ASSISTANT, SYSTEM))


@dataclass(frozen=True)
class Answer:
    text: str
    ids: tuple[int, ...]  # with EOS if it ended by itself

    def has_ended(self) -> bool:
        return self.ids[-1:] == (EOS,)

    def is_looping(self) -> bool:
        """The verdict on samples, and the test for a repeated phrase by itself, since the verdict
        needs more words.
        """
        words = coherence.WORD.findall(self.text.lower())
        return coherence.has_loop(words) or coherence.judge(self.text, frozenset()) == "looping"

    def leaves_role(self) -> bool:
        """Whether the model continues as another role, by its token or by its name."""
        is_named = any(name in self.text for name in ROLES.values())
        return is_named or not NEVER_IN_AN_ANSWER.isdisjoint(self.ids)


@dataclass(frozen=True)
class Prompt:
    ids: tuple[int, ...]  # at least one
    seed: int = 0  # of the draw


def greedy(max_new_tokens: int) -> Sampling:
    return Sampling(temperature=0.0, top_k=1, top_p=1.0, max_new_tokens=max_new_tokens)


def normalised(text: str) -> str:
    """A text to compare: in lower case, with single spaces."""
    return " ".join(text.lower().split())


def with_system(messages: Sequence[Message], system: str) -> list[Message]:
    """The messages after this system text, unless it is empty or they begin with one."""
    has_one = bool(messages) and messages[0].role == "system"
    return [*messages] if has_one or not system else [Message("system", system), *messages]


def prompt_ids(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    context: int,
    answer: int,
) -> tuple[int, ...]:
    """The tokens that a model reads before it answers these messages, less than `context`.

    The oldest turns are left out, as few as make room for an answer. A last turn that fills the
    context by itself loses its beginning.

    Args:
        messages: the last one is a user's, or there is at most a system text.
        answer: tokens that the answer may have.
    """
    system = [message for message in messages[:1] if message.role == "system"]
    turns = list(messages[len(system) :])
    ids = prompt_tokens([*system, *turns], tokenizer)
    while len(ids) > context - answer and len(turns) > 1:
        # A user's turn and its answer together
        turns = turns[2:]
        ids = prompt_tokens([*system, *turns], tokenizer)
    return tuple(ids) if len(ids) < context else (BOS, *ids[-(context // 2) :])


def ask(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Answer]:
    """The answer to each prompt. Each has its own draw: other prompts do not change it.

    An answer ends at the end of the context.

    Args:
        model: in eval mode.
        on_progress: called with the number of answered prompts.
    """
    # Prompts of about the same length have few steps in which only some of them are answered
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        for i, ids in zip(rows, _ask(model, [prompts[i] for i in rows], sampling), strict=True):
            answers[i] = Answer(tokenizer.decode(ids).strip(), tuple(ids))
        on_progress(len(answers))
    return [answers[i] for i in range(len(prompts))]


@torch.no_grad()
def _ask(model: GPT, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[int]]:
    """All rows advance together: the rest of a longer prompt is read while a shorter one is
    answered. So no row needs padding before it.
    """
    weight, context = model.head.weight, model.config.block_size
    lengths = torch.tensor([len(prompt.ids) for prompt in prompts])  # (B,)
    ends = (lengths + sampling.max_new_tokens).clamp(max=context)  # (B,)
    noise = torch.stack([_noise(prompt, context) for prompt in prompts])  # (B, context)
    ids = torch.full((len(prompts), context), PAD)  # (B, context)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)

    cache = KeyValueCache(model.config, len(prompts), like=weight)
    unread = ids[:, : int(lengths.min())]
    done = torch.zeros(len(prompts), dtype=torch.bool)
    for position in range(int(lengths.min()), int(ends.max())):
        logits = model.head(model.hidden(unread.to(weight.device), cache)[:, -1])  # (B, V)
        token = _draw(logits.float().cpu(), sampling, noise[:, position])  # (B,)
        answering = lengths <= position
        ids[answering, position] = token[answering]
        done |= answering & ((token == EOS) | (position + 1 >= ends))
        if done.all():
            break
        unread = ids[:, position : position + 1]

    rows = zip(ids.tolist(), lengths.tolist(), ends.tolist(), strict=True)
    return [_until_end(row[length:end]) for row, length, end in rows]


def _noise(prompt: Prompt, context: int) -> Tensor:
    """Uniform numbers that depend on the prompt and the seed alone, (context,)."""
    seed = xxhash.xxh3_64_intdigest(np.array(prompt.ids, np.int64).tobytes(), prompt.seed)
    return torch.rand(context, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _draw(logits: Tensor, sampling: Sampling, noise: Tensor) -> Tensor:
    """The first token, in order of decreasing probability, at which the summed probabilities exceed
    the noise: (B, V), (B,) -> (B,).
    """
    # On all logits, probabilities() would sort the vocabulary, which takes longer than the model
    top, ids = logits.topk(min(sampling.top_k or logits.shape[-1], logits.shape[-1]))
    sums = probabilities(top, sampling).double().cumsum(-1)
    place = (sums <= noise[:, None] * sums[:, -1:]).sum(-1)
    return ids.gather(1, place[:, None])[:, 0]


def _until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids
