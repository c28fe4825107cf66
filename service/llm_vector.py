"""An item's LLM vector as it travels from the engine through the cache, and its form in the cache."""

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FORMAT_VERSION = 1
_HEADER = struct.Struct("<BBHI8s")  # version, truncated, dimensions, tokens, checksum


@dataclass(frozen=True, eq=False)
class LLMVector:
    """The LLM vector of one item.

    Attributes:
        values: float16 ``[llm]``.
        tokens: length of the prompt as the model read it.
        truncated: whether the prompt was cut at the encoder's ``max_tokens``.
    """

    values: NDArray[np.float16]
    tokens: int
    truncated: bool


def pack(vector: LLMVector, key: str) -> bytes:
    """Return the cached form: a 16-byte header, then the values as little-endian float16."""
    values = vector.values.astype("<f2").tobytes()
    facts = (FORMAT_VERSION, vector.truncated, len(vector.values), vector.tokens)
    return _HEADER.pack(*facts, _checksum(key, facts, values)) + values


def unpack(data: bytes | None, key: str, dimensions: int) -> LLMVector | None:
    """Return the vector that was packed for this key, or None for anything else."""
    if data is None or len(data) != _HEADER.size + 2 * dimensions:
        return None
    *facts, checksum = _HEADER.unpack_from(data)
    version, truncated, stated, tokens = facts
    if (version, stated) != (FORMAT_VERSION, dimensions) or truncated > 1:
        return None
    values = data[_HEADER.size :]
    if checksum != _checksum(key, tuple(facts), values):
        return None
    return LLMVector(np.frombuffer(values, dtype="<f2"), tokens, bool(truncated))


def _checksum(key: str, facts: tuple[int, ...], values: bytes) -> bytes:
    # The key is part of it: a value that was copied under another key is not that key's vector.
    head = f"{key} {[int(fact) for fact in facts]} ".encode()
    return hashlib.blake2b(head + values, digest_size=8).digest()
