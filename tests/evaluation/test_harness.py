"""The harness itself, on small tasks with local data and a tiny model, against plain sums of plain
logits.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import gguf_model

pytest.importorskip("lm_eval", reason="the extra is not installed: docs/lm-eval.md")

import datasets
from lm_eval.api.instance import Instance
from lm_eval.utils import get_rolling_token_windows

from antimatter.cli import main as cli
from antimatter.data.special_tokens import BOS, EOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import harness, scoring
from antimatter.evaluation.harness import Antimatter
from antimatter.model import weights
from antimatter.model.gpt import GPT

ROOT = Path(__file__).parents[2]
OWN = ROOT / "prompts" / "lm-eval"
T = gguf_model.CONTEXT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint and its tokenizer."""
    path = tmp_path_factory.mktemp("harness")
    gguf_model.save_tokenizer(path / "tokenizer")
    # Far from uniform, so that no two choices are alike
    weights.save(gguf_model.gpt(gain=10.0), path / "checkpoints")
    yield path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(ROOT)  # the tasks name their data from there


@pytest.fixture
def lm(folder: Path) -> Antimatter:
    return Antimatter(
        weights.load(folder / "checkpoints"), Tokenizer.load(folder / "tokenizer"), batch_size=3
    )


def requests(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


def answers(lm: Antimatter, context: str, **settings: Any) -> list[str]:
    return lm.generate_until(requests("generate_until", (context, settings)))


def command(folder: Path) -> list[str]:
    checkpoints, tokenizer = folder / "checkpoints", folder / "tokenizer"
    return ["lm-eval", "--checkpoint", str(checkpoints), "--tokenizer", str(tokenizer)]


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (OWN / name).read_text(encoding="utf-8").splitlines()]


def log_likelihood(model: GPT, before: list[int], scored: list[int]) -> float:
    """One text, one token after the other, with no batch, no padding and no window."""
    ids, total = before[:], 0.0
    for token in scored:
        total += float(model(torch.tensor([ids[-T:]]))[0, -1].double().log_softmax(-1)[token])
        ids.append(token)
    return total


def greedy(model: GPT, ids: list[int], count: int) -> list[int]:
    ids, written = ids[:], list[int]()
    while len(written) < count and EOS not in written:
        written.append(int(model(torch.tensor([(ids + written)[-T:]]))[0, -1].argmax()))
    return written


def test_the_scores_of_the_projects_own_tasks_are_those_of_plain_sums(lm: Antimatter) -> None:
    results = harness.run(lm, ["own"], include_path=OWN)["results"]
    encode = lm.tokenizer.encode
    right = right_by_character = 0
    for row in rows("own_choice.jsonl"):
        context = [BOS, *encode(row["text"])]
        choices = [encode(f" {choice}") for choice in row["choices"]]
        values = [log_likelihood(lm.model, context, choice) for choice in choices]
        lengths = [len(choice) for choice in row["choices"]]
        right += int(np.argmax(values)) == row["answer"]
        right_by_character += int(np.argmax(np.array(values) / lengths)) == row["answer"]
    n = len(rows("own_choice.jsonl"))
    assert 0 < right < n
    assert results["own_choice"]["acc,none"] == pytest.approx(right / n)
    assert results["own_choice"]["acc_norm,none"] == pytest.approx(right_by_character / n)

    bits = size = words = 0.0
    for row in rows("own_text.jsonl"):
        ids = encode(row["text"])
        assert len(ids) > T
        for inputs, targets in get_rolling_token_windows(ids, BOS, T, 1):  # the harness's own cut
            before = len(inputs) - len(targets) + 1
            bits -= log_likelihood(lm.model, inputs[:before], targets) / math.log(2)
        size += len(row["text"].encode())
        words += len(row["text"].split())
    own = results["own_text"]
    assert own["bits_per_byte,none"] == pytest.approx(bits / size, rel=1e-5)
    assert own["byte_perplexity,none"] == pytest.approx(2 ** (bits / size), rel=1e-5)
    assert own["word_perplexity,none"] == pytest.approx(2 ** (bits / words), rel=1e-4)


def test_answers_are_compared_by_the_harness(lm: Antimatter, tmp_path: Path) -> None:
    texts = ["def add(", "if name is", "for action in", "return self"]
    lines = []
    for text in texts:
        ids = greedy(lm.model, [BOS, *lm.tokenizer.encode(text)], 6)
        lines.append({"text": text, "answer": lm.tokenizer.decode(ids)})
    lines[0]["answer"] = "not what the model writes"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {
        "task": "a",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "a.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["never"], "max_gen_toks": 6},
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(task))
    report = harness.run(lm, [str(tmp_path / "a.yaml")])
    assert report["results"]["a"]["exact_match,none"] == 0.75
    assert report["n-samples"]["a"] == {"original": 4, "effective": 4}
    half = harness.run(lm, ["a"], include_path=tmp_path, limit=0.5)
    assert half["n-samples"]["a"]["effective"] == 2


def test_a_rolling_log_likelihood_is_the_sum_of_the_losses_that_evaluation_scores(
    lm: Antimatter,
) -> None:
    ids = lm.tokenizer.encode(gguf_model.TEXT)
    # Whole windows: a shorter last one is moved back by the harness, but not by the stage
    text = lm.tokenizer.decode(ids[: 3 * T])
    assert lm.tokenizer.encode(text) == ids[: 3 * T]
    tokens = np.array([BOS, *ids[: 3 * T]], dtype=np.uint16)
    parts = list(scoring.score(lm.model, scoring.sliding([tokens], T, T)))
    assert sum(len(part.losses) for part in parts) == 3 * T
    (total,) = lm.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    assert -total == pytest.approx(sum(part.losses.sum() for part in parts), rel=1e-6)


@pytest.mark.parametrize("length", [1, T - 1, T, T + 1, 3 * T, 3 * T + 5])
def test_each_token_is_scored_once_in_the_harnesss_own_windows(length: int) -> None:
    ids = list(range(100, 100 + length))
    ours = [
        (window.ids[:-1].tolist(), window.ids[1 + window.first :].tolist())
        for window in harness.windows(0, [BOS], ids, T)
    ]
    assert ours == list(get_rolling_token_windows(ids, BOS, T, 1))
    assert [token for _, targets in ours for token in targets] == ids


def test_a_context_that_is_too_long_loses_its_oldest_tokens(lm: Antimatter) -> None:
    context, continuation = gguf_model.TEXT[:600].rstrip(), " else return"
    ids, scored = lm.tokenizer.encode(context + continuation), lm.tokenizer.encode(continuation)
    assert len(ids) > 2 * T and ids[-len(scored) :] == scored
    # One window for all scored tokens
    logits = lm.model(torch.tensor([ids[-T - 1 : -1]]))[0].double()
    expected = logits.log_softmax(-1)[range(T - len(scored), T), scored].sum()
    ((total, _),) = lm.loglikelihood(requests("loglikelihood", (context, continuation)))
    assert total == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("context", "continuation", "read"),
    [
        ("", "def add", ""),  # after [BOS] alone
        ("def", " add", "def"),
        ("def ", "add", "def"),  # space at the end of a context is the continuation's
        ("def\n\n", "add", "def"),
        ("  ", "add", ""),
        ("(sel", "f", "("),  # `self` is one token: it is scored whole
        ("return (", "self)", "return ("),
        ("[EOS", "]", "[EOS"),  # text, not the token
        ("é", "\u0301", "é"),
    ],
)
def test_context_and_continuation_are_the_tokens_of_the_whole_text(
    lm: Antimatter, context: str, continuation: str, read: str
) -> None:
    encode = lm.tokenizer.encode
    before, scored = lm.split(context, continuation)
    assert before[0] == BOS and before[1:] + scored == encode(context + continuation)
    assert lm.tokenizer.decode(before) == read
    ((total, likeliest),) = lm.loglikelihood(requests("loglikelihood", (context, continuation)))
    assert total == pytest.approx(log_likelihood(lm.model, before, scored), rel=1e-4)
    assert likeliest == (greedy(lm.model, before, len(scored)) == scored)


def test_greedy_is_what_greedy_decoding_would_write(lm: Antimatter) -> None:
    before = [BOS, *lm.tokenizer.encode("def add(")]
    best = greedy(lm.model, before, 5)
    other = [*best[:-1], best[-1] - 1]
    (_, first), (_, second), nothing = lm.score([(before, best), (before, other), (before, [])])
    assert (first, second, nothing) == (True, False, (0.0, True))


def test_the_size_of_a_batch_changes_nothing(folder: Path, lm: Antimatter) -> None:
    listed = rows("own_choice.jsonl")
    pairs = [(row["text"], f" {choice}") for row in listed for choice in row["choices"]]
    alone, together = (
        Antimatter(lm.model, lm.tokenizer, size).loglikelihood(requests("loglikelihood", *pairs))
        for size in (1, 32)
    )
    totals = [total for total, _ in alone]
    assert [total for total, _ in together] == pytest.approx(totals, rel=1e-5)
    assert [likeliest for _, likeliest in together] == [likeliest for _, likeliest in alone]


def test_an_answer_ends_before_the_first_of_its_ends(lm: Antimatter) -> None:
    context, most = "def add(", 40
    whole = lm.tokenizer.decode(greedy(lm.model, [BOS, *lm.tokenizer.encode(context)], most))
    assert len(whole) > 30
    for end in (whole[8:10], whole[25:28]):  # within the first tokens, and later
        given = answers(lm, context, until=["\x00", end, ""], max_gen_toks=most)
        assert given == [whole[: whole.index(end)]]
    assert answers(lm, context, until="\x00", max_gen_toks=most) == [whole]
    # Both among the tokens that are written at first
    early, late = sorted((whole[4:7], whole[8:11]), key=whole.index)
    given = answers(lm, context, until=[late, early], max_gen_toks=most)
    assert given == [whole[: whole.index(early)]]


def test_an_answer_ends_with_the_models_own_end(
    lm: Antimatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = greedy(lm.model, [BOS, *lm.tokenizer.encode("def add(")], 40)
    fifth = best.index(best[4])
    with monkeypatch.context() as patch:
        patch.setattr(harness, "EOS", best[fifth])
        (answer,) = answers(lm, "def add(", until=[], max_gen_toks=40)
    assert answer == lm.tokenizer.decode(best[: fifth + 1])
    # The state no longer depends on the text
    lm.model.norm.weight.data.zero_()
    lm.model.norm.bias.data.copy_(lm.model.token_embedding.weight[EOS] * 100)
    assert answers(lm, "def add(", until=[], max_gen_toks=30) == [""]


@pytest.mark.parametrize("most", [10, 100])  # 100 tokens are more than the context
def test_a_prompt_makes_room_for_the_answer(lm: Antimatter, most: int) -> None:
    ids = lm.tokenizer.encode(gguf_model.TEXT)[: 2 * T]
    context = lm.tokenizer.decode(ids)
    assert lm.tokenizer.encode(context) == ids
    remaining = ids[-(T - 10) :] if most == 10 else ids[-T // 2 :]
    (answer,) = answers(lm, context, until=[], max_gen_toks=most)
    assert answer == lm.tokenizer.decode(greedy(lm.model, remaining, most))


def test_drawn_answers_differ_and_come_again(folder: Path, lm: Antimatter) -> None:
    settings = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 2.0, "top_k": 50}
    twice = requests("generate_until", ("def add(", settings), ("def add(", settings))
    first, second = lm.generate_until(twice)
    assert first != second
    assert Antimatter(lm.model, lm.tokenizer, 3).generate_until(twice) == [first, second]


def test_unsupported_settings_are_refused_by_name(lm: Antimatter) -> None:
    with pytest.raises(ValueError, match=r"num_beams .*generation_kwargs.*: remove it"):
        answers(lm, "a", until=["b"], num_beams=4)


def test_the_number_of_examples_is_the_tasks_own_unless_it_is_given(lm: Antimatter) -> None:
    own = harness.run(lm, ["own_answer"], include_path=OWN, limit=1)
    assert own["n-shot"] == {"own_answer": 2}
    given = harness.run(lm, ["own_answer"], include_path=OWN, limit=1, num_fewshot=1)
    assert given["n-shot"] == {"own_answer": 1}


def test_the_command_prints_a_table_and_writes_every_digit(
    folder: Path, tmp_path: Path, lm: Antimatter, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = ["--tasks", "own_text,own_choice", "--include-path", str(OWN), "--limit", "3"]
    assert cli.main([*command(folder), *tasks, "--output", str(tmp_path / "a.json")]) == 0
    assert "|own_text  |" in capsys.readouterr().out
    written = json.loads((tmp_path / "a.json").read_text())
    report = harness.run(lm, ["own_text", "own_choice"], include_path=OWN, limit=3)
    assert written["results"] == report["results"]
    assert written["n-samples"]["own_choice"] == {"original": 20, "effective": 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tasks", "own_txt"], "there is no task 'own_txt' (did you mean `own_text`?): "),
        (["--tasks", "own", "--include-path", "absent"], "--include-path absent is not a folder"),
        (["--tasks", "own", "--checkpoint", "absent"], "absent is missing"),
    ],
)
def test_a_bad_option_is_one_line(
    folder: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command(folder), "--include-path", str(OWN), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words}") and error.count("\n") == 1


def test_a_task_of_the_hub_without_a_network_is_one_line(folder: Path, tmp_path: Path) -> None:
    metric = {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}
    task = {
        "task": "far",
        "dataset_path": "nobody/nothing",
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [metric],
    }
    (tmp_path / "far.yaml").write_text(yaml.safe_dump(task))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "antimatter.cli", *command(folder), "--tasks", "far.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: Couldn't reach 'nobody/nothing' on the Hub")
    assert done.stderr.count("\n") == 1
    assert "without a network only tasks with local data work" in done.stderr
