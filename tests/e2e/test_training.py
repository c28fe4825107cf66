"""A whole training run through the command line: killed anywhere, it ends with the same bundle."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_tiny_llm

from llmemb.bundle import read_bundle
from llmemb.catalogue import Catalogue
from llmemb.errors import BundleError, ModelError
from trainer.stages import only_run

STAGES = ["scft", "vectors", "collaborative", "rat"]
FAST = [
    "--preset=quick",
    "--set=scft.batch_size=16",
    "--set=scft.epochs=4",
    "--set=scft.checkpoint_steps=2",
    "--set=projection.dimensions=16",
    "--set=srs.width=16",
    "--set=srs.max_length=20",
    "--set=collaborative.epochs=4",
    "--set=rat.epochs=4",
]


def llmemb(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from llmemb.cli import main; main()", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(llmemb(*arguments), capture_output=True, text=True)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small catalogue whose users like one genre each; item 59 is never bought."""
    folder = tmp_path_factory.mktemp("shop")
    genres = ["drama", "comedy", "action"]
    items = [
        {"id": f"film/{i}", "title": f"Story {i}", "genre": genres[i % 3], "stars": i / 10}
        for i in range(60)
    ]
    (folder / "items.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    rng = np.random.default_rng(0)
    lines = [
        " ".join([f"user{u}", *(f"film/{3 * j + u % 3}" for j in rng.permutation(19)[:8])])
        for u in range(40)
    ]
    (folder / "sequences.txt").write_text("\n".join(lines))
    data = folder / "data"
    made = run("data", "prepare", "files", folder, "--out", data, "--domain", "film")
    assert made.returncode == 0, made.stderr
    return data


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def bundle(shop: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "bundle"
    done = run("train", shop, "--out", out, "--base-model", base, *FAST)
    assert done.returncode == 0, done.stderr
    return out


def bundle_id(path: Path) -> str:
    return str(json.loads((path / "manifest.json").read_bytes())["bundle"])


@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_any_stage_it_ends_with_the_same_bundle(
    shop: Path, base: Path, bundle: Path, tmp_path: Path, stage: str
) -> None:
    out = tmp_path / "bundle"
    command = llmemb("train", shop, "--out", out, "--base-model", base, *FAST)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"{stage}: ") and (stage == "vectors" or "started" not in line):
                os.kill(process.pid, signal.SIGKILL)
                break
        process.stderr.read()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    done = run("train", shop, "--out", out, "--base-model", base, *FAST)
    assert done.returncode == 0, done.stderr
    assert bundle_id(out) == bundle_id(bundle)


def test_one_of_two_processes_is_killed_and_two_go_on(
    shop: Path, base: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "llmemb.cli"]
    train = ["train", shop, "--out", out, "--base-model", base, *FAST]
    command = [sys.executable, "-m", *launch, *map(str, train)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as launcher:
        assert launcher.stderr is not None
        for line in launcher.stderr:
            if line.startswith("scft: step"):
                children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
                os.kill(int(children.split()[-1]), signal.SIGKILL)
                break
        launcher.stderr.read()
    assert launcher.returncode
    assert not out.exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for stage in ("scft", "vectors", "rat"):
        assert done.stderr.count(f"{stage}: done") == 1
    assert done.stdout.count("written to") == 1
    found, expected = (torch.from_numpy(read_bundle(b).llm_vectors).float() for b in (out, bundle))
    # Where the CPU has bfloat16 it is used; in float32 test_processes.py asks for more.
    assert torch.cosine_similarity(found, expected).min() > 0.999


def test_a_report_stands_by_itself(bundle: Path) -> None:
    work = bundle.with_name("bundle.work")
    page = (work / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=.https?:", page)
    assert page.count("<svg") == 5
    assert f"{read_bundle(bundle).manifest.metrics['llmemb']['full']['all']['NDCG@10']:.4f}" in page
    assert {path.name for path in (work / "tensorboard").iterdir()} >= {"scft", "rat", "evaluate"}


def test_machines_are_told_in_json(shop: Path, base: Path, bundle: Path) -> None:
    trained = run("train", shop, "--out", bundle, "--base-model", base, *FAST, "--json")
    assert json.loads(trained.stdout)["bundle"] == bundle_id(bundle)
    items = shop.parent / "items.jsonl"
    vectors = bundle.with_name("vectors.parquet")
    embedded = run("embed", bundle, items, "--out", vectors, "--json")
    assert json.loads(embedded.stdout)["kept"]["items"] == 60
    prepared = run(
        "data", "prepare", "files", shop.parent, "--out", shop.parent / "again", "--json"
    )
    assert json.loads(prepared.stdout)["kept"]["items"] == 60


def test_an_unchanged_run_does_nothing_again(shop: Path, base: Path, bundle: Path) -> None:
    before = bundle_id(bundle)
    again = run("train", shop, "--out", bundle, "--base-model", base, *FAST)
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stderr
    assert bundle_id(bundle) == before


def test_a_changed_setting_runs_only_what_depends_on_it(
    shop: Path, base: Path, bundle: Path
) -> None:
    again = run(
        "train", shop, "--out", bundle, "--base-model", base, *FAST, "--set=rat.id_dropout=0.1"
    )
    started = [
        line.split(":")[0] for line in again.stderr.splitlines() if line.endswith(": started")
    ]
    assert started == ["rat", "map"]
    restored = run("train", shop, "--out", bundle, "--base-model", base, *FAST)
    assert restored.returncode == 0


@pytest.mark.parametrize("srs", ["gru4rec", "bert4rec"])
def test_every_backbone_makes_a_bundle(
    shop: Path, base: Path, bundle: Path, tmp_path: Path, srs: str
) -> None:
    out = bundle.with_name(srs)
    shutil.copytree(bundle.with_name("bundle.work"), out.with_name(f"{srs}.work"))
    done = run("train", shop, "--out", out, "--base-model", base, *FAST, "--srs", srs)
    assert done.returncode == 0, done.stderr
    assert "scft: started" not in done.stderr
    made = read_bundle(out)
    vectors = torch.from_numpy(made.item_vectors[None, :5])
    assert made.backbone.user_vectors(vectors, torch.tensor([5])).shape == (1, 16)
    assert {"popularity", f"id/{srs}", "llmemb"} == set(made.manifest.metrics)
    adapted = made.adapt(made.llm_vectors, made.residuals)
    assert np.abs(adapted - made.item_vectors).max() < 1e-4


def test_the_card_and_evaluate_tell_the_same(shop: Path, bundle: Path, tmp_path: Path) -> None:
    shown = run("evaluate", bundle, shop, "--json", tmp_path / "metrics.json")
    assert shown.returncode == 0, shown.stderr
    found = json.loads((tmp_path / "metrics.json").read_bytes())
    protocols = {"full", "unseen", "sampled100"}
    assert {*protocols, "by_popularity", "coverage@10", "n_users", "baselines"} == set(found)
    assert {"popularity", "id/sasrec"} == set(found["baselines"])
    card = (bundle / "README.md").read_text()
    for group in ("all", "tail", "head"):
        for metric in ("HR@10", "NDCG@10"):
            value = f"{found['full'][group][metric]:.4f}"
            assert value in card
            assert value in shown.stdout
    assert "stars" in card  # an attribute that tells popularity, named as left out


def test_a_bundle_is_evaluated_on_its_own_data_only(
    shop: Path, bundle: Path, tmp_path: Path
) -> None:
    other = tmp_path / "data"
    other.mkdir()
    for path in shop.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    facts = json.loads((other / "dataset.json").read_bytes())
    (other / "dataset.json").write_text(json.dumps({**facts, "fingerprint": "0" * 64}))
    shown = run("evaluate", bundle, other)
    assert shown.returncode == 1
    assert "was trained on other data" in shown.stderr


def test_every_byte_of_a_bundle_is_covered(bundle: Path) -> None:
    files = [path for path in sorted(bundle.rglob("*")) if path.is_file()]
    assert len(files) > 12
    for path in files:
        content = path.read_bytes()
        for position in {0, len(content) // 2, len(content) - 1}:
            for mask in (0x01, 0x20, 0xFF):
                flipped = bytearray(content)
                flipped[position] ^= mask
                path.write_bytes(flipped)
                with pytest.raises(BundleError) as caught:
                    read_bundle(bundle)
                assert str(path) in str(caught.value)
                assert "\n" not in str(caught.value)
        path.write_bytes(content)
    read_bundle(bundle)


def test_a_missing_an_extra_and_a_linked_file_are_named(bundle: Path, tmp_path: Path) -> None:
    for path in [path for path in bundle.rglob("*") if path.is_file()]:
        aside = tmp_path / "aside"
        path.rename(aside)
        with pytest.raises(BundleError, match=f"{path.name} is missing"):
            read_bundle(bundle)
        path.symlink_to(aside)
        with pytest.raises(BundleError, match=path.name):
            read_bundle(bundle)
        path.unlink()
        aside.rename(path)
    extra = bundle / "encoder" / "code.py"
    extra.write_text("")
    with pytest.raises(BundleError, match=r"code\.py is not in the manifest"):
        read_bundle(bundle)
    extra.unlink()


def test_another_base_model_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = make_tiny_llm(tmp_path, "qwen2")
    with pytest.raises(ModelError, match="is not the one that this bundle was trained with"):
        read_bundle(bundle).load_encoder(str(other))


def test_a_bundle_embeds_its_own_items_as_it_was_trained(bundle: Path) -> None:
    loaded = read_bundle(bundle)
    prompts = [loaded.manifest.prompt.render(item) for item in loaded.catalogue.attributes]
    vectors = loaded.load_encoder().encode(prompts)
    assert vectors == pytest.approx(loaded.llm_vectors, abs=5e-3)
    cold = loaded.popularity == 0
    assert cold.any()
    assert loaded.adapt(loaded.llm_vectors)[cold] == pytest.approx(
        loaded.item_vectors[cold], abs=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--base-model", "/no/model"], "base model '/no/model' is not there"),
        (["--set", "scft.nonsense=1"], "scft.nonsense"),
        (["--preset", "slow"], "there is no preset 'slow'"),
        (["--srs", "caser"], "srs.name"),
        (["--set", "srs.heads=3"], "not a multiple of 3 heads"),
        (["--set", "seed=-1"], "seed"),
    ],
)
def test_a_wrong_command_is_one_line(
    shop: Path, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    done = run("train", shop, "--out", tmp_path / "out", *arguments)
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_bundle_is_never_replaced(shop: Path, base: Path) -> None:
    before = sorted(path.name for path in shop.iterdir())
    for out in (shop, shop.parent):
        done = run("train", shop, "--out", out, "--base-model", base, *FAST)
        assert done.returncode == 1
        assert "is no bundle" in done.stderr
    assert sorted(path.name for path in shop.iterdir()) == before


def test_data_changed_behind_our_back_are_refused(shop: Path, base: Path, tmp_path: Path) -> None:
    data = shutil.copytree(shop, tmp_path / "data")
    Catalogue(["a"], [{}]).write(data / "items.parquet")
    done = run("train", data, "--out", tmp_path / "out", "--base-model", base, *FAST)
    assert done.returncode == 1
    assert "items.parquet is missing or changed" in done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_one_line_and_leaves_no_bundle(
    shop: Path, base: Path, bundle: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        # The stages fit on the disk, the bundle beside them does not.
        work = shutil.copytree(bundle.with_name("bundle.work"), disk / "bundle.work")
        filler = disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - 64 * 1024))
        done = run("train", shop, "--out", disk / "bundle", "--base-model", base, *FAST)
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert sorted(disk.iterdir()) == [work, filler]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_data_that_are_not_prepared_say_how(tmp_path: Path) -> None:
    done = run("train", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "llmemb data prepare" in done.stderr


def test_two_runs_to_one_place_do_not_mix(shop: Path, base: Path, tmp_path: Path) -> None:
    with only_run(tmp_path / "out.work"):
        second = run("train", shop, "--out", tmp_path / "out", "--base-model", base, *FAST)
    assert second.returncode == 1
    assert "another run is writing" in second.stderr
