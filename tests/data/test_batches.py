"""Batches: which tokens each step, rank and epoch reads, and the weights of their targets."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from antimatter.data.batches import (
    Batches,
    Emphasis,
    Prefetcher,
    RowBatches,
    sequential_batches,
)
from antimatter.data.special_tokens import COUNTS
from antimatter.errors import UserError

FILES = [np.arange(0, 1000, dtype=np.uint16), np.arange(1000, 1450, dtype=np.uint16)]


def windows(batch_size: int = 4, seed: int = 1, **ranks: int) -> Batches:
    return Batches(FILES, batch_size=batch_size, block_size=10, seed=seed, **ranks)


def test_a_batch_is_a_function_of_the_step_alone() -> None:
    batches = windows()
    # 143 windows in an epoch, so the last of these batches lies in the second one
    last = [batches.at(step).inputs for step in range(60)][-1]
    assert torch.equal(last, windows().at(59).inputs)
    assert not torch.equal(last, windows(seed=2).at(59).inputs)


def test_targets_are_the_next_tokens_and_no_window_spans_two_files() -> None:
    batches = windows()
    for step in range(60):
        inputs, targets, *_ = batches.at(step)
        assert inputs.shape == targets.shape == (4, 10)
        # The tokens count upwards
        assert torch.equal(targets, inputs + 1)
        in_second = torch.cat([inputs, targets], dim=1) >= 1000
        assert torch.equal(in_second.any(1), in_second.all(1))


def test_an_epoch_sees_each_window_once_and_the_next_cuts_them_elsewhere() -> None:
    batches = windows(batch_size=1)
    starts = [int(batches.at(step).inputs[0, 0]) for step in range(2 * batches.windows)]
    first, second = starts[: batches.windows], starts[batches.windows :]
    assert len(set(first)) == batches.windows == 99 + 44
    assert {start % 10 for start in first} != {start % 10 for start in second}
    assert first != sorted(first)


@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_share_one_global_batch(world: int) -> None:
    parts = [windows(8, rank=rank, world=world).at(3).inputs for rank in range(world)]
    assert torch.equal(torch.cat(parts), windows(8).at(3).inputs)


def test_too_little_text_and_an_unequal_share_are_refused() -> None:
    with pytest.raises(UserError, match=r"block_size .*15.* 8"):
        Batches([np.arange(15, dtype=np.uint16)], batch_size=1, block_size=8, seed=1)
    with pytest.raises(UserError, match=r"batch_size .* 3 devices.* 8"):
        windows(8, rank=0, world=3)


def test_sequential_batches_have_every_token_but_the_first_as_a_target_once() -> None:
    def targets(tokens: int | None = None) -> list[int]:
        order = sequential_batches(FILES, batch_size=3, block_size=10, tokens=tokens)
        return torch.cat([batch.targets.flatten() for batch in order]).tolist()

    assert targets() == [*range(1, 1000), *range(1001, 1450)]
    assert targets(95) == list(range(1, 101))


def test_memory_mapped_files_give_the_same_batches(
    tmp_path: Path, token_file: Callable[..., np.ndarray]
) -> None:
    tokens = token_file(500)
    np.save(tmp_path / "tokens.npy", tokens)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    one, other = (
        Batches([array], batch_size=2, block_size=8, seed=1).at(5) for array in (tokens, mapped)
    )
    assert torch.equal(one.inputs, other.inputs)


def test_the_prefetcher_returns_the_batch_of_any_step() -> None:
    with contextlib.closing(Prefetcher(windows(), torch.device("cpu"))) as prefetcher:
        for step in (0, 1, 2, 7, 3):
            assert torch.equal(prefetcher.at(step).inputs, windows().at(step).inputs)


def packed(rows: int = 7, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows with distinct tokens, and marks with a different number of targets in each."""
    tokens = np.arange(rows * width, dtype=np.uint16).reshape(rows, width)
    marks = np.zeros((rows, width), np.uint8)
    for row in range(rows):
        marks[row, 1 : 2 + row % (width - 1)] = COUNTS
    return tokens, marks


def test_each_row_comes_once_an_epoch_and_the_weights_average_to_one() -> None:
    tokens, marks = packed()
    batches = RowBatches(tokens, marks, batch_size=2, seed=1)
    seen = [batches.at(step) for step in range(7)]
    firsts = torch.cat([batch.inputs[:, 0] for batch in seen]).tolist()
    assert sorted(firsts[:7]) == sorted(firsts[7:]) == tokens[:, 0].tolist()
    assert firsts[:7] != firsts[7:]
    for batch in seen:
        assert batch.weights is not None
        assert batch.weights.mean().item() == pytest.approx(1)
        assert len(batch.weights.unique()) <= 2


def test_the_ranks_of_a_packed_batch_are_slices_of_it() -> None:
    tokens, marks = packed()
    whole = RowBatches(tokens, marks, batch_size=4, seed=1).at(3)
    parts = [
        RowBatches(tokens, marks, batch_size=4, seed=1, rank=rank, world=2).at(3)
        for rank in range(2)
    ]
    for which in range(3):
        assert torch.equal(whole[which], torch.cat([part[which] for part in parts]))


def test_no_rows_are_an_error() -> None:
    with pytest.raises(UserError, match="no conversation"):
        RowBatches(np.zeros((0, 5), np.uint16), np.zeros((0, 5), np.uint8), batch_size=1, seed=1)


def test_the_first_tokens_of_each_answer_weigh_more() -> None:
    # Two answers, of four tokens and of one. The first token of a row is not a target
    marks = np.array([[COUNTS, 0, COUNTS, COUNTS, COUNTS, COUNTS, 0, COUNTS]], np.uint8)
    tokens = np.arange(8, dtype=np.uint16)[None]
    batches = RowBatches(tokens, marks, batch_size=1, seed=1, emphasis=Emphasis(2, 3.0))
    weights = batches.at(0).weights
    assert weights is not None
    expected = torch.tensor([[0.0, 3, 3, 1, 1, 0, 3]])
    torch.testing.assert_close(weights, expected / expected.mean())
