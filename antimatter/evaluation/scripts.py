"""Conversations with fixed turns of the user, and the answers of a model to one after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from antimatter.chat.template import Message
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import prompt_files
from antimatter.evaluation.answers import Answer, Prompt, ask, prompt_ids, with_system
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
        UserError: the file is missing or holds no turn.
    """
    fix = "write one turn a line under `# name` headings"
    entries = prompt_files.read(path, "prompts", fix)
    by_name = groupby(entries, key=lambda entry: entry.heading)
    return [Script(name, tuple(entry.text for entry in own)) for name, own in by_name]


def talk(
    model: GPT,
    tokenizer: Tokenizer,
    scripts: Sequence[Script],
    config: AnswersConfig,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Transcript]:
    """A transcript of each script with each seed. The model reads its own answers before the next
    turn.

    Args:
        model: in eval mode.
        on_progress: called with the number of answers.
    """
    context = model.config.block_size
    keys = [(script, seed) for script in scripts for seed in config.seeds]
    answers: dict[tuple[Script, int], list[Answer]] = {key: [] for key in keys}
    done = 0
    # All scripts advance by a turn at a time, so that their prompts share a batch
    for number in range(max((len(script.turns) for script in scripts), default=0)):
        unfinished = [key for key in answers if number < len(key[0].turns)]
        prompts = []
        for script, seed in unfinished:
            messages = with_system(_messages(script, answers[script, seed]), config.system)
            ids = prompt_ids(messages, tokenizer, context, config.max_new_tokens)
            prompts.append(Prompt(ids, seed))
        for key, answer in zip(unfinished, ask(model, tokenizer, prompts, config), strict=True):
            answers[key].append(answer)
        done += len(prompts)
        on_progress(done)
    return [Transcript(*key, tuple(given)) for key, given in answers.items()]


def _messages(script: Script, answers: Sequence[Answer]) -> list[Message]:
    """The conversation so far, and the user's next turn."""
    messages = []
    for turn, answer in zip(script.turns, answers, strict=False):
        messages += [Message("user", turn), Message("assistant", answer.text)]
    return [*messages, Message("user", script.turns[len(answers)])]
