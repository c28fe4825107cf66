"""docs/results.md: the tables of one data set between its markers, and its pictures beside them.

What stands outside the markers is written by hand and stays.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from quality_map import draw_map
from quality_promises import best_of, gains, resampled_means
from quality_rows import ABLATIONS, BACKBONES, Rows, Workshop, all_rows

from llmemb.files import replacing_file
from trainer.card import COLUMNS
from trainer.evaluate import POPULARITY_BUCKETS, bucket_labels

mpl.use("Agg")
from matplotlib import pyplot as plt

DOCS = Path(__file__).parents[1] / "docs"


def write_results_page(results: Path, workshop: Workshop, rows: Rows) -> None:
    """Draw the pictures and write the tables between the page's markers for this data set."""
    name = workshop.data.facts.name
    report = json.loads(results.read_bytes())
    pictures = {}
    if any(f"default/{backbone}" in rows for backbone in BACKBONES):
        pictures["gain by popularity of the target"] = _gain_by_popularity(workshop, rows)
    if "default/sasrec" in rows and any(name.startswith("ablation/") for name in rows):
        pictures["ablations"] = _ablations(rows)
    if laid_out := draw_map(workshop):
        pictures["the catalogue's vectors"] = laid_out
    lines = [_machine(report), "", "Full ranking, all items:", "", *_table(report, "full"), ""]
    lines += ["Seen items left out (`unseen`):", "", *_table(report, "unseen"), ""]
    lines += ["The target among 100 fixed negatives:", "", *_table(report, "sampled100"), ""]
    lines += ["| promise | measured | target | holds |", "|---|---:|---|---|"]
    lines += [
        f"| {one['line']} | {one['value']} | {one['target']} | {'yes' if one['holds'] else '**no**'} |"
        for one in report["must_show"]
    ]
    for title, figure in pictures.items():
        path = DOCS / "figures" / f"{name}-{title.replace(' ', '-').replace(chr(39), '')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as aside:
            figure.savefig(aside, dpi=120, format="png", bbox_inches="tight")
        lines += ["", f"![{title}](figures/{path.name})"]
    page = DOCS / "results.md"
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- figures of {name} -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    with replacing_file(page) as aside:
        aside.write_text("\n".join([before + begin, "", *lines, "", end]) + after, encoding="utf-8")


def _machine(report: dict[str, Any]) -> str:
    machine = report["machine"]
    return (
        f"{report['date']}, {machine['cores']} cores ({machine['cpu']}), {machine['ram_gib']} GiB, "
        f"GPU: {machine['gpu'] or 'none'}; mean ± standard deviation of up to {report['runs']} seeds; "
        f"`{report['command']}` at {report['commit'][:12]}."
    )


def _table(report: dict[str, Any], protocol: str) -> list[str]:
    head = [
        "",
        *(f"{metric} {group}" for group, metric in COLUMNS),
        "s an epoch",
        "epochs",
        "seeds",
    ]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for name in (row.name for row in all_rows() if row.name in report["rows"]):
        row = report["rows"][name]
        cells = [_cell(row[protocol][group][metric]["seeds"]) for group, metric in COLUMNS]
        epochs = float(np.mean(row["epochs"]))
        speed = f"{row['train_seconds'] / epochs:.1f}" if epochs else ""
        lines.append(
            f"| `{name}` | {' | '.join(cells)} | {speed} | {epochs:.0f} | {len(row['epochs'])} |"
        )
    return lines


def _cell(seeds: list[float]) -> str:
    mean = f"{np.mean(seeds):.4f}"
    return f"{mean} ± {np.std(seeds, ddof=1):.4f}" if len(seeds) > 1 else mean


def _gain_by_popularity(workshop: Workshop, rows: Rows) -> plt.Figure:
    split = workshop.data.split
    popularity = split.popularity[split.targets("test")]
    bucket = np.searchsorted(POPULARITY_BUCKETS, popularity, side="right") - 1
    figure, axes = plt.subplots(figsize=(8, 4))
    labels = bucket_labels()
    places = np.arange(len(labels))
    for i, backbone in enumerate(BACKBONES):
        best = best_of(rows, f"id/{backbone}/")
        if f"default/{backbone}" not in rows or best is None:
            continue
        gain = gains(rows[f"default/{backbone}"]) - gains(rows[best])
        heights = [gain[bucket == b].mean() for b in range(len(labels))]
        axes.bar(places + 0.27 * (i - 1), heights, 0.25, label=backbone)
    axes.set_xticks(places, labels)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlabel("training interactions of the target")
    axes.set_ylabel("NDCG@10 over the best ID-only row")
    axes.legend()
    return figure


def _ablations(rows: Rows) -> plt.Figure:
    whole = gains(rows["default/sasrec"])
    figure, axes = plt.subplots(figsize=(8, 4.5))
    wanted = ["raw/sasrec", *(f"ablation/{lever}" for lever in ABLATIONS)]
    names = [name for name in wanted if name in rows]
    for place, name in enumerate(reversed(names)):
        difference = gains(rows[name]) - whole
        low, high = np.quantile(resampled_means(difference), [0.025, 0.975])
        axes.barh(place, difference.mean(), color="tab:blue" if high < 0 else "tab:grey")
        axes.plot([low, high], [place, place], color="black", linewidth=1)
    seeds = {name: f"{len(rows[name])} seed{'s' * (len(rows[name]) > 1)}" for name in names}
    labels = [f"{name.removeprefix('ablation/')} ({seeds[name]})" for name in reversed(names)]
    axes.set_yticks(range(len(names)), labels)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("NDCG@10, full ranking, less that of default/sasrec (95% interval over users)")
    return figure
