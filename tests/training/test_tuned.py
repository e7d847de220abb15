"""Tuning: what counts in the loss, what is inherited, and a pause that changes nothing."""

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
from antimatter import files
from antimatter.chat import packing
from antimatter.chat.template import Rendered
from antimatter.data.batches import Batch, RowBatches, sequential_rows
from antimatter.data.special_tokens import ASSISTANT, BOS, EOS, PAD, SYSTEM, USER
from antimatter.model import weights
from antimatter.model.gpt import GPT
from antimatter.training import tuning
from antimatter.training.config import TrainRuntime, TuneConfig
from antimatter.training.curves import Curves
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
    random = np.random.default_rng(3)
    found = []
    for _ in range(number):
        asked, said = (
            random.integers(6, vocabulary, random.integers(1, 5)).tolist() for _ in range(2)
        )
        ids = [BOS, USER, *asked, ASSISTANT, *said, EOS]
        found.append(Rendered(ids, [False] * (3 + len(asked)) + [True] * (len(said) + 1)))
    return found


@pytest.fixture
def folder(tmp_path: Path, tiny_gpt: GPT) -> Path:
    """As the stage `conversations` leaves it."""
    place, index = tmp_path / "conversations", {}
    place.mkdir()
    for split, number in (("train", 40), ("held_out", 8)):
        ids, marks = packing.pack(conversations(number), tiny_gpt.config.block_size)
        for name, array in ((f"{split}_tokens.npy", ids), (f"{split}_marks.npy", marks)):
            np.save(place / name, array)
            index[name] = {"rows": len(array), "sha256": files.sha256(place / name)}
    known = {"vocab_size": tiny_gpt.config.vocab_size, "context": tiny_gpt.config.block_size}
    more = {"chat": {}, "made_of": {"tokenizer": "t"}, "files": index}
    files.write_json(place / "index.json", known | more)
    files.write_json(place / "texts.json", ["x"] * tiny_gpt.config.vocab_size)
    return place


def gradient(model: GPT, batch: Batch, micro_batch: int) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = accumulate_gradients(Objective(model), batch, micro_batch, "fp32", OFF).loss.item()
    return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_only_what_the_assistant_says_is_learnt(tiny_gpt: GPT) -> None:
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
        again, found = gradient(model, changed, micro_batch)
        assert again == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_packed_conversation_is_read_as_if_it_stood_alone(tiny_gpt: GPT) -> None:
    with_system = [[BOS, SYSTEM, 40, 41, *one.ids[1:]] for one in conversations(4)]
    alone = [one.ids for one in conversations(4)]
    every = [Rendered(ids, [False] * len(ids)) for ids in (*with_system, *alone)]
    ids, marks = packing.pack(every, tiny_gpt.config.block_size)
    (batch,) = sequential_rows(ids, marks, batch_size=len(ids))
    assert batch.segments is not None
    found = []
    with torch.no_grad():
        together = tiny_gpt.hidden(batch.inputs, segments=batch.segments)
        for row, (text, opening) in enumerate(zip(*batch.segments.unbind(-1), strict=True)):
            for number in text[text != opening].unique():
                seen = (text == number) | (text == opening[text == number][0])
                tokens = batch.inputs[row, seen]
                expected = tiny_gpt.hidden(tokens[None])[0]
                torch.testing.assert_close(together[row, seen], expected, rtol=1e-5, atol=1e-5)
                found.append([id for id in tokens.tolist() if id != PAD])
        # Without segments the texts of a row look at each other, at other positions
        assert not torch.allclose(tiny_gpt.hidden(batch.inputs), together, atol=1e-3)
    # The last token of a row is a target only
    assert all(one.ids in found or one.ids[:-1] in found for one in every)


def test_the_states_that_are_wanted_are_those_of_all_positions(tiny_gpt: GPT) -> None:
    ids = torch.randint(6, 60, (3, 8), generator=torch.Generator().manual_seed(1))
    wanted = ids % 3 == 0
    with torch.no_grad():
        states = tiny_gpt.hidden(ids, wanted=wanted)
        torch.testing.assert_close(states, tiny_gpt.hidden(ids)[wanted], rtol=1e-5, atol=1e-5)


def test_a_paused_tuning_ends_in_the_same_weights(
    tmp_path: Path, folder: Path, tiny_gpt: GPT
) -> None:
    data = Conversations(folder).data(CONFIG, end=EOS, role=ASSISTANT)
    config, _ = tuning.trainer_config(CONFIG, {}, len(data.train), RUNTIME)
    config = replace(config, training=replace(config.training, precision="fp32", threads=1))
    start = {name: value.clone() for name, value in tiny_gpt.state_dict().items()}

    def run(place: Path, pause_at: int) -> dict[str, torch.Tensor]:
        place.mkdir(exist_ok=True)

        def report(result: object) -> None:
            if getattr(result, "steps", 0) == pause_at:
                os.kill(os.getpid(), signal.SIGTERM)

        model = GPT(tiny_gpt.config)
        model.load_state_dict(start)
        Trainer(model, data, config, place, Curves(place), report=report).run()
        return model.state_dict()

    whole = run(tmp_path / "whole", pause_at=-1)
    with pytest.raises(InterruptedError, match="paused at step 5"):
        run(tmp_path / "paused", pause_at=4)
    resumed = run(tmp_path / "paused", pause_at=-1)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not torch.equal(whole["norm.weight"], start["norm.weight"])
    assert (tmp_path / "whole/training.csv").read_text() == (
        tmp_path / "paused/training.csv"
    ).read_text()


def test_the_config_is_that_of_the_pretraining_but_for_the_rate() -> None:
    told = {
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
    config, inherited = tuning.trainer_config(
        CONFIG, {"initial": {"params": told}}, rows=9, runtime=RUNTIME
    )
    assert config.optimizer.learning_rate == pytest.approx(0.5 * 0.004)
    assert (config.optimizer.weight_decay, config.optimizer.beta1, config.optimizer.grad_clip) == (
        0,
        0.8,
        2.0,
    )
    assert config.training.steps == 9
    assert (config.schedule.decay, config.schedule.final_fraction) == ("linear", 0.0)
    assert (inherited["beta1"], inherited["embedding_rate"]) == (0.8, 3.0)
    del told["optimizer"]["embedding_rate"]
    before = tuning.trainer_config(CONFIG, {"params": told}, rows=9, runtime=RUNTIME)[0]
    assert before.optimizer.embedding_rate == 1.0


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
    made = {"data": {"tokenizer": "t"}}
    with pytest.raises(ValueError, match=named):
        tuning.check_start(Path("models/x"), tiny_gpt.config, made, Conversations(folder))


def test_damaged_rows_are_named(folder: Path) -> None:
    np.save(folder / "train_marks.npy", np.zeros((1, 2), np.uint8))
    with pytest.raises(ValueError, match=r"train_marks\.npy is damaged"):
        Conversations(folder).data(CONFIG, end=EOS, role=ASSISTANT)


def test_rows_of_another_version_are_named(folder: Path) -> None:
    index = files.read_json(folder / "index.json")
    del index["files"]["train_marks.npy"]
    files.write_json(folder / "index.json", index)
    with pytest.raises(ValueError, match=r"it has no train_marks\.npy: delete"):
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
