"""The ``movielens`` source: five layouts, one catalogue of films."""

from pathlib import Path

import pytest

from llmemb.catalogue import Catalogue
from llmemb.errors import DataError
from llmemb.interactions import read_sequences
from trainer.data.movielens import GENRES, film
from trainer.data.prepare import prepare

TOY_STORY = {
    "title": "Toy Story",
    "year": 1995,
    "genres": ["Animation", "Children's", "Comedy"],
}
BUTCHER_BOY = {"title": "The Butcher Boy", "year": 1998, "genres": ["Drama"]}
MISERABLES = {"title": "Les Misérables", "year": 1995, "genres": ["Drama", "Musical"]}
RATINGS = [("7", "1", 5, 30), ("7", "2", 1, 10), ("7", "3", 3, 20), ("4", "3", 4, 5)]


def u_item(item: int, title: str, *genres: str) -> str:
    flags = "|".join(str(int(genre in genres)) for genre in GENRES)
    return f"{item}|{title}|01-Jan-1995||http://us.imdb.com/M/title-exact|{flags}\n"


def write_100k(raw: Path) -> None:
    items = (
        u_item(1, "Toy Story (1995)", "Animation", "Children's", "Comedy")
        + u_item(2, "Butcher Boy, The (1998)", "Drama")
        + u_item(3, "Misérables, Les (1995)", "Drama", "Musical")
    )
    (raw / "u.item").write_bytes(items.encode("latin-1"))
    (raw / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATINGS))


def write_1m(raw: Path, encoding: str = "latin-1") -> None:
    items = (
        "1::Toy Story (1995)::Animation|Children's|Comedy\n"
        "2::Butcher Boy, The (1998)::Drama\n"
        "3::Misérables, Les (1995)::Drama|Musical\n"
    )
    (raw / "movies.dat").write_bytes(items.encode(encoding))
    (raw / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in RATINGS))


def write_10m(raw: Path) -> None:
    write_1m(raw, "utf-8")


def write_20m(raw: Path) -> None:
    (raw / "movies.csv").write_text(
        "movieId,title,genres\n"
        "1,Toy Story (1995),Animation|Children's|Comedy\n"
        '2,"Butcher Boy, The (1998)",Drama\n'
        '3,"Misérables, Les (1995)",Drama|Musical\n',
        encoding="utf-8",
    )
    rows = "".join(",".join(map(str, row)) + "\n" for row in RATINGS)
    (raw / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)


def write_recbole(raw: Path) -> None:
    (raw / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation Children's Comedy\n"
        "2\tButcher Boy, The\t1998\tDrama\n"
        "3\tMisérables, Les\t1995\tDrama Musical\n",
        encoding="utf-8",
    )
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    rows = "".join("\t".join(map(str, row)) + "\n" for row in RATINGS)
    (raw / "ml-100k.inter").write_text(header + rows)


LAYOUTS = [write_100k, write_1m, write_10m, write_20m, write_recbole]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "ml"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("write", LAYOUTS)
def test_every_layout_gives_the_same_films_and_sequences(raw, tmp_path, write):
    write(raw)
    prepare("movielens", raw, tmp_path / "out")

    catalogue = Catalogue.read(tmp_path / "out" / "items.parquet")
    assert list(catalogue) == [("1", TOY_STORY), ("2", BUTCHER_BOY), ("3", MISERABLES)]
    sequences = read_sequences(tmp_path / "out" / "interactions.parquet", catalogue)
    assert [s.tolist() for s in sequences] == [[1, 2, 0], [2]]


@pytest.mark.parametrize(
    ("spelled", "read"),
    [
        ("Clockwork Orange, A (1971)", "A Clockwork Orange"),
        ("American in Paris, An (1951)", "An American in Paris"),
        ("Avventura, L' (1960)", "L'Avventura"),
        ("Boot, Das (1981)", "Das Boot"),
        ("Hate (Haine, La) (1995)", "Hate (La Haine)"),
        ("Postman, The (Postino, Il) (1994)", "The Postman (Il Postino)"),
        ("Fireworks (a.k.a. Hana-bi, The) (1997)", "Fireworks (a.k.a. The Hana-bi)"),
        (
            "Lord of the Rings: The Two Towers, The (2002)",
            "The Lord of the Rings: The Two Towers",
        ),
        ("Paris, Texas (1984)", "Paris, Texas"),
        ("Murder, My Sweet (1944)", "Murder, My Sweet"),
        ("Seven (Se7en) (1995)", "Seven (Se7en)"),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey"),
        ("Land Before Time III, The (1995) (V)", "The Land Before Time III"),
    ],
)
def test_trailing_articles_come_back_to_the_front(spelled, read):
    assert film(spelled, [])["title"] == read


def test_a_year_is_a_number_and_absent_where_unknown():
    assert film("Toy Story (1995)", []) == {"title": "Toy Story", "year": 1995}
    assert film("unknown", []) == {"title": "unknown"}


@pytest.mark.parametrize("placeholder", ["unknown", "(no genres listed)", ""])
def test_a_placeholder_is_not_a_genre(placeholder):
    assert "genres" not in film("Toy Story (1995)", [placeholder])


def test_later_releases_have_quotes_half_stars_and_files_that_are_not_used(raw, tmp_path):
    (raw / "movies.csv").write_bytes(
        "movieId,title,genres\r\n"
        '11,"American President, The (1995)",Comedy|Drama|IMAX\r\n'
        '171495,"""Great Performances"" Cats (1998)",Musical\r\n'
        "171749,Death Note: Desu nôto (2006–2007),(no genres listed)\r\n"
        "40697,Babylon 5,Sci-Fi\r\n".encode()
    )
    ratings = "1,11,4.5,1112486027\r\n1,40697,0.5,1112484676\r\n1,171495,3.5,1112484819\r\n"
    (raw / "ratings.csv").write_text("userId,movieId,rating,timestamp\r\n" + ratings, newline="")
    for name in ("links.csv", "tags.csv", "README.txt"):
        (raw / name).write_text("not used\n")
    report = prepare("movielens", raw, tmp_path / "out", strict=True)

    catalogue = Catalogue.read(tmp_path / "out" / "items.parquet")
    assert list(catalogue) == [
        (
            "11",
            {
                "title": "The American President",
                "year": 1995,
                "genres": ["Comedy", "Drama", "IMAX"],
            },
        ),
        ("171495", {"title": '"Great Performances" Cats', "year": 1998, "genres": ["Musical"]}),
        ("171749", {"title": "Death Note: Desu nôto (2006–2007)"}),
        ("40697", {"title": "Babylon 5", "genres": ["Sci-Fi"]}),
    ]
    sequences = read_sequences(tmp_path / "out" / "interactions.parquet", catalogue)
    assert [s.tolist() for s in sequences] == [[3, 1, 0]]
    assert report.problems["items", "item never interacted with"].count == 1


def test_rows_of_later_releases_that_cannot_be_used_are_dropped(raw, tmp_path):
    write_20m(raw)
    with (raw / "movies.csv").open("a") as file:
        file.write("4,Four Rooms (1995)\n")
    with (raw / "ratings.csv").open("a") as file:
        file.write("7,1,5\n7,99,5,40\n7,1,5,\n")
    report = prepare("movielens", raw, tmp_path / "out")

    films = report.problems["items", "malformed row"].first
    assert [str(place) for place in films] == ["movies.csv:5: 2 fields where the header has 3"]
    assert [str(problem.first[0]) for problem in report.dropped("interactions")] == [
        "ratings.csv:6: 4 fields separated by ',' are expected",
        "ratings.csv:8: no timestamp, where other rows have one",
        "ratings.csv:7: item '99' is not in the catalogue",
    ]


def test_recbole_year_that_is_none_is_left_out_and_reported(raw, tmp_path):
    write_recbole(raw)
    with (raw / "ml-100k.item").open("a") as file:
        file.write("267\tunkonwn\tunkonwn\tunknown\n1412\tTime III (1995)\tV\tAnimation\n")
    report = prepare("movielens", raw, tmp_path / "out")

    catalogue = Catalogue.read(tmp_path / "out" / "items.parquet")
    assert catalogue.attributes[3] == {"title": "unkonwn"}
    assert catalogue.attributes[4] == {"title": "Time III", "year": 1995, "genres": ["Animation"]}
    problem = report.problems["items", "film with an unreadable year"]
    assert (problem.count, problem.dropped) == (1, False)
    assert str(problem.first[0]) == "ml-100k.item:5: 'unkonwn' is not a year; left out"


def test_malformed_lines_are_dropped_with_their_place(raw, tmp_path):
    write_100k(raw)
    with (raw / "u.item").open("a") as file:
        file.write("4|Four Rooms (1995)\n")
    with (raw / "u.data").open("a") as file:
        file.write("7\t1\t5\n\n7\t1\t5\t31\t99\n")
    report = prepare("movielens", raw, tmp_path / "out")

    assert report.kept == {"items": 3, "users": 2, "interactions": 4}
    films = report.problems["items", "malformed row"]
    assert [str(place) for place in films.first] == ["u.item:4: 2 fields where a film has 24"]
    ratings = report.problems["interactions", "malformed row"]
    assert [place.line for place in ratings.first] == [5, 7]


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_missing_file_is_named(raw, tmp_path, write):
    write(raw)
    log, *_ = sorted(raw.glob("u.item")) or sorted(raw.glob("m*.*")) or []
    if log.suffix == ".inter":
        log = log.with_suffix(".item")
    log.unlink()
    with pytest.raises(DataError, match=f"{log.name} is not there; expected"):
        prepare("movielens", raw, tmp_path / "out")


def test_a_folder_without_movielens_files_names_the_layouts(raw, tmp_path):
    with pytest.raises(DataError, match=r"u\.data and u\.item .* ratings\.dat .* ratings\.csv"):
        prepare("movielens", raw, tmp_path / "out")


def test_csv_of_other_columns_is_refused_with_its_columns(raw, tmp_path):
    write_20m(raw)
    (raw / "ratings.csv").write_text("user,item,stars\n7,1,5\n")
    with pytest.raises(DataError, match=r"ratings\.csv:1: the columns are user, item, stars"):
        prepare("movielens", raw, tmp_path / "out")
