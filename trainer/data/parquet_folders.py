"""Parquet files wherever pyarrow reads them, and the row groups that one reader of many takes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

from llmemb.errors import DataError
from trainer.data.parquet_tables import row_group_sizes
from trainer.data.report import one_line

FOOTERS_AT_ONCE = 16


class RowGroups(NamedTuple):
    """Some row groups of a file, one behind the other.

    Attributes:
        path: of the file, on its file system.
        name: of the file, for whoever reads what is wrong with a row.
        start: the first row group.
        stop: the one behind the last.
        rows: in them.
    """

    path: str
    name: str
    start: int
    stop: int
    rows: int


def resolve(path: str) -> tuple[FileSystem, str]:
    """Return the file system of a local path or of a URI (``s3://`` and so on), and the path on it.

    Raises:
        DataError: pyarrow knows no such URI.
    """
    try:
        filesystem, place = FileSystem.from_uri(path if "://" in path else Path(path).resolve())
    except (pa.ArrowException, ImportError, ValueError) as error:
        raise DataError(f"{path}: not a place that can be used ({one_line(str(error))})") from error
    return filesystem, place.rstrip("/")


def find_parquet(path: str) -> tuple[FileSystem, list[FileInfo]]:
    """Return a Parquet file, or those of a folder in the order of their names, and their file system.

    Raises:
        DataError: there is none.
    """
    filesystem, place = resolve(path)
    found = filesystem.get_file_info(place)
    if found.type == FileType.NotFound:
        raise DataError(f"{path} is not there")
    if found.is_file:
        if found.extension != "parquet":
            raise DataError(
                f"{path}: --engine ray reads Parquet; write the items as Parquet, or use --engine local"
            )
        return filesystem, [found]
    inside = filesystem.get_file_info(FileSelector(place))
    files = [file for file in inside if file.is_file and file.extension == "parquet"]
    if not files:
        raise DataError(f"{path}: there is no .parquet file in this folder")
    return filesystem, sorted(files, key=lambda file: str(file.path))


def row_groups(filesystem: FileSystem, files: list[FileInfo], rows: int) -> list[RowGroups]:
    """Return all row groups of the files, in runs of at least so many rows or to the end of a file.

    Raises:
        DataError: a file is not Parquet or has no column ``id``.
    """
    paths = [str(file.path) for file in files]
    with ThreadPoolExecutor(FOOTERS_AT_ONCE, "footers") as pool:
        sizes = list(pool.map(lambda path: row_group_sizes(path, filesystem), paths))
    runs = []
    for path, groups in zip(paths, sizes, strict=True):
        name = PurePosixPath(path).name
        runs += [RowGroups(path, name, *run) for run in _runs(groups, rows)]
    return runs


def _runs(groups: list[int], rows: int) -> Iterator[tuple[int, int, int]]:
    start = held = 0
    for stop, size in enumerate(groups, 1):
        held += size
        if held >= rows or (held and stop == len(groups)):
            yield start, stop, held
            start, held = stop, 0
