"""What the paper's SCFT loss asks of an LLM: which item of a batch each item is pulled to.

    python benchmarks/soft_targets.py data/beauty

Its targets are ``softmax((X X' + Y Y') / 2 * tau)`` over vectors that are not normalised (see
``trainer.contrast.SoftTarget``). Looks at them for batches of ``--preset paper`` before SCFT and after, both
views its whole prompt. Trains what is not trained yet; writes ``results/soft-targets-<data>.json``.
"""

import sys

import numpy as np
import torch
from quality_rows import PAPER_SCFT, Row, open_workshop, workshop_arguments
from report import write_report
from torch import Tensor
from torch.nn import functional as F

from llmemb.bundle import ENCODER
from llmemb.encoder import load_encoder
from llmemb.errors import LLMEmbError
from trainer.contrast import SoftTarget
from trainer.stages import only_run

BATCHES = 4


def main() -> None:
    """Embed some batches with the LLM as it is and as it was tuned, and write what they are pulled to."""
    arguments = workshop_arguments(__doc__.splitlines()[0]).parse_args()
    workshop = open_workshop(arguments)
    data, base = workshop.data, workshop.base
    run = workshop.run(Row("", "adapted", "paper", PAPER_SCFT), seed=0)
    settings = run.preset.scft
    items = np.random.default_rng(0).permutation(np.flatnonzero(run.seen))
    items = items[: BATCHES * settings.batch_size]
    prompts = [run.template.render(data.catalogue.attributes[item]) for item in items]
    vectors = {}
    with only_run(workshop.work):
        for name, one in {"before": run.untuned(), "after": run}.items():
            encoder = load_encoder(one.scft[0] / ENCODER, base, run.preset.encoder)
            vectors[name] = torch.from_numpy(encoder.encode(prompts)).float()
    cosines = F.cosine_similarity(vectors["before"], vectors["after"])
    loss = SoftTarget(settings.temperature, learnable=False)
    path = write_report(
        f"soft-targets-{data.facts.name}",
        f"targets of the paper's SCFT loss on {data.facts.name}, {base.source}",
        BATCHES,
        [],
        folder=arguments.results,
        batch=settings.batch_size,
        cosine_before_after=round(float(cosines.mean()), 4),
        **{name: targets(each, settings.batch_size, loss) for name, each in vectors.items()},
    )
    print(path)


def targets(vectors: Tensor, batch: int, loss: SoftTarget) -> dict[str, float]:
    """Return what items are pulled to, averaged over batches.

    Args:
        vectors: float32 ``[items, llm]``.
        batch: items in a batch.
        loss: whose targets they are.
    """
    found = []
    for x in torch.split(vectors, batch):
        soft = F.softmax(loss.likeness(x, x), dim=1)
        highest = soft.argmax(1)
        directions = F.normalize(x, dim=1)
        found.append(
            {
                "norm": x.norm(dim=1).mean(),
                "cosine_of_two_items": (directions @ directions.T).mean(),
                "spread_of_dot_products": (x @ x.T).std(1, correction=0).mean(),
                "largest_target": soft.amax(1).mean(),
                "share_pulled_to_itself": (highest == torch.arange(len(x))).float().mean(),
                "items_that_others_are_pulled_to": len(set(highest.tolist())),
            }
        )
    return {key: round(float(np.mean([float(one[key]) for one in found])), 4) for key in found[0]}


if __name__ == "__main__":
    try:
        main()
    except LLMEmbError as error:
        sys.exit(f"error: {error}")
