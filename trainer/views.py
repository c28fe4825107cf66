"""What SCFT reads: random views of items, drawn afresh at each visit."""

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmemb.catalogue import Attributes
from llmemb.encoder import EncoderSettings, tokenize
from llmemb.forward import pad
from llmemb.interactions import Sequences
from llmemb.prompt import PromptTemplate
from trainer.presets import ScftSettings


@dataclass
class ViewsCollator:
    """Draws a view of each item of a batch, a function of the seed, the item and its visit alone."""

    items: list[Attributes]
    template: PromptTemplate
    tokenizer: Any
    encoder: EncoderSettings
    settings: ScftSettings
    seed: int
    valid_label_columns: tuple[str, ...] = ("label",)  # the trainer asks for it

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Tensor]:
        """Return token ids and masks of a view of each item, and ``label``, int64 ``[batch]`` items."""
        items = [row["item"] for row in rows]
        views = [self.view(item, row["visit"], 0) for item, row in zip(items, rows, strict=True)]
        return self.tokens("anchor", views) | {"label": torch.tensor(items)}

    def tokens(self, name: str, views: list[list[str]]) -> dict[str, Tensor]:
        """Return ``<name>_input_ids`` and ``<name>_attention_mask``, int64 ``[batch, tokens]``."""
        prompts = [self.template.text(view) for view in views]
        tokens = tokenize(self.tokenizer, prompts, self.encoder)
        padded = pad([t.ids for t in tokens], self.tokenizer.pad_token_id or 0)
        return {f"{name}_{key}": tensor for key, tensor in padded.items()}

    def view(self, item: int, visit: int, side: int) -> list[str]:
        """Return what one view says of an item; ``side`` is 0 or 1."""
        rng = np.random.default_rng((self.seed, int(item), visit, side))
        return self.template.augment(self.items[item], rng, self.settings.drop)


@dataclass
class PairsCollator(ViewsCollator):
    """Draws pairs of views; the second may be of an item that was used near the first."""

    neighbours: Sequences = field(kw_only=True)
    groups: NDArray[np.int64] = field(kw_only=True)

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Tensor]:
        """Return token ids and masks of both views, and ``label``, int64 ``[batch, 4]``.

        Its first two columns number the items of the two views, by what they read like; where one
        row's third is another's fourth, the one's first view says just what the other's second does.
        """
        items = np.array([[row["item"], self.partner(row)] for row in rows])
        anchors, positives = [
            [
                self.view(item, row["visit"], side)
                for item, row in zip(items[:, side], rows, strict=True)
            ]
            for side in (0, 1)
        ]
        said = [_number("; ".join(sorted(view))) for view in (*anchors, *positives)]
        said_numbers = np.array(said).reshape(2, -1).T
        label = torch.from_numpy(np.hstack([self.groups[items], said_numbers]))
        views = self.tokens("anchor", anchors) | self.tokens("positive", positives)
        return views | {"label": label}

    def partner(self, row: dict[str, int]) -> int:
        """Return the item of the second view: the visit's own, or one that was used near it."""
        item = row["item"]
        rng = np.random.default_rng((self.seed, item, row["visit"], 2))
        near = self.neighbours[item]
        if not len(near) or rng.random() >= self.settings.cooccurrence:
            return item
        return int(rng.choice(near))


def _number(text: str) -> int:
    """Return the same number, of 64 bits, for the same text in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def reading_groups(items: list[Attributes], template: PromptTemplate) -> NDArray[np.int64]:
    """Return the same number for items that read alike; int64 ``[items]``."""
    groups: NDArray[np.int64] = np.unique(
        [template.render(item) for item in items], return_inverse=True
    )[1]
    return groups


def visits(n_items: int, epochs: float, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return the order in which items are visited: each epoch its own permutation."""
    rng = np.random.default_rng(seed)
    whole = math.ceil(epochs)
    order = np.concatenate([rng.permutation(n_items) for _ in range(whole)])
    visit = np.repeat(np.arange(whole), n_items)
    kept = max(2, round(epochs * n_items))
    return {"item": order[:kept], "visit": visit[:kept]}
