"""LLM vectors of a whole catalogue, in parts that an interrupted run does not compute again."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llmemb.encoder import Encoder
from llmemb.files import replacing_file

PART_ITEMS = 1024


def embed_catalogue(
    prompts: Sequence[str],
    load_encoder: Callable[[], Encoder],
    folder: Path,
    advance: Callable[[int], None],
) -> NDArray[np.float16]:
    """Return the LLM vectors of all prompts, float16 ``[prompts, llm]``.

    A part is always the same prompts in the same batches, so that it does not matter which run
    computed it.

    Args:
        prompts: one an item.
        load_encoder: called only if a part is missing.
        folder: holds the finished parts.
        advance: told how many prompts were finished.
    """
    encoder: Encoder | None = None
    parts = []
    for start in range(0, len(prompts), PART_ITEMS):
        path = folder / f"part-{start:09d}.safetensors"
        chosen = prompts[start : start + PART_ITEMS]
        if path.is_file():
            advance(len(chosen))
        else:
            encoder = encoder or load_encoder()
            vectors = encoder.encode(chosen, advance)
            with replacing_file(path) as aside:
                save_file({"vectors": vectors}, aside)
        parts.append(load_file(path)["vectors"])
    return np.concatenate(parts)
