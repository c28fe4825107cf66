"""``report.html`` of a training run: what the bundle brings, on one page that needs nothing else."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmemb.bundle import Bundle
from llmemb.files import json_bytes, replacing_file
from llmemb.interactions import head_items
from trainer.card import COLUMNS, metric_rows
from trainer.evaluate import bucket_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROTOCOLS = {
    "full": "All items ranked",
    "unseen": "Items that the user has seen left out; targets without a training interaction not counted",
    "sampled100": "The target among 100 fixed random items",
}
NAMED_BY = ("title", "name")
EXAMPLES, NEIGHBOURS = 8, 5
OURS, OTHER, TAIL, HEAD = "#2563a8", "#b8bec8", "#e08a1e", "#2563a8"


def write_training_report(bundle: Bundle, path: Path) -> None:
    """Write the report of a bundle: metrics beside baselines, training curves, the map, examples."""
    from jinja2 import Environment, PackageLoader

    manifest = bundle.manifest
    environment = Environment(loader=PackageLoader("trainer", "."), autoescape=True)
    page = environment.get_template("training_report.html.jinja").render(
        manifest=manifest,
        columns=COLUMNS,
        tables=[
            (title, metric_rows(manifest.metrics, protocol))
            for protocol, title in PROTOCOLS.items()
        ],
        users=manifest.metrics["llmemb"]["n_users"],
        coverage={name: report["coverage@10"] for name, report in manifest.metrics.items()},
        pictures=_pictures(bundle),
        examples=_tail_examples(bundle),
        settings=json_bytes(manifest.settings).decode(),
    )
    with replacing_file(path) as aside:
        aside.write_text(page, encoding="utf-8")


def _pictures(bundle: Bundle) -> dict[str, str]:
    metrics, history = bundle.manifest.metrics, bundle.manifest.history
    rival = next(name for name in metrics if name.startswith("id/"))
    ours, other = metrics["llmemb"]["by_popularity"], metrics[rival]["by_popularity"]
    buckets = [bucket for bucket in bucket_labels() if ours[bucket]["n"]]
    fitted = {stage: epochs for stage, epochs in history.items() if stage != "scft" and epochs}

    def by_popularity(axes: "Axes") -> None:
        places = np.arange(len(buckets))
        for offset, row, colour, name in ((-0.2, other, OTHER, rival), (0.2, ours, OURS, "llmemb")):
            heights = [row[bucket]["NDCG@10"] for bucket in buckets]
            axes.bar(places + offset, heights, 0.38, color=colour, label=name)
        axes.set_xticks(places, [f"{bucket}\n{ours[bucket]['n']:,}" for bucket in buckets])
        axes.set_xlabel("training interactions of the target; below them, how many targets")
        axes.set_ylabel("NDCG@10")
        axes.legend(frameon=False)

    def curves(what: str, label: str) -> Callable[["Axes"], None]:
        def draw(axes: "Axes") -> None:
            for stage, epochs in fitted.items():
                axes.plot([epoch[what] for epoch in epochs], label=stage)
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.legend(frameon=False)

        return draw

    def fine_tuning(axes: "Axes") -> None:
        steps = history["scft"]
        axes.plot([part["step"] for part in steps], [part["loss"] for part in steps])
        axes.set_xlabel("step")
        axes.set_ylabel("loss")

    def places(axes: "Axes") -> None:
        head = head_items(bundle.popularity)
        for chosen, colour, name in ((~head, TAIL, "tail"), (head, HEAD, "head")):
            # Thousands of dots are one picture, not so many shapes.
            x, y = bundle.places[chosen].T
            axes.scatter(x, y, s=2, c=colour, label=name, rasterized=True)
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.legend(frameon=False, markerscale=4, loc="upper right")

    drawn = {
        "NDCG@10 by popularity of the target": _svg(by_popularity),
        "NDCG@10 on the validation split": _svg(curves("ndcg", "NDCG@10")),
        "Loss": _svg(curves("loss", "loss")),
        "Loss of fine-tuning the LLM": _svg(fine_tuning) if history.get("scft") else "",
        "The catalogue: items near each other are used alike": _svg(places, (7.0, 6.0)),
    }
    return {title: svg for title, svg in drawn.items() if svg}


def _svg(draw: Callable[["Axes"], None], size: tuple[float, float] = (7.0, 3.2)) -> str:
    """Return a figure as an SVG element whose letters are letters."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "llmemb", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", dpi=144, metadata={"Date": None}, transparent=True)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def _tail_examples(bundle: Bundle) -> list[tuple[str, list[str]]]:
    """Return some tail items, fewest interactions first, and what their vectors lie nearest to."""
    vectors = bundle.item_vectors / np.linalg.norm(bundle.item_vectors, axis=1, keepdims=True)
    rows = np.argsort(bundle.popularity, kind="stable")
    tail = rows[~head_items(bundle.popularity)[rows]]
    chosen = tail[np.linspace(0, len(tail) - 1, min(EXAMPLES, len(tail))).astype(int)]
    examples = []
    for row in chosen:
        nearest = np.argsort(-(vectors @ vectors[row]), kind="stable")
        others = [other for other in nearest[: NEIGHBOURS + 1] if other != row][:NEIGHBOURS]
        label = f"{_name(bundle, row)} ({bundle.popularity[row]:,} interactions)"
        examples.append((label, [_name(bundle, other) for other in others]))
    return examples


def _name(bundle: Bundle, row: int) -> str:
    attributes: dict[str, Any] = bundle.catalogue.attributes[row]
    named = next((attributes[key] for key in NAMED_BY if attributes.get(key)), None)
    return str(named or bundle.catalogue.ids[row])
