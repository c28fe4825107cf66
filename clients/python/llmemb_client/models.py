"""What goes in and comes out, as the service's OpenAPI document has it."""

import array
import base64
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Attributes = Mapping[str, Any]
"""Attribute name to value: text, number, boolean, or lists and mappings of those."""

Entry = str | Attributes
"""An entry of a sequence: the id of an item, or the attributes of one that the catalogue lacks."""

Filter = Mapping[str, Mapping[str, Any]]
"""By attribute, what it must be: ``{"year": {"gte": 1990}, "genres": {"any": ["Crime"]}}``."""

Space = Literal["srs", "llm"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """An item to put into the catalogue."""

    id: str
    attributes: Attributes


class _Answer(BaseModel):
    # A newer service may tell more than we know of.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Embedding(_Answer):
    """One item's vector.

    Attributes:
        embedding: its little-endian float32 bytes.
        tokens: length of the item's prompt.
        truncated: whether the prompt was too long and its end was cut off.
        prompt: what the LLM read, where it was asked for.
    """

    index: int
    embedding: Annotated[bytes, BeforeValidator(base64.b64decode)]
    tokens: int
    truncated: bool
    cached: bool
    prompt: str | None = None

    def tolist(self) -> list[float]:
        """Return the vector as numbers."""
        values = array.array("f", self.embedding)
        if sys.byteorder == "big":
            values.byteswap()
        return values.tolist()

    def numpy(self) -> "NDArray[np.float32]":
        """Return the vector, float32 ``[dimensions]``; needs NumPy."""
        import numpy as np

        return np.frombuffer(self.embedding, dtype="<f4").astype(np.float32)


class Usage(_Answer):
    """Tokens of all items together."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(_Answer):
    """Vectors, in the order of the items."""

    bundle: str
    dimensions: int
    data: list[Embedding]
    usage: Usage

    def numpy(self) -> "NDArray[np.float32]":
        """Return all vectors, float32 ``[items, dimensions]``; needs NumPy."""
        import numpy as np

        return np.stack([one.numpy() for one in self.data])


class CatalogueItem(_Answer):
    """What the catalogue knows of an item.

    Attributes:
        popularity: interactions with it in the training data.
        kind: ``head``: of the fifth with the most interactions; ``cold``: it has none.
        version: of the catalogue when the item was put; 0: the bundle's own.
        updated: when it was put, in seconds since 1970; None: it is the bundle's own.
    """

    id: str
    attributes: dict[str, Any]
    popularity: int
    kind: Literal["head", "tail", "cold"]
    version: int
    updated: float | None


class Put(_Answer):
    """What became of an item that was put; ``same``: the catalogue had it like that already."""

    id: str
    version: int
    outcome: Literal["created", "changed", "same"]


@dataclass(frozen=True)
class PutCount:
    """How many items of a stream were put."""

    created: int = 0
    changed: int = 0
    same: int = 0

    def __add__(self, other: "PutCount") -> "PutCount":
        return PutCount(
            self.created + other.created, self.changed + other.changed, self.same + other.same
        )

    @property
    def items(self) -> int:
        """All of them."""
        return self.created + self.changed + self.same


class Driver(_Answer):
    """An entry of the sequence that drove a recommendation; ``id`` is None for a cold item."""

    place: int
    id: str | None
    change: float


class RecommendedItem(_Answer):
    """An item, and how it came to be recommended.

    Attributes:
        because: what drove it, where ``explain`` asked for it.
        item: what the catalogue knows of it, where ``details`` asked for it.
    """

    id: str
    score: float
    rank: int
    source: Literal["model", "popular"]
    because: list[Driver] | None = None
    item: CatalogueItem | None = None


class Recommendations(_Answer):
    """The next items, best first.

    Attributes:
        bundle: which one answered.
        unknown: ids of the sequence that the catalogue lacks.
        eligible: items that pass the filter, where one was given; 0: none can.
    """

    bundle: str
    items: list[RecommendedItem]
    unknown: list[str]
    eligible: int | None = None

    @property
    def ids(self) -> list[str]:
        """The items' ids."""
        return [item.id for item in self.items]


class SimilarItem(_Answer):
    """A neighbour of an item; ``score``: cosine similarity."""

    id: str
    score: float
    attributes: dict[str, Any]


class Similar(_Answer):
    """The nearest items, nearest first."""

    bundle: str
    items: list[SimilarItem]


class WithoutAttribute(_Answer):
    """What becomes of an item without one of its attributes."""

    attribute: str
    score: float
    rank: int
    change: float


class Explanation(_Answer):
    """Where an item stands after a sequence, and what each attribute does for that."""

    bundle: str
    score: float
    rank: int
    without: list[WithoutAttribute]


class Ready(_Answer):
    """Whether the service is ready, and what holds of it."""

    status: Literal["ready"]
    bundle: str
    cache: str
    catalogue: str


class Bundle(_Answer):
    """What is served: the bundle's manifest, the hardware that was chosen, the index."""

    manifest: dict[str, Any]
    serving: dict[str, Any]
    index: dict[str, Any]


class BundleChange(_Answer):
    """Which bundle is served now, and which was before."""

    bundle: str
    before: str
    seconds: float
