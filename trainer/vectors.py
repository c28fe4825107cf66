"""LLM vectors of a whole catalogue, in parts that an interrupted run does not compute again."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from llmemb.encoder import Encoder
from llmemb.files import replacing_file
from trainer import processes

PART_ITEMS = 1024


def embed_catalogue(
    prompts: Sequence[str],
    load_encoder: Callable[[], Encoder],
    folder: Path,
    advance: Callable[[int], None],
) -> NDArray[np.float16]:
    """Return the LLM vectors of all prompts, float16 ``[prompts, llm]``.

    A part is always the same prompts in the same batches, so that it does not matter which run
    computed it. Of several processes each computes every so many-th part.

    Args:
        prompts: one an item.
        load_encoder: called only if a part is missing.
        folder: holds the finished parts; all processes see it.
        advance: told how many prompts were finished.
    """
    encoder: Encoder | None = None
    starts = range(0, len(prompts), PART_ITEMS)
    paths = [folder / f"part-{start:09d}.safetensors" for start in starts]
    own = range(processes.rank(), len(paths), processes.count())
    for part, (start, path) in enumerate(zip(starts, paths, strict=True)):
        chosen = prompts[start : start + PART_ITEMS]
        if part not in own or path.is_file():
            advance(len(chosen))
        else:
            encoder = encoder or load_encoder()
            vectors = encoder.encode(chosen, advance)
            with replacing_file(path) as aside:
                save_file({"vectors": vectors}, aside)
    processes.wait()
    return np.concatenate([load_file(path)["vectors"] for path in paths])
