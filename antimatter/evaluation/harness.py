"""Our GPT in EleutherAI's lm-evaluation-harness (Gao et al. 2024): what its tasks ask of a model, and a run of some tasks.

The only module that imports lm_eval, which is an extra (docs/decisions/0027); no stage imports this one.
"""

# B batch, T time, C channels, V vocabulary, N scored tokens
import difflib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lm_eval import evaluator, utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from torch.nn import functional as F
from tqdm import tqdm

from antimatter.data.special_tokens import BOS, EOS, PAD
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.model.config import Sampling
from antimatter.model.gpt import GPT
from antimatter.model.sampling import generate

ROWS = 256  # of logits held at once: 50 MB at a vocabulary of 50,257
STEP = 16  # tokens that are written before the answer is searched for its end
SEED = 1234  # the harness's own, of few-shot examples and of sampling
MAX_TOKENS = 256  # of an answer when the task does not say, as in the harness
# Of what the harness reports
KEPT = (
    "results",
    "groups",
    "group_subtasks",
    "versions",
    "n-shot",
    "n-samples",
    "higher_is_better",
)


@dataclass(frozen=True)
class Window:
    """Tokens of which the model reads all but the last, and of which the last `scored` are judged."""

    request: int  # whose they are
    ids: list[int]  # at most T + 1
    scored: int


def windows(
    request: int, before: Sequence[int], scored: Sequence[int], block_size: int
) -> Iterator[Window]:
    """Windows that judge each token of `scored` once, each with as much before it as the context holds.

    More than a context of them are cut as the harness cuts (its get_rolling_token_windows): whole contexts, and the last moved back to be whole too.

    Args:
        before: what is only read, at least one token; its oldest tokens fall out first.
    """
    ids, done = [*before, *scored], 0
    while done < len(scored):
        count = min(block_size, len(scored) - done)
        done += count
        end = len(before) + done
        yield Window(request, ids[max(0, end - block_size - 1) : end], count)


class Antimatter(LM):  # their name for a model
    """Answers the three kinds of requests. Every text begins with [BOS], as a document of the training does, while the context holds it."""

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
        """Of each (context, continuation): the continuation's log-likelihood in nats, and whether greedy decoding would write it."""
        return self._score([self._pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Of each (text,): its log-likelihood in nats, every token scored once, the first after [BOS]. No [EOS] is scored."""
        return [
            total
            for total, _ in self._score(
                [([BOS], self.tokenizer.encode(*request.args)) for request in requests]
            )
        ]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Of each (context, settings): what the model writes until one of the strings in `until`, which is left out, or [EOS]."""
        bar = tqdm(requests, "writing", mininterval=_interval(), unit="answer")
        return [
            self._answer(context, *_settings(settings))
            for context, settings in (request.args for request in bar)
        ]

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The tokens that are read and those that are scored. Together they are those of the whole text, as the model met it in training.

        Space at the end of the context counts as the continuation's, as everywhere in the harness. A token that lies across the border is scored.
        """
        whole = self.tokenizer.encode(context + continuation)
        alone = self.tokenizer.encode(context.rstrip())
        shared = next(
            (i for i, (a, b) in enumerate(zip(whole, alone, strict=False)) if a != b),
            min(len(whole), len(alone)),
        )
        return [BOS, *whole[:shared]], whole[shared:]

    @torch.inference_mode()
    def _score(self, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        totals, greedy = (
            torch.zeros(len(pairs), dtype=torch.float64),
            torch.ones(len(pairs), dtype=torch.bool),
        )
        todo = [
            window
            for i, pair in enumerate(pairs)
            for window in windows(i, *pair, self.model.config.block_size)
        ]
        # Little padding in a batch, and memory that is too short shows at once
        todo.sort(key=lambda window: -len(window.ids))
        with tqdm(total=len(todo), desc="reading", mininterval=_interval(), unit="text") as bar:
            for start in range(0, len(todo), self.batch_size):
                batch = todo[start : start + self.batch_size]
                losses, likeliest, rows = self._losses(batch)
                which = torch.tensor([window.request for window in batch])[rows]  # (N,)
                totals.index_add_(0, which, -losses)
                greedy[which[~likeliest]] = False
                bar.update(len(batch))
        return list(zip(totals.tolist(), greedy.tolist(), strict=True))

    def _losses(self, batch: list[Window]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each scored token: its loss in nats, float64, whether it is the likeliest, and its row in the batch; (N,) each, on the CPU."""
        width = max(len(window.ids) for window in batch) - 1
        # (B, T)
        inputs, targets = torch.full((len(batch), width), PAD), torch.full((len(batch), width), -1)
        for row, window in enumerate(batch):
            end = len(window.ids) - 1
            # Padding comes after them, so no token sees it
            inputs[row, :end] = torch.tensor(window.ids[:-1])
            targets[row, end - window.scored : end] = torch.tensor(window.ids[-window.scored :])
        scored = targets >= 0
        states = self.model.hidden(inputs.to(self.device))[scored.to(self.device)]  # (N, C)
        losses, likeliest = [], []
        for part, wanted in zip(
            states.split(ROWS), targets[scored].to(self.device).split(ROWS), strict=True
        ):
            logits = self.model.head(part).float()  # (ROWS, V)
            losses.append(F.cross_entropy(logits, wanted, reduction="none").double().cpu())
            likeliest.append((logits.argmax(-1) == wanted).cpu())
        return torch.cat(losses), torch.cat(likeliest), scored.nonzero()[:, 0]

    def _answer(self, context: str, sampling: Sampling, until: list[str]) -> str:
        T, written = self.model.config.block_size, list[int]()
        # For the prompt: so that an answer fits behind it, if it fits at all
        room = max(T - sampling.max_new_tokens, T // 2, 1)
        prompt, text = [BOS, *self.tokenizer.encode(context)][-room:], ""
        while len(written) < sampling.max_new_tokens and EOS not in written:
            part = replace(
                sampling, max_new_tokens=min(STEP, sampling.max_new_tokens - len(written))
            )
            written += generate(self.model, prompt + written, 1, part, EOS, self._generator)[0]
            text = self.tokenizer.decode(written)
            if ends := [text.index(end) for end in until if end in text]:
                return text[: min(ends)]
        return text


def _settings(given: dict[str, Any]) -> tuple[Sampling, list[str]]:
    """What a task asks of an answer, and the strings that end it.

    Raises:
        ValueError: it asks for what would change the answer and is not built.
    """
    settings = dict(normalize_gen_kwargs(given, MAX_TOKENS))
    until, drawn, most = (
        settings.pop("until"),
        settings.pop("do_sample"),
        settings.pop("max_gen_toks"),
    )
    temperature, top_k, top_p = (
        settings.pop(name, default)
        for name, default in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0))
    )
    if settings:
        raise UserError(
            f"the task asks for {', '.join(settings)} under generation_kwargs, which is not built here: remove it from its YAML"
        )
    greedy = not drawn or temperature == 0
    sampling = Sampling(
        temperature=0.0 if greedy else temperature, top_k=top_k, top_p=top_p, max_new_tokens=most
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
        num_fewshot: examples before each question; a task that says 0 itself stays at 0.
        limit: documents of each task, or below 1 a share of them; None is all.

    Raises:
        ValueError: there is no such task, or it cannot be read.
        OSError: its data cannot be had.
    """
    if limit is not None and limit <= 0:
        raise UserError(f"--limit must exceed 0, got {limit:g}")
    if num_fewshot is not None and num_fewshot < 0:
        raise UserError(f"--num-fewshot must not be negative, got {num_fewshot}")
    loaded = _load(names, include_path)
    for task in loaded["tasks"].values():
        shots = task.get_config("num_fewshot")
        task.set_config(
            "num_fewshot", shots or 0 if num_fewshot is None or shots == 0 else num_fewshot
        )
        task.set_fewshot_seed(SEED)
    found = evaluator.evaluate(
        lm, loaded, limit=int(limit) if limit and limit >= 1 else limit, log_samples=False
    )
    # numpy's numbers become Python's, to the last digit
    plain = json.loads(json.dumps(found, default=utils.handle_non_serializable))
    return {name: plain[name] for name in KEPT if name in plain}


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    return "\n".join(
        utils.make_table(results, column) for column in ("results", "groups") if column in results
    )


def _load(names: Sequence[str], include_path: Path | None) -> dict[str, Any]:
    if include_path is not None and not include_path.is_dir():
        raise FileNotFoundError(
            f"--include-path {include_path} is no folder: name one with the YAML files of tasks"
        )
    # It would report each of its retries
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    manager = TaskManager(include_path=include_path, include_defaults=False)
    if any(name not in manager.all_tasks and not Path(name).is_file() for name in names):
        manager = TaskManager(include_path=include_path)  # reads 10,000 files, which takes seconds
    for name in names:
        if name not in manager.all_tasks and not Path(name).is_file():
            close = difflib.get_close_matches(name, manager.all_tasks, n=1)
            hint = (
                f"did you mean {close[0]}?"
                if close
                else "`lm-eval ls tasks` lists the harness's own, --include-path adds yours"
            )
            raise UserError(f"there is no task {name!r}: {hint}")
    try:
        loaded: dict[str, Any] = manager.load(list(names))
    except ConnectionError as error:
        raise ConnectionError(
            f"{_line(error)}: without a network only tasks with local data work (docs/lm-eval.md)"
        ) from error
    except Exception as error:  # a task is code and data of somebody else's
        raise UserError(
            f"the tasks {', '.join(names)} cannot be loaded: {type(error).__name__}: {_line(error)}"
        ) from error
    return loaded


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _interval() -> float:
    """Seconds between two looks at the progress: often on a terminal, rarely in a log."""
    return 0.2 if sys.stderr.isatty() else 10.0
