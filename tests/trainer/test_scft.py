"""SCFT: fresh views, masked twins, every family, a folder that sentence-transformers loads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CONFIGS, make_tiny_llm
from transformers import AutoTokenizer

from llmemb.base_model import find_base_model
from llmemb.encoder import Encoder, EncoderSettings, load_base, load_encoder
from llmemb.errors import ModelError
from llmemb.interactions import Sequences
from llmemb.prompt import PromptTemplate
from trainer import scft as scft_module
from trainer import scft_loss
from trainer.cooccurrence import neighbours
from trainer.lora import training_dtype
from trainer.presets import ScftSettings
from trainer.scft import train_scft
from trainer.steps import Step
from trainer.views import PairsCollator, reading_groups

TEMPLATE = PromptTemplate(domain="film", fields=("title", "year", "genres"))
GENRES = ["drama", "action", "Comedy", "alpha", "beta"]
FILMS = [
    {"title": f"Story {i}", "year": 1990 + i, "genres": [GENRES[i % 5], GENRES[i % 3]]}
    for i in range(24)
]
SEQUENCES = Sequences(np.arange(24, dtype=np.int32), np.array([0, 2, 20, 24]))
MEAN = EncoderSettings()
SETTINGS = ScftSettings(epochs=2, batch_size=8, learning_rate=5e-3, checkpoint_steps=2)


def train(
    folder: Path,
    base: Path,
    report: Callable[[Step], None] = lambda _: None,
    encoder: EncoderSettings = MEAN,
    **changes: object,
) -> Path:
    folder.mkdir(exist_ok=True)
    untuned = np.random.default_rng(0).normal(size=(len(FILMS), 32))
    train_scft(
        FILMS,
        TEMPLATE,
        find_base_model(str(base)),
        encoder,
        SETTINGS.model_copy(update=changes),
        seed=0,
        folder=folder,
        sequences=SEQUENCES,
        untuned=untuned,
        report=report,
    )
    return folder / "encoder"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("llm"))


def weights(encoder: Path) -> bytes:
    return (encoder / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("loss", ["infonce", "soft", "catalogue"])
def test_it_learns_to_tell_items_apart(tmp_path: Path, base: Path, loss: str) -> None:
    steps: list[Step] = []
    start = {"infonce": 0.1, "soft": 3.0, "catalogue": 0.1}[loss]
    train(tmp_path, base, steps.append, loss=loss, temperature=start, epochs=10)
    losses = [step.loss for step in steps]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert steps[-1].step == steps[-1].steps == len(steps)
    lines = (tmp_path / "losses.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("pooling", ["mean", "eos"])
def test_every_family_trains_and_loads(tmp_path: Path, family: str, pooling: str) -> None:
    base = make_tiny_llm(tmp_path / "llm", family)
    settings = EncoderSettings(pooling=pooling, depth=0.6)
    folder = train(tmp_path, base, encoder=settings, epochs=1)
    encoder = load_encoder(folder, find_base_model(str(base)), settings)
    assert np.isfinite(encoder.encode([TEMPLATE.render(film) for film in FILMS])).all()


@pytest.mark.parametrize(("depth", "layers"), [(1.0, 3), (0.6, 2)])
def test_sentence_transformers_loads_the_folder_and_agrees(
    tmp_path: Path, base: Path, depth: float, layers: int
) -> None:
    from sentence_transformers import SentenceTransformer

    settings = EncoderSettings(depth=depth)
    folder = train(tmp_path, base, encoder=settings)
    assert not (folder / "README.md").exists()
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    prompts = [TEMPLATE.render(film) for film in FILMS]
    library = SentenceTransformer(str(folder), device="cpu")
    assert len(library[0].auto_model.layers) == layers
    theirs = library.encode(prompts).astype(np.float64)
    encoder = load_encoder(folder, find_base_model(str(base)), settings, dtype=torch.float32)
    ours = encoder.encode(prompts).astype(np.float64)
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.min() > 0.9999


def test_the_lora_changes_the_vectors(tmp_path: Path, base: Path) -> None:
    folder = train(tmp_path, base)
    model = find_base_model(str(base))
    tuned = load_encoder(folder, model, EncoderSettings()).encode(["title is Story"])
    blank = train(tmp_path / "blank", base, learning_rate=1e-12)
    raw = load_encoder(blank, model, EncoderSettings()).encode(["title is Story"])
    assert not np.allclose(tuned, raw, atol=1e-2)


@pytest.mark.parametrize(
    "changes", [{}, {"lora_dropout": 0.2}, {"loss": "catalogue", "cooccurrence": 1.0}]
)
def test_an_interrupted_run_ends_with_the_same_weights(
    tmp_path: Path, base: Path, changes: dict
) -> None:
    whole = train(tmp_path / "whole", base, **changes)

    def die(step: Step) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "again", base, die, **changes)
    steps: list[Step] = []
    again = train(tmp_path / "again", base, steps.append, **changes)
    assert steps[0].step == 5  # from the checkpoint after step 4
    assert weights(again) == weights(whole)
    config = (again / "adapter_config.json").read_text()
    assert config == (whole / "adapter_config.json").read_text()


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path, base: Path) -> None:
    def die(step: Step) -> None:
        if step.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, base, die)
    (tmp_path / "checkpoints" / "checkpoint-4" / scft_module.COMPLETE).unlink()
    (tmp_path / "checkpoints" / "checkpoint-4" / "optimizer.pt").write_bytes(b"half")
    steps: list[Step] = []
    train(tmp_path, base, steps.append)
    assert steps[0].step == 3


def collator(base: Path, items: list[dict] = FILMS, **changes: float) -> PairsCollator:
    tokenizer = AutoTokenizer.from_pretrained(base)
    settings = SETTINGS.model_copy(update=changes)
    return PairsCollator(
        items,
        TEMPLATE,
        tokenizer,
        EncoderSettings(),
        settings,
        seed=0,
        neighbours=neighbours(SEQUENCES, len(FILMS)),
        groups=reading_groups(items, TEMPLATE),
    )


def test_views_are_fresh_at_each_visit_and_repeatable(base: Path) -> None:
    collate = collator(base)
    views = {tuple(collate.view(3, v, s)) for v in range(10) for s in (0, 1)}
    assert len(views) > 5
    assert collate.view(3, 2, 1) == collate.view(3, 2, 1)


def test_items_that_read_alike_are_not_each_others_negatives(base: Path) -> None:
    items = [{"title": "A"}, {"title": "B"}, {"title": "A ", "note": None}]
    batch = collator(base, items)([{"item": i, "visit": 0} for i in (0, 1, 2)])
    a, b, c = batch["label"][:, 0].tolist()
    assert a == c != b


def test_views_that_say_the_same_are_not_each_others_negatives(base: Path) -> None:
    items = [{"title": "A", "year": 1}, {"title": "B", "year": 1}]
    collate = collator(base, items, drop=0.5)  # one statement of the two is left
    rows = [{"item": 0, "visit": v} for v in range(20)] + [
        {"item": 1, "visit": v} for v in range(20)
    ]
    label = collate(rows)["label"]
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            left = collate.view(one["item"], one["visit"], 0)
            right = collate.view(other["item"], other["visit"], 1)
            assert (label[i, 2] == label[j, 3]) == (sorted(left) == sorted(right))
    assert (label[:20, 2][:, None] == label[20:, 3]).any()  # both films say only their year


def test_no_epochs_leave_the_llm_as_it_is(tmp_path: Path, base: Path) -> None:
    folder = train(tmp_path, base, epochs=0)
    model = find_base_model(str(base))
    prompts = [TEMPLATE.render(film) for film in FILMS]
    plain = Encoder(
        load_base(model, torch.float32),
        AutoTokenizer.from_pretrained(base),
        MEAN,
        torch.device("cpu"),
    )
    found = load_encoder(folder, model, MEAN, dtype=torch.float32).encode(prompts)
    assert np.allclose(found, plain.encode(prompts), atol=1e-3)


def test_chunks_of_like_length_change_nothing(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: dict[int, list[float]] = {40: [], 100_000: []}
    for budget, found in losses.items():
        monkeypatch.setattr(scft_loss, "CHUNK_TOKENS", budget)
        train(tmp_path / str(budget), base, lambda step, to=found: to.append(step.loss), epochs=1)
    assert losses[40] == pytest.approx(losses[100_000], rel=0.02)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_positives_is_another_item_used_nearby(base: Path, share: float) -> None:
    collate = collator(base, cooccurrence=share)
    rows = [{"item": 10, "visit": visit} for visit in range(200)]
    partners = [collate.partner(row) for row in rows]
    assert np.mean([partner != 10 for partner in partners]) == pytest.approx(share, abs=0.1)
    assert set(partners) <= {7, 8, 9, 10, 11, 12, 13}
    batch = collate([*rows[:3], {"item": 2, "visit": 0}])
    assert batch["label"][:, 0].tolist() == collate.groups[[10, 10, 10, 2]].tolist()
    assert batch["label"][:3, 1].tolist() == collate.groups[partners[:3]].tolist()


def test_only_the_top_layers_are_trained_where_asked(tmp_path: Path, base: Path) -> None:
    folder = train(tmp_path, base, top_layers=0.34, epochs=1)
    targets = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    assert {name.split(".")[1] for name in targets} == {"1", "2"}  # 0.34 of 3 layers, rounded up


def test_gradient_checkpointing_and_accumulation_work(tmp_path: Path, base: Path) -> None:
    steps: list[Step] = []
    train(tmp_path, base, steps.append, gradient_checkpointing=True, accumulation=2)
    assert len(steps) == 24 * 2 // 16


def test_one_step_still_trains(tmp_path: Path, base: Path) -> None:
    one = train(tmp_path / "one", base, batch_size=24, epochs=1)
    blank = train(tmp_path / "blank", base, batch_size=24, epochs=1, learning_rate=1e-12)
    assert weights(one) != weights(blank)


def test_an_x86_cpu_without_amx_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert training_dtype(torch.device("cpu")) is torch.float32


def test_what_cannot_be_trained_is_one_line(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ModelError, match="reads at most 512 tokens"):
        train(tmp_path, base, encoder=EncoderSettings(max_tokens=1024))


def test_a_catalogue_smaller_than_a_batch_still_trains(tmp_path: Path, base: Path) -> None:
    steps: list[Step] = []
    train(tmp_path, base, steps.append, batch_size=128)
    assert len(steps) == 2


CATALOGUE = ScftSettings(loss="catalogue", cooccurrence=0.75)


def catalogue_contrast(near: list[list[int]], groups: list[int], **changes: float) -> Any:
    ragged = Sequences(
        np.array([other for others in near for other in others], dtype=np.int32),
        np.append(0, np.cumsum([len(others) for others in near])),
    )
    vectors = np.random.default_rng(0).normal(size=(len(near), 16))
    settings = CATALOGUE.model_copy(update=changes)
    return scft_loss.CatalogueContrast(vectors, ragged, np.array(groups), settings), vectors


def test_the_catalogue_contrast_pulls_an_item_to_itself_and_to_those_nearby() -> None:
    contrast, _ = catalogue_contrast([[1, 1, 2], [0, 0], [0], []], [0, 1, 2, 3])
    targets = contrast.targets(torch.tensor([0, 2, 3]))
    expected = [[0.25, 0.5, 0.25, 0], [0.75, 0, 0.25, 0], [0, 0, 0, 1]]
    assert torch.allclose(targets, torch.tensor(expected))


def test_items_that_read_alike_are_not_told_apart_by_the_catalogue_contrast() -> None:
    near = [[1], [0], [1], [0]]
    apart, vectors = catalogue_contrast(near, [0, 1, 2, 3], cooccurrence=1.0)
    alike, _ = catalogue_contrast(near, [0, 1, 0, 3], cooccurrence=1.0)
    x, item = torch.from_numpy(vectors[:1]).float(), torch.tensor([0])
    for contrast in (apart, alike):
        contrast(x, item).backward()
    assert apart.vectors.grad[0].abs().sum() == 0  # an item is not its own negative
    assert apart.vectors.grad[2].abs().sum() > 0
    assert alike.vectors.grad[2].abs().sum() == 0
    assert torch.isfinite(alike.vectors.grad).all()
