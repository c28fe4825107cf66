"""``llmemb embed --engine ray``: the work of :mod:`trainer.embed` on a Ray cluster, by Ray Data.

Tasks read row groups and make tokens of them; actors, each of which loads the encoder once, embed and write
parts (:mod:`trainer.embed_tasks`). Ray runs again what dies.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyarrow.fs import LocalFileSystem
from safetensors import SafetensorError

from llmemb.bundle import ENCODER, Bundle
from llmemb.encoder import Precision
from llmemb.errors import DataError, LLMEmbError, SettingsError
from llmemb.item_embedder import Space
from trainer import embed
from trainer.data.parquet_folders import RowGroups, find_parquet, resolve, row_groups
from trainer.data.report import Report
from trainer.embed_tasks import PROBLEMS, Worker, read_parts, replacing
from trainer.progress import Progress
from trainer.stages import only_run

READ_PARTS = 16  # that a task reads at least, where row groups are smaller
IN_FLIGHT = 2  # parts at a worker, so that it waits for none


def embed_items_on_ray(
    bundle: Bundle,
    items: str,
    out: str,
    *,
    space: Space,
    base_model: str | None,
    precision: Precision,
    workers: str | None,
    address: str | None,
    progress: Progress,
) -> Report:
    """Do what :func:`trainer.embed.embed_items` does, and write the same file, on a Ray cluster.

    Parts are made of a few row groups each, so that several machines read; where these do not hold a
    multiple of a part's items, vectors are the local engine's but for rounding.

    Args:
        bundle: makes the vectors. The bundle, its base model and this package are on every machine.
        items: a Parquet file, or a folder of them, read in the order of their names.
        out: ends in ``.parquet``. Both are paths that every machine sees, or URIs as pyarrow reads them
            (``s3://``, ``gs://``, ``hdfs://``, ``fsspec+...://``).
        space: ``srs``: vectors that the recommender scores; ``llm``: the LLM's own.
        base_model: where the base model is; default: as the bundle was trained.
        precision: see :class:`llmemb.encoder.Encoder`.
        workers: how many times the LLM is loaded, ``N`` or ``MIN:MAX``; default: up to once for each GPU,
            or where there is none for each machine. Without GPUs, workers share the cores.
        address: of the cluster; default: one on this machine, for this run.
        progress: shows items a second and the time left.

    Raises:
        DataError: ``items`` cannot be read, or holds no item; ``out`` has another ending.
        SettingsError: ``workers`` is something else, or Ray is not installed.
        LLMEmbError: the base model cannot be used, another run writes to ``out`` (looked at on disks
            alone), or the cluster is not there.
    """
    if find_spec("ray") is None:
        raise SettingsError("--engine ray needs Ray: pip install 'llmemb[scale]'")
    pool = _pool(workers)
    target, place = resolve(out)
    if not place.endswith(".parquet"):
        raise DataError(f"{out}: vectors are written as Parquet; let the name end in .parquet")
    source, files = find_parquet(items)
    shares = row_groups(source, files, READ_PARTS * embed.PART_ITEMS)
    report = Report()
    if not shares:
        raise embed.nothing_to_embed(items, report)
    bundle.find_base(base_model)  # said here, once, rather than by each worker
    path, work = bundle.path.resolve(), f"{place}.work"
    with only_run(Path(work)) if isinstance(target, LocalFileSystem) else nullcontext():
        facts = [[file.path, file.size, file.mtime_ns] for file in files]
        folder = f"{work}/{embed.parts_key(bundle, space, precision, facts)}"
        target.create_dir(folder, recursive=True)
        reading = {
            "source": source,
            "target": target,
            "folder": folder,
            "encoder": str(path / ENCODER),
            "template": bundle.manifest.prompt,
            "settings": bundle.manifest.encoder,
            "part_items": embed.PART_ITEMS,
        }
        done = []
        with (
            _cluster(address),
            progress.items("embed", sum(share.rows for share in shares)) as advance,
        ):
            worker = (str(path), base_model, precision, space, target)
            for part in _parts(shares, reading, worker, pool):
                done.append(part)
                advance(part["items"])
        done.sort(key=lambda part: str(part["part"]))
        for part in done:
            report.kept["items"] = report.kept.get("items", 0) + part["items"]
            report.merge(PROBLEMS.validate_json(part["problems"]))
        if not (written := [part["part"] for part in done if part["items"]]):
            raise embed.nothing_to_embed(items, report)
        with replacing(target, place) as aside:
            embed.join_parts(written, aside, target)
        target.delete_dir(work)
    return report


def _parts(
    shares: list[RowGroups],
    reading: dict[str, Any],
    worker: tuple[Any, ...],
    pool: tuple[int, int] | None,
) -> Iterator[dict[str, Any]]:
    """Yield ``DONE`` of each part as it is written, in no order."""
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
    from ray.exceptions import RayError, RayTaskError

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what ends a run is raised besides
    context = DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.target_max_block_size = 1  # a part is a block, whatever its size
    least, most, each = _resources(pool)
    threads = int(os.environ.get("OMP_NUM_THREADS", each["num_cpus"]))
    numbered = [share._asdict() | {"number": number} for number, share in enumerate(shares)]
    parts = (
        ray.data.from_items(numbered, override_num_blocks=len(numbered))
        .map_batches(
            read_parts,
            fn_kwargs=reading,
            batch_size=1,
            batch_format="pyarrow",
            compute=TaskPoolStrategy(most),
            num_cpus=0,  # or they would wait for ever for a core that no worker leaves
        )
        .map_batches(
            Worker,
            fn_constructor_args=(*worker, threads),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                min_size=least, max_size=most, max_tasks_in_flight_per_actor=IN_FLIGHT
            ),
            **each,
        )
    )
    try:
        yield from parts.iter_rows()
    except RayTaskError as error:
        if not isinstance(error.cause, LLMEmbError | OSError | SafetensorError):
            raise
        raise LLMEmbError(str(error.cause).splitlines()[0]) from None
    except RayError as error:
        reason = str(error).splitlines()[0]
        raise LLMEmbError(f"Ray gave up ({reason}); run the same command again") from error


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Stay connected to a cluster that reports no use to anybody and talks little."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        yield
        return
    own = {} if address else {"include_dashboard": False}
    try:
        ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise LLMEmbError(f"no Ray cluster at {address or 'this machine'}: {reason}") from error
    try:
        with redirect_stdout(sys.stderr):  # of deaths and restarts Ray tells on standard output
            yield
    finally:
        ray.shutdown()


def _pool(workers: str | None) -> tuple[int, int] | None:
    if workers is None:
        return None
    least, _, most = workers.partition(":")
    try:
        pool = int(least), int(most or least)
    except ValueError:
        pool = 0, 0
    if not 1 <= pool[0] <= pool[1]:
        raise SettingsError(f"--workers {workers}: give a number or MIN:MAX, 2 or 1:8 for example")
    return pool


def _resources(pool: tuple[int, int] | None) -> tuple[int, int, dict[str, int]]:
    """Return how many workers there are at least and at most, and what each takes."""
    import ray

    cores = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    gpus = int(ray.cluster_resources().get("GPU", 0))
    least, most = pool or (1, gpus or max(1, sum(map(bool, cores))))
    if gpus:
        return least, most, {"num_cpus": 1, "num_gpus": 1}
    return least, most, {"num_cpus": max(1, int(min(sum(cores) // most, max(cores))))}
