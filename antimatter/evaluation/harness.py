"""Our GPT in EleutherAI's lm-evaluation-harness (Gao et al. 2024): answers to the requests of its
tasks, and a run of some tasks.

The only module that imports lm_eval, which is an extra (docs/decisions/0027); no stage imports this
one.
"""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval import evaluator, utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from antimatter.data.special_tokens import BOS, EOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.evaluation import scoring
from antimatter.evaluation.scoring import Window
from antimatter.model.config import Sampling
from antimatter.model.gpt import GPT
from antimatter.model.sampling import generate
from antimatter.text import did_you_mean

STEP = 16  # tokens that are written before the answer is searched for its end
SEED = 1234  # the harness's own, of few-shot examples and of sampling
MAX_TOKENS = 256  # of an answer if the task sets no limit, as in the harness
# Parts of the harness's report
REPORTED = (
    "results",
    "groups",
    "group_subtasks",
    "versions",
    "n-shot",
    "n-samples",
    "higher_is_better",
)


def windows(
    request: int, before: Sequence[int], scored: Sequence[int], block_size: int
) -> Iterator[Window]:
    """Windows that score each token of `scored` once, each with as much before it as the context
    holds.

    More tokens than a context are cut as the harness cuts them (its get_rolling_token_windows):
    whole contexts, and the last one moved back to be whole too.

    Args:
        before: tokens that are only read, at least one; the oldest ones are left out first.
    """
    ids, done = np.array([*before, *scored]), 0
    while done < len(scored):
        count = min(block_size, len(scored) - done)
        done += count
        end = len(before) + done
        part = ids[max(0, end - block_size - 1) : end]
        yield Window(request, part, len(part) - 1 - count)


class Antimatter(LM):  # their name for a model
    """Answers the three kinds of requests. Every text begins with [BOS], as a document of the
    training does, while the context holds it.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, batch_size: int) -> None:
        """
        Args:
            batch_size: windows in a forward pass. Memory and speed only.
        """
        super().__init__()
        if batch_size < 1:
            raise UserError(f"--batch-size must be at least 1, got {batch_size}")
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self._device = model.head.weight.device
        self._generator = torch.Generator().manual_seed(SEED)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """For each (context, continuation): the log-likelihood of the continuation in nats, and
        whether greedy decoding would write it.
        """
        return self.score([self.split(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """For each (text,): its log-likelihood in nats, every token scored once, the first after
        [BOS]. No [EOS] is scored.
        """
        pairs = [([BOS], self.tokenizer.encode(*request.args)) for request in requests]
        return [total for total, _ in self.score(pairs)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """For each (context, settings): the text that the model writes up to [EOS] or one of the
        strings in `until`, which is left out.
        """
        answers = []
        for request in tqdm(requests, "writing", mininterval=_interval(), unit="answer"):
            context, settings = request.args
            answers.append(self._answer(context, *_settings(settings)))
        return answers

    def split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The tokens that are read and those that are scored: together the tokens of the whole
        text, as in training.

        White space at the end of the context belongs to the continuation, as everywhere in the
        harness. A token across the border is scored.
        """
        whole = self.tokenizer.encode(context + continuation)
        alone = self.tokenizer.encode(context.rstrip())
        shared = 0
        while shared < min(len(whole), len(alone)) and whole[shared] == alone[shared]:
            shared += 1
        return [BOS, *whole[:shared]], whole[shared:]

    def score(self, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """The log-likelihood, in nats, of the second tokens of each pair after the first, and
        whether each of them is the likeliest.
        """
        todo: list[Window] = []
        for number, pair in enumerate(pairs):
            todo += windows(number, *pair, self.model.config.block_size)
        # Little padding in a batch, and a lack of memory shows at once
        todo.sort(key=lambda window: -len(window.ids))
        totals, is_greedy = np.zeros(len(pairs)), np.ones(len(pairs), bool)
        bar = tqdm(todo, "reading", mininterval=_interval(), unit="text")
        for scored in scoring.score(self.model, bar, batch_size=self.batch_size, likeliest=True):
            totals -= np.bincount(scored.stream, scored.losses, len(pairs))
            is_greedy[scored.stream[~scored.is_likeliest]] = False
        return list(zip(totals.tolist(), is_greedy.tolist(), strict=True))

    def _answer(self, context: str, sampling: Sampling, until: list[str]) -> str:
        T, written = self.model.config.block_size, list[int]()
        # Shortens the prompt so that an answer fits after it, if it fits at all
        room = max(T - sampling.max_new_tokens, T // 2, 1)
        prompt, text = [BOS, *self.tokenizer.encode(context)][-room:], ""
        while len(written) < sampling.max_new_tokens and EOS not in written:
            step = min(STEP, sampling.max_new_tokens - len(written))
            part = replace(sampling, max_new_tokens=step)
            written += generate(self.model, prompt + written, 1, part, EOS, self._generator)[0]
            text = self.tokenizer.decode(written)
            if ends := [text.index(end) for end in until if end in text]:
                return text[: min(ends)]
        return text


def _settings(generation_kwargs: dict[str, Any]) -> tuple[Sampling, list[str]]:
    """The settings of a task for an answer, and the strings that end it.

    Raises:
        UserError: a setting is not supported and would change the answer.
    """
    settings = dict(normalize_gen_kwargs(generation_kwargs, MAX_TOKENS))
    until, is_sampled = settings.pop("until"), settings.pop("do_sample")
    max_new_tokens = settings.pop("max_gen_toks")
    temperature = settings.pop("temperature", 1.0)
    top_k, top_p = settings.pop("top_k", 0), settings.pop("top_p", 1.0)
    if settings:
        raise UserError(
            f"the task sets {', '.join(settings)} under generation_kwargs, which is not supported "
            "here: remove it from its YAML"
        )
    sampling = Sampling(
        temperature=temperature if is_sampled else 0.0,
        top_k=top_k,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
    )
    return sampling, [end for end in until if end]


def run(
    lm: Antimatter,
    names: Sequence[str],
    *,
    include_path: Path | None = None,
    num_fewshot: int | None = None,
    limit: float | None = None,
) -> dict[str, Any]:
    """The results of some tasks, as the harness reports them.

    Args:
        names: of tasks, groups or tags, or paths of YAML files.
        include_path: a folder with YAML files of further tasks.
        num_fewshot: examples before each question; a task that sets 0 itself stays at 0.
        limit: documents of each task, or below 1 a share of them; None is all.

    Raises:
        UserError: a task does not exist, cannot be read, or its data cannot be downloaded.
    """
    if limit is not None and limit <= 0:
        raise UserError(f"--limit must exceed 0, got {limit:g}")
    if num_fewshot is not None and num_fewshot < 0:
        raise UserError(f"--num-fewshot must not be negative, got {num_fewshot}")
    loaded = _load(names, include_path)
    for task in loaded["tasks"].values():
        shots = task.get_config("num_fewshot")
        is_own = num_fewshot is None or shots == 0
        task.set_config("num_fewshot", (shots or 0) if is_own else num_fewshot)
        task.set_fewshot_seed(SEED)
    documents = int(limit) if limit and limit >= 1 else limit
    report = evaluator.evaluate(lm, loaded, limit=documents, log_samples=False)
    # Converts numpy's numbers to Python's without rounding
    plain = json.loads(json.dumps(report, default=utils.handle_non_serializable))
    return {name: plain[name] for name in REPORTED if name in plain}


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    parts = [part for part in ("results", "groups") if part in results]
    return "\n".join(utils.make_table(results, part) for part in parts)


def _load(names: Sequence[str], include_path: Path | None) -> dict[str, Any]:
    if include_path is not None and not include_path.is_dir():
        raise UserError(
            f"--include-path {include_path} is not a folder: name one with the YAML files of tasks"
        )
    # It would report each of its retries
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    manager = TaskManager(include_path=include_path, include_defaults=False)
    if _missing(names, manager):
        manager = TaskManager(include_path=include_path)  # reads 10,000 files, which takes seconds
    for name in _missing(names, manager):
        hint = did_you_mean(name, manager.all_tasks)
        fix = "`lm-eval ls tasks` lists the harness's own, --include-path adds yours"
        raise UserError(f"there is no task {name!r}{hint}: {fix}")
    try:
        loaded: dict[str, Any] = manager.load(list(names))
    except ConnectionError as error:
        raise UserError(
            f"{_one_line(error)}: without a network only tasks with local data work "
            "(docs/lm-eval.md)"
        ) from error
    # A task is the code and the data of other people, which may raise anything
    except Exception as error:
        fault = f"{type(error).__name__}: {_one_line(error)}"
        raise UserError(f"the tasks {', '.join(names)} cannot be loaded: {fault}") from error
    return loaded


def _missing(names: Sequence[str], manager: TaskManager) -> list[str]:
    return [name for name in names if name not in manager.all_tasks and not Path(name).is_file()]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _interval() -> float:
    """Seconds between two updates of the progress: short on a terminal, long in a log."""
    return 0.2 if sys.stderr.isatty() else 10.0
