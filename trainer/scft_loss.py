"""The losses of SCFT, as sentence-transformers' trainer calls them: pairs of views, or the catalogue."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from llmemb.forward import length_batches
from llmemb.interactions import Sequences
from llmemb.projection import fit_projection
from trainer import processes
from trainer.contrast import MAX_SCALE, contrastive_loss
from trainer.presets import ScftSettings

CHUNK_TOKENS = 1024  # padded tokens in one forward pass on a CPU: less padding, warmer caches
WHITENED = 512  # directions of the LLM's vectors that the catalogue loss looks at


class ViewsLoss(nn.Module):
    """The contrastive loss over two batches of views; its temperature is trained with the LoRA.

    All ranks' views are one batch: each rank computes the whole loss, of which its views are a part.
    """

    def __init__(self, model: SentenceTransformer, settings: ScftSettings) -> None:
        super().__init__()
        self.model = model
        self.cache = settings.gradient_cache
        self.contrast = contrastive_loss(settings.loss, settings.temperature, learnable=True)

    def forward(self, views: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Return the loss; ``labels`` are as ``PairsCollator`` gives them."""
        x, y = (processes.gathered(embed(self.model, view, self.cache)) for view in views)
        item, partner, left, right = processes.gathered(labels).unbind(1)
        same = (
            (item[:, None] == item)
            | (item[:, None] == partner)
            | (partner[:, None] == partner)
            | (left[:, None] == right)
        )
        loss: Tensor = self.contrast(x, y, same)
        return loss


class CatalogueLoss(nn.Module):
    """The catalogue contrast over a batch of single views; its vectors are trained with the LoRA."""

    def __init__(
        self, model: SentenceTransformer, contrast: "CatalogueContrast", cache: int | None
    ) -> None:
        super().__init__()
        self.model = model
        self.cache = cache
        self.contrast = contrast

    def forward(self, views: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Return the loss; ``labels`` are the items' numbers, int64 ``[batch]``."""
        loss: Tensor = self.contrast(embed(self.model, views[0], self.cache), labels)
        return loss


class CatalogueContrast(nn.Module):
    """Each view against a learnt vector of every training item, towards those the item is used with.

    It is the skip-gram objective (arXiv 1310.4546) with the LLM for input vectors, in full instead of
    against sampled words. A batch of pairs tells an item from a few dozen random others, for which its
    category will do; the whole catalogue asks for what sets it apart. What popularity explains is added
    to the scores and so not learnt (see ``FitSettings.logit_adjustment``).

    Views are compared in the whitened space of the LLM as it was, where the learnt vectors start too.
    They take ``items * 512`` floats, and Adam twice as much again.

    Args:
        untuned: float ``[items, llm]``, vectors of the training items by the LLM as it is.
        near: the items that stand near each item, once for each time.
        groups: int64 ``[items]``, equal for items that read alike, which are not told apart.
        settings: ``cooccurrence`` is the share of the target that the items nearby have; the rest, or
            all where there are none, is the item itself.
    """

    mean: Tensor
    matrix: Tensor
    groups: Tensor
    log_popularity: Tensor

    def __init__(
        self,
        untuned: NDArray[np.floating],
        near: Sequences,
        groups: NDArray[np.int64],
        settings: ScftSettings,
    ) -> None:
        super().__init__()
        projection = fit_projection(untuned, WHITENED, "whiten")
        self.near = near
        self.share = settings.cooccurrence
        self.vectors = nn.Parameter(F.normalize(torch.from_numpy(projection(untuned)), dim=1))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / settings.temperature)))
        popularity = np.bincount(near.items, minlength=len(untuned)).clip(0.5)
        for name, value in {
            "mean": torch.from_numpy(projection.mean),
            "matrix": torch.from_numpy(projection.matrix),
            "groups": torch.from_numpy(groups),
            "log_popularity": torch.from_numpy(np.log(popularity)).float(),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor, items: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            x: float ``[batch, llm]``, LLM vectors of views.
            items: int64 ``[batch]``, what they are views of.
        """
        z = F.normalize((x - self.mean) @ self.matrix, dim=1)
        cosines = z @ F.normalize(self.vectors, dim=1).T
        scores = self.log_scale.exp().clamp(max=MAX_SCALE) * cosines + self.log_popularity
        targets = self.targets(items)
        alike = (self.groups[items, None] == self.groups) & (targets == 0)
        # A finite floor: where a target is 0, its product with an infinite log is not a number.
        log_probabilities = F.log_softmax(scores.masked_fill(alike, -1e4), dim=1)
        return -(targets * log_probabilities).sum(1).mean()

    def targets(self, items: Tensor) -> Tensor:
        """Return what each item is pulled to, float ``[batch, items]``, rows that add up to 1."""
        near = [self.near[item] for item in items.tolist()]
        counts = torch.tensor([len(others) for others in near])
        rows = torch.arange(len(near)).repeat_interleave(counts)
        share = torch.where(counts > 0, self.share, 0.0)
        targets = torch.zeros(len(near), len(self.groups))
        others = torch.from_numpy(np.concatenate(near)).long()
        targets.index_put_((rows, others), (share / counts.clamp(min=1))[rows], accumulate=True)
        targets[torch.arange(len(near)), items.cpu()] += 1 - share
        return targets.to(items.device)


def embed(model: SentenceTransformer, view: dict[str, Tensor], cache: int | None) -> Tensor:
    """Return the vectors of a batch of views, float32 ``[batch, llm]``, in chunks of like length.

    With ``cache``, a chunk is so many views, and only its vectors are kept: its activations are computed
    again when gradients come back to it, chunk after chunk (GradCache, arXiv 2101.06983).
    """
    lengths = view["attention_mask"].sum(1).tolist()
    on_cpu = view["input_ids"].device.type == "cpu"
    if cache:
        longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        chunks = [longest_first[i : i + cache] for i in range(0, len(lengths), cache)]
    elif on_cpu and processes.count() == 1:
        chunks = length_batches(lengths, CHUNK_TOKENS)
    else:  # as many on every rank: a sharded LLM is put together for each
        chunks = [sorted(range(len(lengths)), key=lambda i: -lengths[i])]

    def vectors_of(chunk: list[int]) -> Tensor:
        tokens = {name: tensor[chunk, : lengths[chunk[0]]] for name, tensor in view.items()}
        vectors: Tensor = model(tokens)["sentence_embedding"].float()
        return vectors

    vectors = [
        checkpoint(vectors_of, chunk, use_reentrant=False) if cache else vectors_of(chunk)
        for chunk in chunks
    ]
    order = torch.tensor([i for chunk in chunks for i in chunk], device=vectors[0].device)
    return torch.cat(vectors)[torch.argsort(order)]
