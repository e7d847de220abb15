"""The harness itself, on small tasks with local data and a tiny model, against plain sums of plain logits."""

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
from helpers import gguf_model

pytest.importorskip("lm_eval", reason="the extra is not installed: docs/lm-eval.md")

import datasets
from lm_eval.api.instance import Instance
from lm_eval.utils import get_rolling_token_windows

from antimatter import cli
from antimatter.data.special_tokens import BOS, EOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import harness, perplexity
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
    weights.save(
        gguf_model.gpt(gain=10.0), path / "checkpoints"
    )  # far from uniform, so that no two choices are alike
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
    return [
        Instance(request_type=kind, doc={}, arguments=given, idx=i)
        for i, given in enumerate(arguments)
    ]


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
    found = harness.run(lm, ["own"], include_path=OWN)["results"]
    encode = lm.tokenizer.encode
    right = right_by_character = 0
    for row in rows("own_choice.jsonl"):
        values = [
            log_likelihood(lm.model, [BOS, *encode(row["text"])], encode(f" {choice}"))
            for choice in row["choices"]
        ]
        lengths = [len(choice) for choice in row["choices"]]
        right += int(np.argmax(values)) == row["answer"]
        right_by_character += int(np.argmax(np.array(values) / lengths)) == row["answer"]
    n = len(rows("own_choice.jsonl"))
    assert 0 < right < n
    assert found["own_choice"]["acc,none"] == pytest.approx(right / n)
    assert found["own_choice"]["acc_norm,none"] == pytest.approx(right_by_character / n)

    bits = size = words = 0.0
    for row in rows("own_text.jsonl"):
        ids = encode(row["text"])
        assert len(ids) > T
        for inputs, targets in get_rolling_token_windows(ids, BOS, T, 1):  # the harness's own cut
            before = len(inputs) - len(targets) + 1
            bits -= log_likelihood(lm.model, inputs[:before], targets) / math.log(2)
        size += len(row["text"].encode())
        words += len(row["text"].split())
    assert found["own_text"]["bits_per_byte,none"] == pytest.approx(bits / size, rel=1e-5)
    assert found["own_text"]["byte_perplexity,none"] == pytest.approx(2 ** (bits / size), rel=1e-5)
    assert found["own_text"]["word_perplexity,none"] == pytest.approx(2 ** (bits / words), rel=1e-4)


def test_answers_are_compared_by_the_harness(lm: Antimatter, tmp_path: Path) -> None:
    texts = ["def add(", "if name is", "for action in", "return self"]
    answers = [
        lm.tokenizer.decode(greedy(lm.model, [BOS, *lm.tokenizer.encode(text)], 6))
        for text in texts
    ]
    lines = [
        {"text": text, "answer": answer if i else "nobody says this"}
        for i, (text, answer) in enumerate(zip(texts, answers, strict=True))
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "a.yaml").write_text(
        "task: a\ndataset_path: json\ndataset_kwargs: {data_files: {test: "
        + str(tmp_path / "a.jsonl")
        + "}}\ntest_split: test\n"
        "output_type: generate_until\ndoc_to_text: '{{text}}'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs: {until: [never], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]\n"
    )
    found = harness.run(lm, [str(tmp_path / "a.yaml")])
    assert found["results"]["a"]["exact_match,none"] == 0.75
    assert found["n-samples"]["a"] == {"original": 4, "effective": 4}
    assert (
        harness.run(lm, ["a"], include_path=tmp_path, limit=0.5)["n-samples"]["a"]["effective"] == 2
    )


def test_a_rolling_log_likelihood_is_the_sum_of_the_losses_that_evaluation_scores(
    lm: Antimatter,
) -> None:
    ids = lm.tokenizer.encode(gguf_model.TEXT)
    text = lm.tokenizer.decode(
        ids[: 3 * T]
    )  # whole windows: where the last is shorter, the harness moves it back and the stage does not
    assert lm.tokenizer.encode(text) == ids[: 3 * T]
    tokens = np.array([BOS, *ids[: 3 * T]], dtype=np.uint16)
    losses = np.concatenate(
        [scored.losses for scored in perplexity.score(lm.model, perplexity.sliding([tokens], T, T))]
    )
    assert len(losses) == 3 * T
    (total,) = lm.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    assert -total == pytest.approx(losses.sum(), rel=1e-6)


@pytest.mark.parametrize("length", [1, T - 1, T, T + 1, 3 * T, 3 * T + 5])
def test_each_token_is_scored_once_in_the_harnesss_own_windows(length: int) -> None:
    ids = list(range(100, 100 + length))
    ours = [
        (window.ids[:-1], window.ids[-window.scored :])
        for window in harness.windows(0, [BOS], ids, T)
    ]
    assert ours == list(get_rolling_token_windows(ids, BOS, T, 1))
    assert [token for _, targets in ours for token in targets] == ids


def test_a_context_that_is_too_long_loses_its_oldest_tokens(lm: Antimatter) -> None:
    context, continuation = gguf_model.TEXT[:600].rstrip(), " else return"
    ids, scored = lm.tokenizer.encode(context + continuation), lm.tokenizer.encode(continuation)
    assert len(ids) > 2 * T and ids[-len(scored) :] == scored
    logits = lm.model(torch.tensor([ids[-T - 1 : -1]]))[
        0
    ].double()  # one window for all scored tokens
    expected = logits.log_softmax(-1)[range(T - len(scored), T), scored].sum()
    ((found, _),) = lm.loglikelihood(requests("loglikelihood", (context, continuation)))
    assert found == pytest.approx(float(expected), rel=1e-5)


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
    before, scored = lm._pair(context, continuation)
    assert before[0] == BOS and before[1:] + scored == encode(context + continuation)
    assert lm.tokenizer.decode(before) == read
    ((total, likeliest),) = lm.loglikelihood(requests("loglikelihood", (context, continuation)))
    assert total == pytest.approx(log_likelihood(lm.model, before, scored), rel=1e-4)
    assert likeliest == (greedy(lm.model, before, len(scored)) == scored)


def test_greedy_is_what_greedy_decoding_would_write(lm: Antimatter) -> None:
    before = [BOS, *lm.tokenizer.encode("def add(")]
    best = greedy(lm.model, before, 5)
    other = [*best[:-1], best[-1] - 1]
    (_, first), (_, second), nothing = lm._score([(before, best), (before, other), (before, [])])
    assert (first, second, nothing) == (True, False, (0.0, True))


def test_the_size_of_a_batch_changes_nothing(folder: Path, lm: Antimatter) -> None:
    pairs = [
        (row["text"], f" {choice}") for row in rows("own_choice.jsonl") for choice in row["choices"]
    ]
    alone = Antimatter(lm.model, lm.tokenizer, batch_size=1).loglikelihood(
        requests("loglikelihood", *pairs)
    )
    together = Antimatter(lm.model, lm.tokenizer, batch_size=32).loglikelihood(
        requests("loglikelihood", *pairs)
    )
    assert [total for total, _ in together] == pytest.approx(
        [total for total, _ in alone], rel=1e-5
    )
    assert [likeliest for _, likeliest in together] == [likeliest for _, likeliest in alone]


def test_an_answer_ends_before_the_first_of_its_ends(lm: Antimatter) -> None:
    context, most = "def add(", 40
    whole = lm.tokenizer.decode(greedy(lm.model, [BOS, *lm.tokenizer.encode(context)], most))
    assert len(whole) > 30
    for end in (whole[8:10], whole[25:28]):  # within the first tokens, and later
        settings = {"until": ["\x00", end, ""], "max_gen_toks": most}
        assert lm.generate_until(requests("generate_until", (context, settings))) == [
            whole[: whole.index(end)]
        ]
    assert lm.generate_until(
        requests("generate_until", (context, {"until": "\x00", "max_gen_toks": most}))
    ) == [whole]
    early, late = sorted(
        (whole[4:7], whole[8:11]), key=whole.index
    )  # both in what is written at first
    both = {"until": [late, early], "max_gen_toks": most}
    assert lm.generate_until(requests("generate_until", (context, both))) == [
        whole[: whole.index(early)]
    ]


def test_an_answer_ends_with_the_models_own_end(
    lm: Antimatter, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = greedy(lm.model, [BOS, *lm.tokenizer.encode("def add(")], 40)
    fifth = best.index(best[4])
    with monkeypatch.context() as patch:
        patch.setattr(harness, "EOS", best[fifth])
        (answer,) = lm.generate_until(
            requests("generate_until", ("def add(", {"until": [], "max_gen_toks": 40}))
        )
    assert answer == lm.tokenizer.decode(best[: fifth + 1])
    lm.model.norm.weight.data.zero_()  # the state no longer depends on the text
    lm.model.norm.bias.data.copy_(lm.model.token_embedding.weight[EOS] * 100)
    assert lm.generate_until(
        requests("generate_until", ("def add(", {"until": [], "max_gen_toks": 30}))
    ) == [""]


@pytest.mark.parametrize("most", [10, 100])  # 100 tokens are more than the context
def test_a_prompt_makes_room_for_the_answer(lm: Antimatter, most: int) -> None:
    ids = lm.tokenizer.encode(gguf_model.TEXT)[: 2 * T]
    context = lm.tokenizer.decode(ids)
    assert lm.tokenizer.encode(context) == ids
    kept = ids[-(T - 10) :] if most == 10 else ids[-T // 2 :]
    (answer,) = lm.generate_until(
        requests("generate_until", (context, {"until": [], "max_gen_toks": most}))
    )
    assert answer == lm.tokenizer.decode(greedy(lm.model, kept, most))


def test_drawn_answers_differ_and_come_again(folder: Path, lm: Antimatter) -> None:
    settings = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 2.0, "top_k": 50}
    asked = requests("generate_until", ("def add(", settings), ("def add(", settings))
    first, second = lm.generate_until(asked)
    assert first != second
    assert Antimatter(lm.model, lm.tokenizer, 3).generate_until(asked) == [first, second]


def test_settings_that_are_not_built_are_refused_by_name(lm: Antimatter) -> None:
    with pytest.raises(ValueError, match="the task asks for num_beams under generation_kwargs"):
        lm.generate_until(requests("generate_until", ("a", {"until": ["b"], "num_beams": 4})))


def test_the_number_of_examples_is_the_tasks_own_unless_it_is_given(lm: Antimatter) -> None:
    assert harness.run(lm, ["own_answer"], include_path=OWN, limit=1)["n-shot"] == {"own_answer": 2}
    assert harness.run(lm, ["own_answer"], include_path=OWN, limit=1, num_fewshot=1)["n-shot"] == {
        "own_answer": 1
    }


def test_the_command_prints_a_table_and_writes_every_digit(
    folder: Path, tmp_path: Path, lm: Antimatter, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--checkpoint", str(folder / "checkpoints"), "--tokenizer", str(folder / "tokenizer")]
    given = [
        "--tasks",
        "own_text,own_choice",
        "--include-path",
        str(OWN),
        "--limit",
        "3",
        "--output",
        str(tmp_path / "a.json"),
    ]
    assert cli.main(["lm-eval", *places, *given]) == 0
    assert "|own_text  |" in capsys.readouterr().out
    written = json.loads((tmp_path / "a.json").read_text())
    assert (
        written["results"]
        == harness.run(lm, ["own_text", "own_choice"], include_path=OWN, limit=3)["results"]
    )
    assert written["n-samples"]["own_choice"] == {"original": 20, "effective": 3}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ["--tasks", "own_txt", "--include-path", str(OWN)],
            "there is no task 'own_txt': did you mean own_text?",
        ),
        (["--tasks", "own", "--include-path", "absent"], "--include-path absent is no folder"),
        (
            ["--tasks", "own", "--include-path", str(OWN), "--limit", "0"],
            "--limit must exceed 0, got 0",
        ),
        (
            ["--tasks", "own", "--include-path", str(OWN), "--batch-size", "0"],
            "--batch-size must be at least 1, got 0",
        ),
        (
            ["--tasks", "own", "--include-path", str(OWN), "--num-fewshot", "-1"],
            "--num-fewshot must not be negative, got -1",
        ),
        (
            ["--tasks", "own", "--include-path", str(OWN), "--checkpoint", "absent"],
            "absent is missing",
        ),
    ],
)
def test_a_bad_option_is_one_line(
    folder: Path, given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(
            [
                "lm-eval",
                "--checkpoint",
                str(folder / "checkpoints"),
                "--tokenizer",
                str(folder / "tokenizer"),
                *given,
            ]
        )
        == 1
    )
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words}") and error.count("\n") == 1


def test_a_task_of_the_hub_without_a_network_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "far.yaml").write_text(
        "task: far\ndataset_path: nobody/nothing\ntest_split: test\noutput_type: loglikelihood_rolling\n"
        "doc_to_text: ''\ndoc_to_target: '{{text}}'\nmetric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]\n"
    )
    command = [
        sys.executable,
        "-m",
        "antimatter.cli",
        "lm-eval",
        "--tasks",
        str(tmp_path / "far.yaml"),
    ]
    places = ["--checkpoint", str(folder / "checkpoints"), "--tokenizer", str(folder / "tokenizer")]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [*command, *places],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr.startswith("error: Couldn't reach 'nobody/nothing' on the Hub")
        and done.stderr.count("\n") == 1
    )
    assert "without a network only tasks with local data work" in done.stderr
