"""Source ``movielens``: the layouts of GroupLens' 100K, 1M, 10M and later releases, and RecBole's."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from llmemb.errors import DataError
from trainer.data.csv_tables import csv_header, csv_interactions, csv_rows
from trainer.data.lines import line_frames, split_fields
from trainer.data.raw import RawData, RawItem
from trainer.data.recbole import read_recbole
from trainer.data.report import Place, Report, one_line

LAYOUTS = (
    "u.data and u.item (100K), ratings.dat and movies.dat (1M, 10M), "
    "ratings.csv and movies.csv (20M and later) or ml-*.inter and ml-*.item (RecBole)"
)
# fmt: off
GENRES = [  # in the order of the flags in u.item
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
]
# fmt: on
NO_GENRE = ("unknown", "(no genres listed)")

_YEAR = re.compile(r"\s*\(([0-9]{4})\)(?:\s*\((?:V|TV|VG)\))?\s*$")  # (V) marks a video release
_ARTICLES = (
    "The|A|An|Le|La|Les|L'|Un|Une|Il|Lo|Gli|I|Uno|Una|El|Los|Las|Der|Die|Das|Den|Dem|Ein|Eine|"
    "De|Het|Een|Det|En|Ett|Et|O|Os|As"
)
_TRAILING_ARTICLE = re.compile(
    rf"(^|\((?:a\.k\.a\. )?)([^()]+), ({_ARTICLES})(?=\s*[()]|$)"
)  # of the title and of each translation in brackets behind it


def read_movielens(raw: Path, report: Report) -> RawData:
    """Read a MovieLens release; every film has a title, and a year and genres where known.

    Ratings are implicit feedback: each one counts, whatever its stars.

    Raises:
        DataError: none of the layouts is there, or one lacks a file.
    """
    for (log, catalogue), read in _LAYOUTS.items():
        if (raw / log).is_file() or (raw / catalogue).is_file():
            for file in (raw / log, raw / catalogue):
                if not file.is_file():
                    raise DataError(f"{file} is not there; expected {LAYOUTS}")
            return read(raw / log, raw / catalogue, report)
    if any(raw.glob("ml-*.inter")):
        return _from_recbole(raw, report)
    raise DataError(f"{raw}: no MovieLens files are there; expected {LAYOUTS}")


def film(title: str, genres: list[str], year: str = "") -> dict[str, Any]:
    """Return a film's attributes from MovieLens' spelling of its title.

    Args:
        title: with the year in brackets behind it, or without.
        genres: as MovieLens names them.
        year: used where the title has none; anything but four digits is left out.

    >>> film("Butcher Boy, The (1998)", ["Drama"])
    {'title': 'The Butcher Boy', 'year': 1998, 'genres': ['Drama']}
    """
    if found := _YEAR.search(title):
        title, year = title[: found.start()], found[1]
    attributes: dict[str, Any] = {"title": _articles_in_front(title.strip())}
    if re.fullmatch(r"[0-9]{4}", year):
        attributes["year"] = int(year)
    if known := [genre for genre in genres if genre and genre not in NO_GENRE]:
        attributes["genres"] = known
    return attributes


def _articles_in_front(title: str) -> str:
    def move(match: re.Match[str]) -> str:
        before, rest, article = match.groups()
        elided = article.endswith("'")  # L'Avventura
        return before + article + ("" if elided else " ") + rest

    return _TRAILING_ARTICLE.sub(move, title)


def _read_100k(log: Path, catalogue: Path, report: Report) -> RawData:
    def films() -> Iterator[RawItem]:
        for line, fields in _split_lines(catalogue, "|", 5 + len(GENRES), report):
            flags = zip(GENRES, fields[5:], strict=True)
            genres = [genre for genre, flag in flags if flag == "1"]
            yield RawItem(line, fields[0], film(fields[1], genres))

    return RawData("film", catalogue, films(), log, _ratings(log, "\t", report))


def _read_1m(log: Path, catalogue: Path, report: Report) -> RawData:
    def films() -> Iterator[RawItem]:
        for line, (item, title, genres) in _split_lines(catalogue, "::", 3, report):
            yield RawItem(line, item, film(title, genres.split("|")))

    return RawData("film", catalogue, films(), log, _ratings(log, "::", report))


def _read_20m(log: Path, catalogue: Path, report: Report) -> RawData:
    _check_header(log, ["userId", "movieId", "rating", "timestamp"])
    _check_header(catalogue, ["movieId", "title", "genres"])

    def films() -> Iterator[RawItem]:
        for line, (item, title, genres) in csv_rows(catalogue, "items", report):
            yield RawItem(line, item, film(title, genres.split("|")))

    columns = {"user": "userId", "item": "movieId", "timestamp": "timestamp"}
    return RawData("film", catalogue, films(), log, csv_interactions(log, columns, report))


def _check_header(path: Path, expected: list[str]) -> None:
    line, header = csv_header(path)
    if header != expected:
        raise DataError(
            f"{path}:{line}: the columns are {one_line(', '.join(header))}; MovieLens has "
            f"{', '.join(expected)}; use the source `files` for a layout of your own"
        )


_LAYOUTS: dict[tuple[str, str], Callable[[Path, Path, Report], RawData]] = {
    ("u.data", "u.item"): _read_100k,
    ("ratings.dat", "movies.dat"): _read_1m,
    ("ratings.csv", "movies.csv"): _read_20m,
}


def _from_recbole(raw: Path, report: Report) -> RawData:
    data = read_recbole(raw, report)

    def films() -> Iterator[RawItem]:
        for line, item, attributes in data.items:
            rest = dict(attributes)
            title = str(rest.pop("movie_title", ""))
            year = str(rest.pop("release_year", ""))
            genres = rest.pop("class", None) or rest.pop("genre", [])
            renamed = film(title, genres if isinstance(genres, list) else [genres], year)
            if year and "year" not in renamed:
                place = Place(data.items_file.name, line, f"{year!r} is not a year; left out")
                report.note("items", "film with an unreadable year", 1, [place])
            yield RawItem(line, item, {**renamed, **rest})

    return RawData("film", data.items_file, films(), data.interactions_file, data.interactions)


def _split_lines(
    path: Path, separator: str, expected: int, report: Report
) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each film's line; a line with another number of fields is dropped."""
    content = path.read_bytes()
    try:
        text = content.decode()  # 10M, and copies that someone converted
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # 100K and 1M as GroupLens published them
    for line, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        fields = row.removesuffix("\r").split(separator)
        if len(fields) == expected:
            yield line, fields
        else:
            reason = f"{len(fields)} fields where a film has {expected}"
            report.drop("items", "malformed row", path.name, line, reason)


def _ratings(path: Path, separator: str, report: Report) -> Iterator[pl.DataFrame]:
    header = ["user", "item", "rating", "timestamp"]
    columns = {name: name for name in header if name != "rating"}
    for frame in line_frames(path):
        yield split_fields(frame, separator, header, columns, path.name, report)
