"""Reload, measured: another bundle is put to work, and others are refused, under requests.

    python benchmarks/reload.py BUNDLE                      # about two minutes on two cores

Others are made of it: one whose backbone is another, so that its answers are; one with half the HR@10; one
with a byte changed; one whose vectors are not its model's. Writes ``results/reload.json``.
"""

import argparse
import copy
import itertools
import json
import random
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from load import Answer, figures, open_loop
from report import must_show, write_report
from safetensors.numpy import load_file, save_file
from serve import llmemb

from llmemb.bundle import (
    ITEM_VECTORS,
    LLM_VECTORS,
    SRS_MODEL,
    read_bundle,
    read_manifest,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny_bundle import reseal

RATE, SECONDS, REQUESTS = 50, 60, 100
ALIKE = 1e-3  # of scores; those of the two bundles differ by far more
QUALITY = ("llmemb", "full", "all")


def main() -> None:
    """Measure and write ``results/reload.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    arguments = parser.parse_args()
    ids = read_bundle(arguments.bundle).catalogue.ids
    chance = random.Random(0)
    bodies = [
        json.dumps({"sequence": chance.sample(ids, 9), "k": 10}).encode() for _ in range(REQUESTS)
    ]
    with tempfile.TemporaryDirectory(prefix="llmemb-reload-") as name:
        folder = Path(name)
        make_bundles(arguments.bundle, folder)
        with llmemb(folder / "current", folder) as running:
            found = measure(running.url, bodies)
    print(
        write_report(
            "reload",
            f"another bundle put to work over {len(ids)} items, {RATE} /recommend a second, CPU",
            1,
            promises(found),
            **found,
        )
    )


def make_bundles(bundle: Path, folder: Path) -> None:
    """Write ``current``, ``next``, and three that are not to be put to work."""
    for name in ("current", "next", "worse", "broken", "foreign"):
        shutil.copytree(bundle, folder / name)
    rng = np.random.default_rng(0)
    weights = load_file(folder / "next" / SRS_MODEL)
    for one in weights.values():
        if one.ndim == 2:
            one += one.std() * rng.standard_normal(one.shape).astype(one.dtype)
    save_file(weights, folder / "next" / SRS_MODEL)
    seal(folder / "next")
    seal(folder / "worse", quality=0.5)
    vectors = load_file(folder / "foreign" / LLM_VECTORS)
    save_file(
        {name: np.roll(one, 1, axis=0) for name, one in vectors.items()},
        folder / "foreign" / LLM_VECTORS,
    )
    vectors = load_file(folder / "foreign" / ITEM_VECTORS)
    save_file(
        {name: np.roll(one, 1, axis=0) for name, one in vectors.items()},
        folder / "foreign" / ITEM_VECTORS,
    )
    seal(folder / "foreign")
    damaged = bytearray((folder / "broken" / ITEM_VECTORS).read_bytes())
    damaged[-1] ^= 1
    (folder / "broken" / ITEM_VECTORS).write_bytes(damaged)


def seal(bundle: Path, quality: float = 1) -> None:
    """Write the manifest that a bundle's trainer would, with HR@10 multiplied."""
    metrics = copy.deepcopy(read_manifest(bundle).metrics)
    row = metrics
    for key in QUALITY:
        row = row[key]
    row["HR@10"] *= quality
    reseal(bundle, metrics=metrics)


def measure(url: str, bodies: list[bytes]) -> dict[str, Any]:
    """Reload under load; compare each answer with those of the two bundles alone."""
    before = alone(url, bodies)
    answers: list[Answer] = []
    load = threading.Thread(
        target=lambda: answers.extend(
            open_loop(
                f"{url}/recommend", itertools.islice(itertools.cycle(bodies), RATE * SECONDS), RATE
            )
        )
    )
    load.start()
    time.sleep(5)
    reloaded = posted(f"{url}/admin/reload", {"bundle": "next"})
    refused = {
        name: posted(f"{url}/admin/reload", {"bundle": name})
        for name in ("worse", "broken", "foreign")
    }
    while_reloading = load.is_alive()
    load.join()
    after = alone(url, bodies)
    assert all(not alike(one, other) for one, other in zip(before, after, strict=True))
    mixed = sum(
        not any(alike(json.loads(answer.body), one[i % len(bodies)]) for one in (before, after))
        for i, answer in enumerate(answers)
        if answer.status == 200
    )
    return {
        "seconds_to_swap": reloaded[1].get("seconds"),
        "reload_status": reloaded[0],
        "refused": {name: {"status": one[0], **one[1]} for name, one in refused.items()},
        "load_outlasted_them": while_reloading,
        "under_load": figures(answers),
        "answers_of_the_old": sum(
            one["bundle"] == before[0]["bundle"] for one in map(body, answers)
        ),
        "answers_of_the_new": sum(
            one["bundle"] == after[0]["bundle"] for one in map(body, answers)
        ),
        "mixed_answers": mixed,
    }


def alone(url: str, bodies: list[bytes]) -> list[dict[str, Any]]:
    """Return the answer to each request, asked one after the other."""
    return [posted(f"{url}/recommend", json.loads(one))[1] for one in bodies]


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two answers are those of one bundle."""
    pairs = zip(one["items"], other["items"], strict=True)
    return one["bundle"] == other["bundle"] and all(
        abs(a["score"] - b["score"]) < ALIKE for a, b in pairs
    )


def body(answer: Answer) -> dict[str, Any]:
    """Return what an answer says."""
    return dict(json.loads(answer.body))


def posted(url: str, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Post JSON; return the status and the answer, whatever they are."""
    asked = urllib.request.Request(
        url, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def promises(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was promised, and whether it holds."""
    failed = found["under_load"]["requests"] - found["under_load"]["answered"]
    swapped = found["reload_status"] == 200 and found["answers_of_the_new"] > 0
    refused = all(one["status"] == 409 and one["detail"] for one in found["refused"].values())
    return [
        must_show(f"failed requests at {RATE} a second", failed, "0", failed == 0),
        must_show("mixed answers", found["mixed_answers"], "0", found["mixed_answers"] == 0),
        must_show("swapped under load; seconds", found["seconds_to_swap"], "done", swapped),
        must_show(
            "worse, broken and foreign bundles refused with the reason", refused, "true", refused
        ),
    ]


if __name__ == "__main__":
    main()
