"""UTF-8 text files as numbered lines: one by one for items, in polars frames for interactions."""

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from llmemb.errors import DataError
from trainer.data.raw import Columns
from trainer.data.report import Report

BLOCK_BYTES = 1 << 24
LINE_BYTES = 1 << 26  # of one line; a file without line ends is not read whole
BLANK = " \t\r"  # only these make a line blank; other white space may be part of an id


@contextmanager
def open_raw(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a raw file for reading bytes, unpacked where it is gzip: its first bytes tell, not its name.

    Raises:
        DataError: the gzip file is damaged or ends too early.
    """
    try:
        with path.open("rb") as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            yield gzip.GzipFile(fileobj=file) if packed else file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: the gzip file is damaged or cut short ({error}); download it again"
        ) from error


def blocks(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the file in blocks of whole lines, each with the number of its first line.

    Raises:
        DataError: the file is not UTF-8, is damaged gzip, or has a line longer than ``LINE_BYTES``.
    """
    line, offset = 1, 0
    with open_raw(path) as file:
        while block := file.read(BLOCK_BYTES):
            block += (rest := file.readline(LINE_BYTES))
            if len(rest) == LINE_BYTES and not rest.endswith(b"\n"):
                line += block.count(b"\n")
                raise DataError(
                    f"{path}:{line}: a line of more than {LINE_BYTES:,} bytes; break it"
                )
            text = _decode(path, block, line, offset)
            yield line, text.removeprefix("\ufeff") if offset == 0 else text
            line += block.count(b"\n")
            offset += len(block)


def _decode(path: Path, block: bytes, line: int, offset: int) -> str:
    try:
        return block.decode()
    except UnicodeDecodeError as error:
        line += block.count(b"\n", 0, error.start)
        convert = f"iconv -f LATIN1 -t UTF-8 {path.name}"
        if path.suffix == ".gz":
            convert = f"gunzip -c {path.name} | iconv -f LATIN1 -t UTF-8"
        raise DataError(
            f"{path}:{line}: not UTF-8 at byte {offset + error.start} of the file; convert it, "
            f"for example with `{convert}`"
        ) from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield every line that is not blank, with its number."""
    for first, text in blocks(path):
        for number, line in enumerate(text.split("\n"), first):
            if line.strip(BLANK):
                yield number, line.removesuffix("\r")


def line_frames(path: Path, after: int = 0) -> Iterator[pl.DataFrame]:
    """Yield frames of the lines behind line ``after`` that are not blank.

    The columns are ``line`` and ``text``.
    """
    text = pl.col("text")
    for first, block in blocks(path):
        lines = pl.Series("text", [block]).str.split("\n").explode().to_frame()
        yield (
            lines.with_row_index("line", offset=first)
            .filter((pl.col("line") > after) & (text.str.strip_chars(BLANK) != ""))
            .with_columns(text.str.strip_suffix("\r"))
        )


def split_fields(
    frame: pl.DataFrame,
    separator: str,
    header: Sequence[str],
    columns: Columns,
    file: str,
    report: Report,
) -> pl.DataFrame:
    """Split ``text`` and pick columns; a line with another number of fields is dropped.

    Args:
        frame: what :func:`line_frames` yields.
        separator: between two fields; there is no quoting.
        header: names of all the fields of a line.
        columns: the fields to pick and what to call them.
        file: name of the file, for the report.
        report: takes the lines that are dropped.
    """
    names = [str(i) for i in range(len(header) + 1)]  # the last one is of a field too many
    fields = pl.col("text").str.split_exact(separator, len(header)).struct.rename_fields(names)
    split = frame.select("line", fields.alias("fields")).unnest("fields")
    bad = split[names[-2]].is_null() | split[names[-1]].is_not_null()
    expected = f"{len(header)} fields separated by {separator!r} are expected"
    kept = report.drop_interactions(split, bad, "malformed row", file, lambda _: expected)
    return kept.select(
        "line",
        *(
            (
                pl.lit(None, pl.String) if theirs is None else pl.col(names[header.index(theirs)])
            ).alias(ours)
            for ours, theirs in columns.items()
        ),
    )
