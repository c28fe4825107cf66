"""Items whose id or texts hold some letters: for people who look for an item by its name."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


class TextSearch:
    """The ids and texts of many items in one array, which is searched without Python."""

    def __init__(self, ids: Sequence[str], attributes: Sequence[Mapping[str, Any]]) -> None:
        """Take the items in rows."""
        texts = (searched_text(*item) for item in zip(ids, attributes, strict=True))
        self._texts = pa.array(texts, pa.large_string())

    def rows(self, text: str) -> NDArray[np.int64]:
        """Return the rows whose items hold a text, given without case: int64 ``[found]``, ascending."""
        found = pc.match_substring(self._texts, text)
        rows: NDArray[np.int64] = np.flatnonzero(found.to_numpy(zero_copy_only=False))
        return rows


def searched_text(item_id: str, attributes: Mapping[str, Any]) -> str:
    """Return what of an item is searched: its id and its texts, each in a line, without case."""
    return "\n".join([item_id, *_texts(attributes)]).casefold()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts(inner)
