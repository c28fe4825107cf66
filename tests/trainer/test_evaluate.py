"""The evaluation protocols against a slow, plain reading of them."""

import numpy as np
import pytest
import torch

from llmemb.interactions import LeaveOneOut, Sequences, leave_one_out
from llmemb.srs import BackboneSettings, build_backbone
from trainer.evaluate import (
    backbone_scorer,
    evaluation_report,
    fixed_negatives,
    full_ranks,
    popularity_scorer,
    ranks,
)

N_ITEMS = 150


@pytest.fixture(scope="module")
def split() -> LeaveOneOut:
    rng = np.random.default_rng(1)
    lengths = rng.integers(2, 12, 60)
    items = (rng.zipf(1.3, lengths.sum()) % N_ITEMS).astype(np.int32)
    return leave_one_out(Sequences(items, np.concatenate([[0], np.cumsum(lengths)])), N_ITEMS)


@pytest.fixture(scope="module")
def model() -> tuple:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSettings(width=8, blocks=1, max_length=6)).eval()
    return backbone, torch.randn(N_ITEMS, 8)


def slow_scores(model: tuple, history: np.ndarray) -> np.ndarray:
    backbone, table = model
    recent = torch.from_numpy(history[-6:].astype(np.int64))
    with torch.inference_mode():
        user = backbone.user_vectors(table[recent][None], torch.tensor([len(recent)]))
    return (user @ table.T)[0].numpy()


@pytest.mark.parametrize("part", ["validation", "test"])
def test_ranks_follow_the_protocols(split: LeaveOneOut, model: tuple, part: str) -> None:
    found = ranks(backbone_scorer(*model), split, part)
    negatives = fixed_negatives(split)
    assert np.array_equal(full_ranks(backbone_scorer(*model), split, part), found.full)
    cases = zip(split.histories(part), split.targets(part), strict=True)
    for row, (history, target) in enumerate(cases):
        scores = slow_scores(model, history)
        others = np.delete(np.arange(N_ITEMS), target)
        unseen = [i for i in others if i not in history]
        assert found.full[row] == (scores[others] >= scores[target]).sum()
        assert found.unseen[row] == (scores[unseen] >= scores[target]).sum()
        assert found.sampled[row] == (scores[negatives[row]] >= scores[target]).sum()


def test_batches_do_not_change_ranks(
    split: LeaveOneOut, model: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ranks(backbone_scorer(*model), split, "test")
    monkeypatch.setattr("trainer.evaluate.SCORE_BATCH_BYTES", 4 * N_ITEMS * 7)
    parts = ranks(backbone_scorer(*model), split, "test")
    for name in ("full", "unseen", "sampled", "recommended"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


def test_a_repeat_bias_is_added_to_what_the_history_holds(split: LeaveOneOut, model: tuple) -> None:
    backbone = build_backbone(BackboneSettings(width=8, blocks=1, max_length=6, repeat_bias=True))
    backbone.load_state_dict(model[0].state_dict())
    torch.nn.init.constant_(backbone.repeat_bias, 2.5)
    histories = split.histories("test")[:20]
    with torch.inference_mode():
        plain = backbone_scorer(*model)(histories)
        found = backbone_scorer(backbone.eval(), model[1])(histories)
    for row, history in enumerate(histories):
        expected = np.isin(np.arange(N_ITEMS), history) * 2.5
        assert (found - plain)[row].numpy() == pytest.approx(expected, abs=1e-5)


def test_negatives_are_fixed_and_never_the_users_own(split: LeaveOneOut) -> None:
    negatives = fixed_negatives(split)
    assert np.array_equal(negatives, fixed_negatives(split))
    for row, u in enumerate(split.evaluated):
        assert len(set(negatives[row])) == 100
        assert not set(negatives[row]) & set(split.full[u])


def test_a_tiny_catalogue_still_has_negatives() -> None:
    items = np.array([0, 1, 2, 3, 0, 1], dtype=np.int32)
    tiny = leave_one_out(Sequences(items, np.array([0, 4, 6])), n_items=4)
    assert fixed_negatives(tiny).shape == (1, 100)


def test_popularity_ties_count_against_it(split: LeaveOneOut) -> None:
    found = ranks(popularity_scorer(split), split, "test")
    counts = split.popularity
    expected = [(counts >= counts[target]).sum() - 1 for target in split.targets("test")]
    assert found.full.tolist() == expected


def test_the_report_has_the_agreed_keys(split: LeaveOneOut, model: tuple) -> None:
    report = evaluation_report(ranks(backbone_scorer(*model), split, "test"), split, "test")
    protocols = {"full", "unseen", "sampled100"}
    assert set(report) == {*protocols, "by_popularity", "coverage@10", "n_users"}
    for protocol in ("full", "unseen", "sampled100"):
        assert {"all", "tail", "warm_tail", "head", "cold", "novel", "repeat"} == set(
            report[protocol]
        )
        assert {"HR@10", "NDCG@10", "MRR@10", "HR@20"} <= set(report[protocol]["all"])
    full = report["full"]
    assert full["all"]["n"] == report["n_users"] == full["tail"]["n"] + full["head"]["n"]
    assert report["unseen"]["all"]["n"] == full["all"]["n"] - full["cold"]["n"]
    share = full["tail"]["n"] / full["all"]["n"]
    combined = share * full["tail"]["HR@10"] + (1 - share) * full["head"]["HR@10"]
    assert full["all"]["HR@10"] == pytest.approx(combined)
    assert 0 < report["coverage@10"] <= 1
    buckets = report["by_popularity"]
    assert list(buckets) == ["0", "1-2", "3-5", "6-10", "11-20", "21-50", "51+"]
    assert buckets["0"] == full["cold"]
    assert sum(one["n"] for one in buckets.values()) == full["all"]["n"]
