from collections.abc import Callable

import numpy as np
import pytest
import torch

from antimatter.data.batches import Batches, Emphasis, RowBatches, in_order
from antimatter.data.special_tokens import COUNTS

FILES = [np.arange(0, 1000, dtype=np.uint16), np.arange(1000, 1450, dtype=np.uint16)]


def test_a_batch_is_a_function_of_the_step_alone() -> None:
    there = Batches(FILES, batch_size=4, block_size=10, seed=1)
    walked = [there.at(step) for step in range(60)]  # 143 windows: the third epoch begins
    jumped = Batches(FILES, batch_size=4, block_size=10, seed=1).at(59)
    assert torch.equal(walked[59][0], jumped[0])
    assert not torch.equal(
        walked[59][0], Batches(FILES, batch_size=4, block_size=10, seed=2).at(59)[0]
    )


def test_targets_are_the_next_tokens_and_windows_stay_in_their_file() -> None:
    batches = Batches(FILES, batch_size=4, block_size=10, seed=1)
    for step in range(60):
        inputs, targets, *_ = batches.at(step)
        assert inputs.shape == targets.shape == (4, 10)
        # The files count upwards, and one window never mixes two
        assert torch.equal(targets, inputs + 1)
        assert all(
            bool((row < 1000).all() or (row >= 1000).all())
            for row in torch.cat([inputs, targets], dim=1)
        )


def test_an_epoch_sees_each_window_once_and_the_next_cuts_them_elsewhere() -> None:
    batches = Batches(FILES, batch_size=1, block_size=10, seed=1)
    starts = [
        [int(batches.at(epoch * batches.windows + i)[0][0, 0]) for i in range(batches.windows)]
        for epoch in range(2)
    ]
    assert len(set(starts[0])) == batches.windows == 99 + 44
    assert {start % 10 for start in starts[0]} != {start % 10 for start in starts[1]}
    assert starts[0] != sorted(starts[0])


@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_share_one_global_batch(world: int) -> None:
    whole = Batches(FILES, batch_size=8, block_size=10, seed=1).at(3)
    parts = [
        Batches(FILES, batch_size=8, block_size=10, seed=1, rank=rank, world=world).at(3)
        for rank in range(world)
    ]
    assert torch.equal(torch.cat([part[0] for part in parts]), whole[0])


def test_too_little_text_and_an_unequal_share_are_refused() -> None:
    with pytest.raises(ValueError, match="block_size must be smaller than half the tokens"):
        Batches([np.arange(15, dtype=np.uint16)], batch_size=1, block_size=8, seed=1)
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 3 devices, got 8"):
        Batches(FILES, batch_size=8, block_size=10, seed=1, rank=0, world=3)


def test_in_order_makes_every_token_but_the_first_a_target_once() -> None:
    seen = torch.cat(
        [targets.flatten() for _, targets, *_ in in_order(FILES, batch_size=3, block_size=10)]
    )
    assert seen.tolist() == [*range(1, 1000), *range(1001, 1450)]
    first = torch.cat(
        [
            targets.flatten()
            for _, targets, *_ in in_order(FILES, batch_size=3, block_size=10, tokens=95)
        ]
    )
    assert first.tolist() == list(range(1, 101))


def test_reading_by_memory_map_gives_the_same_batches(
    tmp_path: object, token_file: Callable[..., np.ndarray]
) -> None:
    tokens = token_file(500)
    np.save(f"{tmp_path}/tokens.npy", tokens)
    mapped = np.load(f"{tmp_path}/tokens.npy", mmap_mode="r")
    assert torch.equal(
        Batches([mapped], batch_size=2, block_size=8, seed=1).at(5)[0],
        Batches([tokens], batch_size=2, block_size=8, seed=1).at(5)[0],
    )


def packed(rows: int = 7, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows that tell which they are, and marks with a different number of targets in each."""
    tokens = np.arange(rows * width, dtype=np.uint16).reshape(rows, width)
    marks = np.zeros((rows, width), np.uint8)
    for row in range(rows):
        marks[row, 1 : 2 + row % (width - 1)] = COUNTS
    return tokens, marks


def test_each_row_comes_once_an_epoch_and_what_counts_averages_to_one() -> None:
    tokens, marks = packed()
    batches = RowBatches(tokens, marks, batch_size=2, seed=1)
    seen = [batches.at(step) for step in range(7)]
    firsts = torch.cat([batch.inputs[:, 0] for batch in seen]).tolist()
    assert sorted(firsts[:7]) == sorted(firsts[7:]) == tokens[:, 0].tolist()
    assert firsts[:7] != firsts[7:]
    for batch in seen:
        assert batch.counts is not None
        assert batch.counts.mean().item() == pytest.approx(1)
        assert len(batch.counts.unique()) <= 2


def test_the_ranks_of_a_packed_batch_are_slices_of_it() -> None:
    tokens, marks = packed()
    whole = RowBatches(tokens, marks, batch_size=4, seed=1).at(3)
    parts = [
        RowBatches(tokens, marks, batch_size=4, seed=1, rank=rank, world=2).at(3)
        for rank in range(2)
    ]
    for which in range(3):
        assert torch.equal(whole[which], torch.cat([part[which] for part in parts]))


def test_no_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="no conversation"):
        RowBatches(np.zeros((0, 5), np.uint16), np.zeros((0, 5), np.uint8), batch_size=1, seed=1)


def test_the_first_tokens_of_each_answer_count_more() -> None:
    # Two answers, of four and of one token; the mark before the first belongs to no target
    marks = np.array([[COUNTS, 0, COUNTS, COUNTS, COUNTS, COUNTS, 0, COUNTS]], np.uint8)
    tokens = np.arange(8, dtype=np.uint16)[None]
    batches = RowBatches(tokens, marks, batch_size=1, seed=1, emphasis=Emphasis(2, 3.0))
    counts = batches.at(0).counts
    assert counts is not None
    expected = torch.tensor([[0.0, 3, 3, 1, 1, 0, 3]])
    torch.testing.assert_close(counts, expected / expected.mean())
