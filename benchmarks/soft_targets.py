"""What the paper's SCFT loss asks of an LLM: which item of a batch each item is pulled to.

    python benchmarks/soft_targets.py data/beauty

Its targets are ``softmax((X X' + Y Y') / 2 * tau)`` over vectors that are not normalised (see
``trainer.contrast.SoftTarget``). Looks at them for batches of ``--preset paper`` before SCFT and after, both
views its whole prompt. Trains what is not trained yet; writes ``results/soft-targets-<data>.json``.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality_rows import Row, Workshop, all_rows
from report import RESULTS, write_report
from rich.console import Console
from scipy.special import softmax

from llmemb.base_model import DEFAULT_BASE_MODEL, find_base_model
from llmemb.encoder import load_encoder
from llmemb.errors import LLMEmbError
from trainer.dataset import read_dataset
from trainer.progress import Progress
from trainer.stages import only_run

BATCHES = 4


def main() -> None:
    """Embed some batches with the LLM as it is and as it was tuned, and write what they are pulled to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="prepared data (`llmemb data prepare`)")
    parser.add_argument("--base-model", default=DEFAULT_BASE_MODEL, help="the LLM")
    parser.add_argument("--work", type=Path, help="where stages are kept (<data>.quality)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    data = read_dataset(arguments.data)
    work = arguments.work or arguments.data.with_name(f"{arguments.data.name}.quality")
    with only_run(work):
        base = find_base_model(arguments.base_model)
        progress = Progress(Console(stderr=True))
        workshop = Workshop(data, base, work, arguments.results, progress, Path())
        run = workshop.run(paper_row(), 0)
        settings = run.preset.scft
        items = np.random.default_rng(0).permutation(np.flatnonzero(run.seen))
        items = items[: BATCHES * settings.batch_size]
        prompts = [run.template.render(data.catalogue.attributes[item]) for item in items]
        vectors = {}
        for name, one in {"before": run.untuned(), "after": run}.items():
            encoder = load_encoder(one.scft[0] / "encoder", base, run.preset.encoder)
            vectors[name] = encoder.encode(prompts).astype(np.float32)
    before, after = (unit(each) for each in vectors.values())
    path = write_report(
        f"soft-targets-{data.facts.name}",
        f"targets of the paper's SCFT loss on {data.facts.name}, {base.source}",
        BATCHES,
        [],
        folder=arguments.results,
        batch=settings.batch_size,
        cosine_before_after=round(float((before * after).sum(1).mean()), 4),
        **{
            name: targets(each, settings.batch_size, settings.temperature)
            for name, each in vectors.items()
        },
    )
    print(path)


def paper_row() -> Row:
    """Return the row whose SCFT it is; all backbones share it."""
    return next(row for row in all_rows() if row.name == "paper/sasrec")


def targets(vectors: NDArray[np.float32], batch: int, tau: float) -> dict[str, float]:
    """Return what items are pulled to, averaged over batches.

    Args:
        vectors: float32 ``[items, llm]``.
        batch: items in a batch.
        tau: starting temperature.
    """
    found = []
    for x in np.split(vectors, range(batch, len(vectors), batch)):
        dots = x @ x.T
        soft = softmax(dots * tau, axis=1)
        highest = soft.argmax(1)
        found.append(
            {
                "norm": np.linalg.norm(x, axis=1).mean(),
                "cosine_of_two_items": (unit(x) @ unit(x).T).mean(),
                "spread_of_dot_products": dots.std(1).mean(),
                "largest_target": soft.max(1).mean(),
                "share_pulled_to_itself": (highest == np.arange(len(x))).mean(),
                "items_that_others_are_pulled_to": len(np.unique(highest)),
            }
        )
    return {key: round(float(np.mean([one[key] for one in found])), 4) for key in found[0]}


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors of length one, float32 ``[items, llm]``."""
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


if __name__ == "__main__":
    try:
        main()
    except LLMEmbError as error:
        sys.exit(f"error: {error}")
