"""The bundle's model card (its README.md) and the table that ``llmemb evaluate`` prints."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from rich.table import Table

from llmemb.base_model import DEFAULT_BASE_MODEL, DEFAULT_HUB_ID
from llmemb.bundle import Manifest

TAGS = [
    "recommender-system",
    "sequential-recommendation",
    "cold-start",
    "long-tail",
    "item-embedding",
]
COLUMNS = [(group, metric) for group in ("all", "tail", "head") for metric in ("HR@10", "NDCG@10")]


def metric_rows(metrics: dict[str, Any], protocol: str) -> list[tuple[str, list[str]]]:
    """Return ``(row name, HR@10 and NDCG@10 over all, tail and head)``, worst row first."""
    ordered = sorted(metrics.items(), key=lambda row: row[1]["full"]["all"]["NDCG@10"])
    return [
        (name, [f"{report[protocol][group][metric]:.4f}" for group, metric in COLUMNS])
        for name, report in ordered
    ]


def metric_table(metrics: dict[str, Any], protocol: str, title: str) -> Table:
    """Return the rows of one protocol as a table for the terminal."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for group, metric in COLUMNS:
        table.add_column(f"{metric}\n{group}", justify="right")
    for name, values in metric_rows(metrics, protocol):
        table.add_row(name, *values)
    return table


def model_card(manifest: Manifest) -> str:
    """Return the model card in Markdown."""
    data, srs = manifest.data, manifest.srs
    eos = " (with the EOS token written at its end)" if manifest.encoder.pooling == "eos" else ""
    users = manifest.metrics["llmemb"]["n_users"]
    return f"""---
{_metadata(manifest).to_yaml()}
---

# Item embeddings and next-item recommender: {data.name}

Trained with [LLMEmb](https://arxiv.org/abs/2409.19925) on {data.items:,} items, {data.users:,} users
and {data.interactions:,} interactions. An item needs only its attributes to get a vector.

- LLM: `{manifest.base_model.source}` with LoRA, {manifest.encoder.pooling} pooling,
  {manifest.llm_dimensions} dimensions
- Prompt: `{manifest.prompt.render({"attribute": "value"})}`;
  left out of it: {", ".join(manifest.prompt.exclude) or "nothing"}
- Adapter: {manifest.adapter.inputs} projected dimensions to {manifest.adapter.outputs}
- Backbone: {srs.name}, width {srs.width}, {srs.blocks} blocks, at most {srs.max_length} items

## Quality

Leave-one-out, test split, {users:,} users. Tail items are the 80% with the fewest training
interactions, head items the rest. `id/{srs.name}` is the same backbone over ID embeddings alone.

Full ranking, all items:

{_markdown(manifest.metrics, "full")}

Full ranking, items that the user has seen left out, targets without a training interaction not counted:

{_markdown(manifest.metrics, "unseen")}

The target among 100 fixed random items (the paper's protocol; it flatters every row):

{_markdown(manifest.metrics, "sampled100")}

## Use

    llmemb serve PATH_OF_THIS_FOLDER

`encoder/` is a sentence-transformers folder: with the base model at hand,
`SentenceTransformer("encoder").encode([prompt])` gives the LLM vector of a prompt{eos}.

## Limits

Trained on what these users did: it repeats their habits. Vectors of two bundles do not compare.
"""


def _metadata(manifest: Manifest) -> ModelCardData:
    """Return what the Hugging Face Hub reads of a card."""
    source = manifest.base_model.source
    name = DEFAULT_HUB_ID if source == DEFAULT_BASE_MODEL else source
    measured = manifest.metrics["llmemb"]["full"]
    return ModelCardData(
        library_name="llmemb",
        base_model=None if Path(name).is_absolute() else name,
        tags=TAGS,
        model_name=f"llmemb-{manifest.data.name}",
        eval_results=[
            EvalResult(
                task_type="sequential-recommendation",
                dataset_type=manifest.data.name,
                dataset_name=manifest.data.name,
                dataset_split="test",
                metric_type=metric,
                metric_name=f"{metric}, {group} items, full ranking",
                metric_value=round(measured[group][metric], 4),
            )
            for group, metric in COLUMNS
        ],
    )


def _markdown(metrics: dict[str, Any], protocol: str) -> str:
    head = ["", *(f"{metric} {group}" for group, metric in COLUMNS)]
    rows = [head, ["---"] + ["---:"] * len(COLUMNS)]
    rows += [[name, *values] for name, values in metric_rows(metrics, protocol)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
