"""Training by several processes against one, and the gradient cache; run by ``scale.py``.

The same runs as in ``tests/trainer``: SCFT of a tiny LLM in float32, in each way that negatives are chosen.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from report import must_show

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "trainer"))
from contrastive_gradients import gradients_and_memory
from scft_in_processes import DIES, PLACED, WAYS, fine_tune, launch, losses, vectors
from tiny import make_tiny_llm

LOSS, COSINE, GRADIENT = 1e-4, 0.9999, 1e-5
PAIRS, CACHED = 512, 64


def measure() -> dict[str, Any]:
    """Return what ``report.write_report`` takes."""
    with tempfile.TemporaryDirectory(prefix="llmemb-scale-") as name:
        folder = Path(name)
        base = make_tiny_llm(folder / "llm")
        for way, changes in WAYS.items():
            fine_tune(folder / "one" / way, base, **changes)
        fine_tune(folder / "begun by one", base, dies=DIES)
        launch(folder)
        fine_tune(folder / "begun by two", base)
        runs = {f"two processes, {way}": (f"two/{way}", way) for way in WAYS}
        for way, placed in PLACED.items():
            if placed:
                told = ", ".join(f"{setting}={value}" for setting, value in placed.items())
                runs[f"two processes, {way}, {told}"] = (f"placed/{way}", way)
        runs["one was killed, two went on"] = ("begun by one", "infonce")
        runs["one of two was killed, one went on"] = ("begun by two", "infonce")
        found = {
            run: compared(folder / made, folder / "one" / way, base)
            for run, (made, way) in runs.items()
        }
        gradients = gradient_cache(base)
    return {
        "what": "SCFT of a tiny LLM in float32 by two gloo processes against one at the same global batch, "
        f"and the gradients of {PAIRS} pairs by the gradient cache",
        "runs": 1,
        "promises": [*promises(found), *gradients.pop("promises")],
        "against_one_process": found,
        "gradient_cache": gradients,
    }


def compared(run: Path, other: Path, base: Path) -> dict[str, float]:
    """Return how far two runs are apart, at most."""
    apart = np.abs(np.subtract(losses(run), losses(other))).max()
    cosines = (vectors(run, base) * vectors(other, base)).sum(1)
    return {"loss_apart": float(f"{apart:.2g}"), "lowest_cosine": round(float(cosines.min()), 7)}


def promises(found: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Return what was promised of all runs, and whether it holds."""
    apart = max(one["loss_apart"] for one in found.values())
    cosine = min(one["lowest_cosine"] for one in found.values())
    return [
        must_show("loss of any step, apart", apart, f"<= {LOSS}", apart <= LOSS),
        must_show("lowest cosine of a vector", cosine, f">= {COSINE}", cosine >= COSINE),
    ]


def gradient_cache(base: Path) -> dict[str, Any]:
    """Compare the gradients of a batch, and the memory with that of a small one."""
    whole, whole_bytes = gradients_and_memory(base, PAIRS, cache=None)
    cached, cached_bytes = gradients_and_memory(base, PAIRS, cache=CACHED)
    _, small_bytes = gradients_and_memory(base, CACHED, cache=None)
    apart = max(float((one - other).abs().max()) for one, other in zip(whole, cached, strict=True))
    share = cached_bytes / small_bytes
    return {
        "megabytes": {
            f"{PAIRS} pairs": round(whole_bytes / 1e6, 1),
            f"{PAIRS} pairs, cache of {CACHED}": round(cached_bytes / 1e6, 1),
            f"{CACHED} pairs": round(small_bytes / 1e6, 1),
        },
        "promises": [
            must_show(
                "gradients apart", float(f"{apart:.2g}"), f"<= {GRADIENT}", apart <= GRADIENT
            ),
            must_show(
                f"memory of {PAIRS} pairs with the cache, in that of {CACHED}",
                round(share, 3),
                "<= 1",
                share <= 1,
            ),
        ],
    }
