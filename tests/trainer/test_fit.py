"""The training loop: it learns, stops in time, and resumes to the very same weights."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from llmemb.adapter import Adapter, AdapterSettings
from llmemb.errors import DataError, LLMEmbError
from llmemb.interactions import LeaveOneOut, Sequences, leave_one_out
from llmemb.srs import BackboneName, BackboneSettings, build_backbone
from trainer import fit as fit_module
from trainer.fit import Epoch, Recommender, fit, validation_ndcg
from trainer.item_tables import AdaptedTable, IdTable
from trainer.next_item import LossName
from trainer.presets import FitSettings

N_ITEMS = 20


@pytest.fixture
def split() -> LeaveOneOut:
    """Users who walk round the catalogue: the next item is the one after the last."""
    rng = np.random.default_rng(0)
    walks = [(start + np.arange(8)) % N_ITEMS for start in rng.integers(0, N_ITEMS, 120)]
    items = np.concatenate(walks).astype(np.int32)
    return leave_one_out(Sequences(items, np.arange(0, len(items) + 1, 8)), N_ITEMS)


def id_model(backbone: BackboneName = "sasrec", **levers: bool) -> Recommender[IdTable]:
    torch.manual_seed(0)
    settings = BackboneSettings(name=backbone, width=16, blocks=1, max_length=8, **levers)
    return Recommender(IdTable.random(N_ITEMS, 16), build_backbone(settings))


def settings(**changes: object) -> FitSettings:
    return FitSettings(batch_size=16, epochs=6, learning_rate=5e-3).model_copy(update=changes)


@pytest.mark.parametrize("loss", get_args(LossName))
def test_it_learns_the_next_item(split: LeaveOneOut, tmp_path: Path, loss: str) -> None:
    model = id_model()
    before = validation_ndcg(model, split)
    fit(model, split, settings(loss=loss, epochs=12), seed=0, folder=tmp_path)
    assert validation_ndcg(model, split) > before + 0.3


@pytest.mark.parametrize("backbone", get_args(BackboneName))
def test_every_backbone_learns_the_next_item(
    split: LeaveOneOut, tmp_path: Path, backbone: BackboneName
) -> None:
    model = id_model(backbone)
    fit(model, split, settings(epochs=60, learning_rate=1e-2), seed=0, folder=tmp_path)
    assert validation_ndcg(model, split) > 0.8


def test_it_stops_when_validation_stops_rising(split: LeaveOneOut, tmp_path: Path) -> None:
    epochs: list[Epoch] = []
    chosen = settings(epochs=100, patience=3, learning_rate=0.05)
    fit(id_model(), split, chosen, seed=0, folder=tmp_path, report=epochs.append)
    assert len(epochs) < 100
    assert epochs[-1].epoch - epochs[-1].best == 3
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [entry["ndcg"] for entry in history] == [epoch.ndcg for epoch in epochs]


def test_the_best_weights_are_kept(split: LeaveOneOut, tmp_path: Path) -> None:
    epochs: list[Epoch] = []
    model = id_model()
    chosen = settings(epochs=12, learning_rate=0.05)
    fit(model, split, chosen, seed=0, folder=tmp_path, report=epochs.append)
    assert validation_ndcg(model, split) == pytest.approx(max(epoch.ndcg for epoch in epochs))


@pytest.mark.parametrize("averaged_epochs", [0.0, 1.0])
def test_the_weights_kept_are_the_average_of_the_last_epochs(
    split: LeaveOneOut, tmp_path: Path, averaged_epochs: float
) -> None:
    model = id_model()
    seen: list[torch.Tensor] = []

    def watch(_: torch.Tensor) -> torch.Tensor:
        seen.append(model.table.vectors.detach().clone())
        return torch.zeros(())

    chosen = settings(epochs=1, batch_size=2, averaged_epochs=averaged_epochs)
    fit(model, split, chosen, seed=0, folder=tmp_path, extra_loss=watch)
    mean, last = torch.stack(seen[-10:]).mean(0), seen[-1]
    kept = model.table.vectors.detach()
    is_mean = torch.dist(kept, mean) < torch.dist(kept, last)
    assert bool(is_mean) == bool(averaged_epochs)


def test_logit_adjustment_keeps_popularity_out_of_the_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    share = np.arange(1, N_ITEMS + 1) ** 1.5
    items = rng.choice(N_ITEMS, 2000, p=share / share.sum()).astype(np.int32)
    split = leave_one_out(Sequences(items, np.arange(0, 2001, 8)), N_ITEMS)

    def popularity_learnt(adjustment: float) -> float:
        model = id_model()
        fit(model, split, settings(logit_adjustment=adjustment, epochs=20), seed=0, folder=tmp_path)
        histories = [split.train[u] for u in range(len(split.train))]
        scores = model.scorer()(histories).mean(0).detach()
        return float(np.polyfit(np.log(split.popularity), scores.numpy(), 1)[0])

    assert popularity_learnt(0.0) > 0.7
    assert abs(popularity_learnt(1.0)) < 0.2


@pytest.mark.parametrize("loss", get_args(LossName))
@pytest.mark.parametrize("returning", [True, False])
def test_the_repeat_bias_says_whether_users_return_to_an_item(
    tmp_path: Path, loss: LossName, returning: bool
) -> None:
    rng = np.random.default_rng(0)
    chosen = [rng.choice(N_ITEMS, 8, replace=False) for _ in range(100)]
    walks = [items[[0, 1, 0, 1, 1, 0, 1, 0]] if returning else items for items in chosen]
    items = np.concatenate(walks).astype(np.int32)
    split = leave_one_out(Sequences(items, np.arange(0, 801, 8)), N_ITEMS)
    model = id_model(repeat_bias=True)
    fit(model, split, settings(loss=loss, epochs=12), seed=0, folder=tmp_path)
    assert (model.backbone.repeat_bias.item() > 0.2) == returning
    assert (model.backbone.repeat_bias.item() < -0.2) != returning


def test_item_vectors_of_unit_length_are_trained_and_kept(
    split: LeaveOneOut, tmp_path: Path
) -> None:
    model = id_model(unit_items=True)
    fit(model, split, settings(epochs=12), seed=0, folder=tmp_path)
    assert validation_ndcg(model, split) > 0.5
    assert torch.allclose(model.item_vectors().norm(dim=1), torch.ones(N_ITEMS))


@pytest.mark.parametrize("killed_after", [0, 2, 4])
def test_an_interrupted_run_ends_with_the_same_weights(
    split: LeaveOneOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    monkeypatch.setattr(fit_module, "CHECKPOINT_SECONDS", 0.0)
    whole = id_model()
    fit(whole, split, settings(), seed=3, folder=tmp_path)

    folder = tmp_path / "again"
    folder.mkdir()

    def die(epoch: Epoch) -> None:
        if epoch.epoch == killed_after + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(id_model(), split, settings(), seed=3, folder=folder, report=die)
    assert (folder / "checkpoint.safetensors").is_file()
    seen: list[Epoch] = []
    resumed = id_model()
    fit(resumed, split, settings(), seed=3, folder=folder, report=seen.append)
    assert seen[0].epoch == killed_after + 1
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_divergence_is_told(split: LeaveOneOut, tmp_path: Path) -> None:
    with pytest.raises(LLMEmbError, match="training diverged in epoch"):
        fit(id_model(), split, settings(learning_rate=1e30), seed=0, folder=tmp_path)


def test_nothing_to_learn_is_told(tmp_path: Path) -> None:
    short = leave_one_out(Sequences(np.arange(3, dtype=np.int32), np.array([0, 3])), N_ITEMS)
    with pytest.raises(DataError, match="no user has two training items"):
        fit(id_model(), short, settings(), seed=0, folder=tmp_path)


def adapted_table(id_dropout: float | None = 0.5) -> AdaptedTable:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    projected = rng.normal(size=(N_ITEMS, 6)).astype(np.float32)
    seen = np.arange(N_ITEMS) != 7
    return AdaptedTable(projected, Adapter(AdapterSettings(inputs=6, outputs=16)), seen, id_dropout)


def test_a_cold_item_is_served_from_its_attributes_alone(
    split: LeaveOneOut, tmp_path: Path
) -> None:
    backbone = build_backbone(BackboneSettings(width=16, blocks=1, max_length=8))
    model = Recommender(adapted_table(), backbone)
    fit(model, split, settings(), seed=0, folder=tmp_path)
    vectors = model.item_vectors()
    adapted = model.table.adapter(model.table.projected)
    assert torch.equal(vectors[7], adapted[7])
    assert not torch.allclose(vectors[6], adapted[6], atol=1e-3)


def test_residuals_start_at_zero_and_can_be_left_away() -> None:
    for id_dropout in (0.5, None):
        table = adapted_table(id_dropout).eval()
        assert torch.equal(table(), table.adapter(table.projected))
    assert adapted_table(None).residual is None


def test_a_table_gives_rows_as_it_gives_all() -> None:
    items = torch.tensor([2, 7, 19])
    for table in (adapted_table().eval(), IdTable.random(N_ITEMS, 16)):
        assert torch.allclose(table(items), table()[items], atol=1e-6)


def test_a_cold_item_is_nobodys_negative() -> None:
    assert adapted_table().candidates.tolist() == [i for i in range(N_ITEMS) if i != 7]
    assert IdTable.random(N_ITEMS, 16).candidates.tolist() == list(range(N_ITEMS))


def test_id_dropout_leaves_out_residuals_only_while_training() -> None:
    table = adapted_table()
    torch.nn.init.ones_(table.residual)
    full = table.eval()()
    torch.manual_seed(0)
    part = table.train()()
    left_out = (part - table.adapter(table.projected)).abs().sum(1) < 1e-6
    assert 1 < left_out.sum() < N_ITEMS
    assert torch.equal(full[~left_out], part[~left_out])


def test_the_extra_loss_sees_each_batchs_items(split: LeaveOneOut, tmp_path: Path) -> None:
    calls: list[torch.Tensor] = []

    def extra(items: torch.Tensor) -> torch.Tensor:
        calls.append(items)
        return torch.zeros(())

    fit(id_model(), split, settings(epochs=1), seed=0, folder=tmp_path, extra_loss=extra)
    assert calls
    assert all(len(items.unique()) == len(items) <= N_ITEMS for items in calls)
