"""The map of the quality report: a catalogue's vectors before SCFT, after SCFT and after RAT, by t-SNE.

Where items lie is kept with the measured rows, so that the map can be drawn again without the LLM.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from quality_rows import Workshop, all_rows
from safetensors import safe_open
from safetensors.numpy import save_file

from llmemb.catalogue import Attributes
from llmemb.files import replacing_file
from trainer.places import catalogue_places

mpl.use("Agg")
from matplotlib import pyplot as plt

MAPPED, UNTUNED = "default/sasrec", "raw/sasrec"  # rows, seed 0
MAPPED_ITEMS, COLOURS = 3000, 8
COLOUR_FIELDS = ("categories", "category", "genres", "genre", "brand")
SPACES = {"llm": "LLM", "scft": "LLM after SCFT", "rat": "item vectors after RAT"}


def lay_out(workshop: Workshop) -> None:
    """Place items in each space and keep that, unless it is done; trains what it needs."""
    if _kept(workshop):
        return
    by_name = {row.name: row for row in all_rows()}
    tuned = workshop.run(by_name[MAPPED], 0)
    spaces = {
        "llm": workshop.run(by_name[UNTUNED], 0).llm_vectors,
        "scft": tuned.llm_vectors,
        "rat": tuned.trained_adapted().item_vectors().numpy(),
    }
    items = _shown(item_colours(workshop.data.catalogue.attributes))
    kept = {"items": items}
    for space, vectors in spaces.items():
        chosen = vectors[items].astype(np.float32)
        kept[space] = catalogue_places(chosen - chosen.mean(0), seed=0)
    with replacing_file(_path(workshop)) as aside:
        save_file(kept, aside, {"key": _key(workshop)})


def draw_map(workshop: Workshop) -> plt.Figure | None:
    """Return the map, coloured by category or brand; ``None``: nothing was laid out."""
    kept = _kept(workshop)
    if not kept:
        return None
    labels = item_colours(workshop.data.catalogue.attributes)[kept["items"]]
    figure, axes = plt.subplots(1, 3, figsize=(15, 5))
    for panel, (space, title) in zip(axes, SPACES.items(), strict=True):
        for label in np.unique(labels):
            panel.scatter(*kept[space][labels == label].T, s=3, label=label)
        panel.set_title(title)
        panel.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=8, markerscale=4)
    return figure


def item_colours(items: Sequence[Attributes]) -> NDArray[np.str_]:
    """Return what items are coloured by: the first of the fields that any has; "": an item has none."""
    fields = (np.array([_first(item.get(field)) for item in items]) for field in COLOUR_FIELDS)
    unknown = np.full(len(items), "")
    return next((labels for labels in fields if (labels != "").any()), unknown)


def _first(value: Any) -> str:
    while isinstance(value, list):
        value = value[0] if value else ""
    return str(value or "")


def _shown(labels: NDArray[np.str_]) -> NDArray[np.int64]:
    """Return which items the map shows: some of those with the most frequent labels."""
    names, counts = np.unique(labels[labels != ""], return_counts=True)
    shown = names[np.argsort(-counts)][:COLOURS] if len(names) else labels[:1]
    items = np.flatnonzero(np.isin(labels, shown))
    return np.random.default_rng(0).permutation(items)[:MAPPED_ITEMS]


def _kept(workshop: Workshop) -> dict[str, NDArray[Any]]:
    """Return what was laid out with these settings: ``items``, and for each space float32 ``[items, 2]``."""
    path = _path(workshop)
    if not path.exists():
        return {}
    with safe_open(path, "numpy") as file:
        if file.metadata()["key"] != _key(workshop):
            return {}
        return {name: file.get_tensor(name) for name in ("items", *SPACES)}


def _path(workshop: Workshop) -> Path:
    return workshop.kept / "map.safetensors"


def _key(workshop: Workshop) -> str:
    return next(workshop.key(row, 0) for row in all_rows() if row.name == MAPPED)
