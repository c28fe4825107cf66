"""Sequences without padding: each position is there once, and attention finds it."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from llmemb.srs.packing import ATTENTION_POSITIONS, Packing

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@given(LENGTHS)
def test_positions_lie_sequence_after_sequence(lengths: list[int]) -> None:
    packing = Packing(torch.tensor(lengths))
    padded = torch.arange(len(lengths))[:, None] * 1000 + torch.arange(max(lengths) + 2)
    expected = [1000 * row + step for row, length in enumerate(lengths) for step in range(length)]
    assert packing.pack(padded).tolist() == expected
    assert packing.steps.tolist() == [step for length in lengths for step in range(length)]
    assert packing.pack(padded)[packing.last].tolist() == [
        1000 * row + length - 1 for row, length in enumerate(lengths)
    ]


@given(LENGTHS)
def test_groups_for_attention_hold_whole_sequences_and_are_put_back(lengths: list[int]) -> None:
    packing = Packing(torch.tensor(lengths))
    assert torch.equal(
        torch.cat([rows.flatten() for rows, _ in packing.groups])[packing.back],
        torch.arange(sum(lengths)),
    )
    sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    for rows, real in packing.groups:
        assert (sequence[rows] == sequence[rows[:, :1]]).all()
        assert rows.numel() <= ATTENTION_POSITIONS or len(rows) == 1
        steps = packing.steps[rows]
        assert torch.equal(steps[real], torch.arange(rows.shape[1]).expand_as(rows)[real])


@given(LENGTHS)
def test_even_means_that_the_only_group_is_the_table(lengths: list[int]) -> None:
    packing = Packing(torch.tensor(lengths))
    tables = [rows.flatten() for rows, _ in packing.groups]
    everything = torch.arange(sum(lengths))
    assert packing.even == (len(tables) == 1 and torch.equal(tables[0], everything))


def test_a_lone_sequence_is_even() -> None:
    assert Packing(torch.tensor([300])).even
    assert Packing(torch.tensor([4, 4, 4])).even
    assert not Packing(torch.tensor([4, 3])).even
