"""Ranking metrics against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmemb.metrics import ranking_metrics, target_ranks


def test_rank_counts_the_items_above() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5]])
    assert target_ranks(scores, torch.tensor([2, 1])).tolist() == [1, 0]


def test_a_tie_counts_against_the_model() -> None:
    assert target_ranks(torch.zeros(1, 5), torch.tensor([2])).tolist() == [4]


def test_a_score_that_is_no_number_never_wins() -> None:
    scores = torch.tensor([[torch.nan, 0.2, 0.1], [0.3, 0.2, torch.nan]])
    assert target_ranks(scores, torch.tensor([0, 1])).tolist() == [2, 2]


def test_an_item_left_out_does_not_count() -> None:
    scores = torch.tensor([[-torch.inf, 0.2, 0.1]])
    assert target_ranks(scores, torch.tensor([2])).tolist() == [1]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_metrics_follow_their_definitions(ranks: list[int]) -> None:
    found = ranking_metrics(np.array(ranks))
    for k in (10, 20):
        hits = [r for r in ranks if r < k]
        assert found[f"HR@{k}"] == pytest.approx(len(hits) / len(ranks))
        assert found[f"NDCG@{k}"] == pytest.approx(
            sum(1 / np.log2(r + 2) for r in hits) / len(ranks)
        )
        assert found[f"MRR@{k}"] == pytest.approx(sum(1 / (r + 1) for r in hits) / len(ranks))


def test_an_empty_group_is_zero_not_nan() -> None:
    assert set(ranking_metrics(np.array([], dtype=np.int64)).values()) == {0.0}


def test_metrics_agree_with_ir_measures() -> None:
    import ir_measures
    from ir_measures import RR, Success, nDCG

    torch.manual_seed(0)
    scores, targets = torch.randn(40, 60), torch.randint(60, (40,))
    found = ranking_metrics(target_ranks(scores, targets).numpy())
    run = [
        ir_measures.ScoredDoc(str(user), str(item), float(scores[user, item]))
        for user in range(40)
        for item in range(60)
    ]
    truth = [ir_measures.Qrel(str(user), str(int(item)), 1) for user, item in enumerate(targets)]
    for k in (10, 20):
        names = {Success @ k: "HR", nDCG @ k: "NDCG", RR @ k: "MRR"}
        theirs = ir_measures.calc_aggregate(list(names), truth, run)
        for measure, name in names.items():
            assert found[f"{name}@{k}"] == pytest.approx(theirs[measure], abs=1e-6), measure
