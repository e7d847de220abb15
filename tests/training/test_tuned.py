"""Tuning: the targets that count, the inherited configuration, and a pause that changes nothing."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stages.tuned
from antimatter import files, params
from antimatter.chat import packing
from antimatter.chat.template import Rendered
from antimatter.data.batches import Batch, RowBatches, sequential_rows
from antimatter.data.special_tokens import ASSISTANT, BOS, EOS, PAD, SYSTEM, USER
from antimatter.errors import UserError
from antimatter.model import weights
from antimatter.model.gpt import GPT
from antimatter.training import tuning
from antimatter.training.config import Precision, TrainRuntime, TuneConfig
from antimatter.training.curves import Curves
from antimatter.training.start import Start
from antimatter.training.step import Objective, accumulate_gradients
from antimatter.training.trainer import Trainer
from antimatter.training.tuning import Conversations

pytestmark = pytest.mark.usefixtures("torch_as_before")
OFF = torch.amp.GradScaler("cpu", enabled=False)
CONFIG = TuneConfig(
    initial="",
    learning_rate=0.5,
    warmup_fraction=0.1,
    weight_decay=0.0,
    spike_factor=10.0,
    first_tokens=2,
    first_weight=3.0,
    epochs=2,
    batch_size=2,
    seed=1,
    validate_every=4,
    save_every=2,
)
RUNTIME = TrainRuntime(device="cpu", devices=1, micro_batch=2, keep_states=2)


def conversations(number: int, vocabulary: int = 64) -> list[Rendered]:
    """Conversations of one random question and answer."""
    random = np.random.default_rng(3)
    rendered = []
    for _ in range(number):
        question, answer = (
            random.integers(6, vocabulary, random.integers(1, 5)).tolist() for _ in range(2)
        )
        ids = [BOS, USER, *question, ASSISTANT, *answer, EOS]
        learnt = [False] * (3 + len(question)) + [True] * (len(answer) + 1)
        rendered.append(Rendered(ids, learnt))
    return rendered


@pytest.fixture
def folder(tmp_path: Path, tiny_gpt: GPT) -> Path:
    """An output of the stage `conversations`."""
    folder, index = tmp_path / "conversations", {}
    folder.mkdir()
    for split, number in (("train", 40), ("held_out", 8)):
        ids, marks = packing.pack(conversations(number), tiny_gpt.config.block_size)
        for name, array in ((f"{split}_tokens.npy", ids), (f"{split}_marks.npy", marks)):
            np.save(folder / name, array)
            index[name] = {"rows": len(array), "sha256": files.sha256(folder / name)}
    shape = {"vocab_size": tiny_gpt.config.vocab_size, "context": tiny_gpt.config.block_size}
    more = {"chat": {}, "made_of": {"tokenizer": "t"}, "files": index}
    files.write_json(folder / "index.json", shape | more)
    files.write_json(folder / "texts.json", ["x"] * tiny_gpt.config.vocab_size)
    return folder


def gradient(model: GPT, batch: Batch, micro_batch: int) -> tuple[float, torch.Tensor]:
    """The loss, and the gradient of all parameters, (P,)."""
    model.zero_grad()
    loss = accumulate_gradients(Objective(model), batch, micro_batch, "fp32", OFF).loss.item()
    return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_only_answers_of_the_assistant_are_learnt(tiny_gpt: GPT) -> None:
    ids, marks = packing.pack(conversations(30), tiny_gpt.config.block_size)
    model = tiny_gpt.train().requires_grad_(True)
    batch = RowBatches(ids, marks, batch_size=4, seed=1).at(0)
    assert batch.weights is not None
    loss, expected = gradient(model, batch, micro_batch=4)
    with torch.no_grad():
        logits = model.head(model.hidden(batch.inputs, segments=batch.segments))
    nats = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), reduction="none"
    )
    answers = batch.weights.flatten() > 0
    assert loss == pytest.approx(nats[answers].mean().item(), rel=1e-5)
    # Targets that do not count may be anything, and the split in micro-batches changes nothing
    other = batch._replace(targets=torch.where(batch.weights > 0, batch.targets, 9))
    for changed, micro_batch in ((other, 4), (batch, 1)):
        again, result = gradient(model, changed, micro_batch)
        assert again == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)


def test_a_packed_conversation_is_read_as_if_it_were_alone(tiny_gpt: GPT) -> None:
    without_system = [rendered.ids for rendered in conversations(4)]
    with_system = [[BOS, SYSTEM, 40, 41, *ids[1:]] for ids in without_system]
    every = [Rendered(ids, [False] * len(ids)) for ids in (*with_system, *without_system)]
    ids, marks = packing.pack(every, tiny_gpt.config.block_size)
    (batch,) = sequential_rows(ids, marks, batch_size=len(ids))
    assert batch.segments is not None
    texts = []
    with torch.no_grad():
        together = tiny_gpt.hidden(batch.inputs, segments=batch.segments)
        for row, (text, opening) in enumerate(zip(*batch.segments.unbind(-1), strict=True)):
            for number in text[text != opening].unique():
                visible = (text == number) | (text == opening[text == number][0])
                tokens = batch.inputs[row, visible]
                expected = tiny_gpt.hidden(tokens[None])[0]
                torch.testing.assert_close(together[row, visible], expected, rtol=1e-5, atol=1e-5)
                texts.append([id for id in tokens.tolist() if id != PAD])
        # Without segments the texts of a row attend to each other, at other positions
        assert not torch.allclose(tiny_gpt.hidden(batch.inputs), together, atol=1e-3)
    # The last token of a row is a target only
    assert all(rendered.ids in texts or rendered.ids[:-1] in texts for rendered in every)


def test_selected_states_equal_those_of_all_positions(tiny_gpt: GPT) -> None:
    ids = torch.randint(6, 60, (3, 8), generator=torch.Generator().manual_seed(1))
    selected = ids % 3 == 0
    with torch.no_grad():
        states = tiny_gpt.hidden(ids, selected=selected)
        torch.testing.assert_close(states, tiny_gpt.hidden(ids)[selected], rtol=1e-5, atol=1e-5)


class Emulating(Trainer):
    """Computes in the precision that it is asked for, also where the machine only emulates it."""

    def native_precision(self) -> Precision:
        return self.training.precision


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_paused_tuning_ends_in_the_same_weights(
    tmp_path: Path, folder: Path, tiny_gpt: GPT, precision: Precision
) -> None:
    data = Conversations(folder).data(CONFIG, end=EOS, role=ASSISTANT)
    config, _ = tuning.trainer_config(CONFIG, {}, len(data.train), RUNTIME)
    config = replace(config, training=replace(config.training, precision=precision, threads=1))
    start = {name: value.clone() for name, value in tiny_gpt.state_dict().items()}

    def run(folder: Path, pause_at: int) -> dict[str, torch.Tensor]:
        folder.mkdir(exist_ok=True)

        def report(result: object) -> None:
            if getattr(result, "steps", 0) == pause_at:
                os.kill(os.getpid(), signal.SIGTERM)

        model = GPT(tiny_gpt.config)
        model.load_state_dict(start)
        Emulating(model, data, config, folder, Curves(folder), report=report).run()
        return model.state_dict()

    whole = run(tmp_path / "whole", pause_at=-1)
    with pytest.raises(InterruptedError, match="paused at step 5"):
        run(tmp_path / "paused", pause_at=4)
    resumed = run(tmp_path / "paused", pause_at=-1)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not torch.equal(whole["norm.weight"], start["norm.weight"])
    curves = [(tmp_path / name / "training.csv").read_text() for name in ("whole", "paused")]
    assert curves[0] == curves[1]


def test_the_config_is_inherited_from_the_pretraining() -> None:
    recorded = {
        "optimizer": {
            "learning_rate": 0.004,
            "embedding_rate": 3.0,
            "beta1": 0.8,
            "beta2": 0.9,
            "epsilon": 1e-6,
            "weight_decay": 0.3,
            "grad_clip": 2.0,
        }
    }
    # The provenance of weights that were tuned, which contains that of the pretraining
    provenance = {"initial": {"params": recorded}}
    config, inherited = tuning.trainer_config(CONFIG, provenance, rows=9, runtime=RUNTIME)
    optimizer, schedule = config.optimizer, config.schedule
    assert optimizer.learning_rate == pytest.approx(0.5 * 0.004)
    assert (optimizer.weight_decay, optimizer.beta1, optimizer.grad_clip) == (0, 0.8, 2.0)
    assert config.training.steps == 9
    assert (schedule.decay, schedule.final_fraction) == ("linear", 0.0)
    assert (inherited["beta1"], inherited["embedding_rate"]) == (0.8, 3.0)


def test_a_pretraining_that_continued_another_counts_itself() -> None:
    """Not the first one, from whose weights it started."""
    first = {"params": {"optimizer": params.load()["optimizer"]}}
    rate = {**params.load()["optimizer"], "learning_rate": 0.002}
    second = {"params": {"optimizer": rate}, "initial": first}
    tuned = {"params": {"tuned": {}}, "initial": second}
    for provenance in (second, tuned, {"initial": tuned}):
        config, _ = tuning.trainer_config(CONFIG, provenance, rows=9, runtime=RUNTIME)
        assert config.optimizer.learning_rate == pytest.approx(0.5 * 0.002)


def test_a_value_that_an_older_provenance_lacks_is_the_one_of_its_time() -> None:
    recorded = dict(params.load()["optimizer"])
    del recorded["embedding_rate"]
    provenance = {"params": {"optimizer": recorded}}
    config, _ = tuning.trainer_config(CONFIG, provenance, rows=9, runtime=RUNTIME)
    assert config.optimizer.embedding_rate == 1.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"vocab_size": 63}, "role tokens"),
        ({"made_of": {"tokenizer": "another"}}, "role tokens"),
        ({"context": 8}, "packed for 8"),
    ],
)
def test_weights_that_do_not_fit_the_conversations_are_named(
    folder: Path, tiny_gpt: GPT, change: dict[str, object], named: str
) -> None:
    files.write_json(folder / "index.json", files.read_json(folder / "index.json") | change)
    start = Start(Path("models/x"), tiny_gpt.config, {"data": {"tokenizer": "t"}})
    with pytest.raises(UserError, match=named):
        tuning.check_start(start, Conversations(folder))


def test_damaged_rows_are_named(folder: Path) -> None:
    np.save(folder / "train_marks.npy", np.zeros((1, 2), np.uint8))
    with pytest.raises(UserError, match=r"train_marks\.npy is damaged"):
        Conversations(folder).data(CONFIG, end=EOS, role=ASSISTANT)


def test_rows_of_another_version_are_named(folder: Path) -> None:
    index = files.read_json(folder / "index.json")
    del index["files"]["train_marks.npy"]
    files.write_json(folder / "index.json", index)
    with pytest.raises(UserError, match=r"it has no train_marks\.npy: delete"):
        Conversations(folder).data(CONFIG, end=EOS, role=ASSISTANT)


def test_another_weight_of_the_first_tokens_is_another_training(
    tmp_path: Path,
    folder: Path,
    tiny_gpt: GPT,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    initial = tmp_path / "checkpoints"
    initial.mkdir()
    weights.save(tiny_gpt, initial, {"data": {"tokenizer": "t"}})
    identities: list[Any] = []

    def run(*_: Any, identity: Any, **__: Any) -> None:
        identities.append(identity)

    monkeypatch.setattr(stages.tuned, "run", run)
    values = Path("params.yaml").read_text()
    for weight in (3, 2, 3):
        (tmp_path / "params.yaml").write_text(
            re.sub("first_weight: .*", f"first_weight: {weight}", values)
        )
        monkeypatch.chdir(tmp_path)
        stages.tuned.main(folder, initial, *(tmp_path / str(n) for n in range(3)))
    assert identities[0] == identities[2] != identities[1]
