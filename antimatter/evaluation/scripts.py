"""Conversations whose user's side is fixed: what a model answers to one turn after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from antimatter.chat.template import Message
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation.answers import Answer, Asked, ask, readable, with_system
from antimatter.evaluation.coherence import read_prompts
from antimatter.evaluation.config import AnswersConfig
from antimatter.model.gpt import GPT


@dataclass(frozen=True)
class Script:
    name: str
    turns: tuple[str, ...]  # the user's


@dataclass(frozen=True)
class Transcript:
    script: Script
    seed: int
    answers: tuple[Answer, ...]  # one for each turn


def read(path: Path) -> list[Script]:
    """The scripts of a file: a user's turns, one a line, under a `# name` heading for each.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or no turn in it.
    """
    by_name = groupby(read_prompts(path), key=lambda pair: pair[0])
    return [Script(name, tuple(turn for _, turn in pairs)) for name, pairs in by_name]


def talk(
    model: GPT,
    tokenizer: Tokenizer,
    scripts: Sequence[Script],
    config: AnswersConfig,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Transcript]:
    """Each script with each seed. The model reads its own answers before the next turn.

    Args:
        model: in eval mode.
        progress: called with the number of answers.
    """
    context = model.config.block_size
    keys = [(script, seed) for script in scripts for seed in config.seeds]
    spoken: dict[tuple[Script, int], list[Answer]] = {key: [] for key in keys}
    done = 0
    for number in range(max((len(script.turns) for script in scripts), default=0)):
        going_on = [key for key in spoken if number < len(key[0].turns)]
        asked = []
        for script, seed in going_on:
            messages = with_system(_messages(script, spoken[script, seed]), config.system)
            prompt = readable(messages, tokenizer, context, config.max_new_tokens)
            asked.append(Asked(prompt, seed))
        for key, answer in zip(going_on, ask(model, tokenizer, asked, config), strict=True):
            spoken[key].append(answer)
        done += len(asked)
        progress(done)
    return [Transcript(*key, tuple(answers)) for key, answers in spoken.items()]


def _messages(script: Script, answers: Sequence[Answer]) -> list[Message]:
    """What was said so far, and the user's next turn."""
    messages = []
    for turn, answer in zip(script.turns, answers, strict=False):
        messages += [Message("user", turn), Message("assistant", answer.text)]
    return [*messages, Message("user", script.turns[len(answers)])]
