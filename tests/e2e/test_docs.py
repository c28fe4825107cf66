"""The documentation: each command of each page is pasted as it stands, and the site asks nobody else.

What differs from a reader's own day is little: other ports, a small shop made up here, and training with a
tiny LLM for an epoch, since what matters is that the commands fit together.
"""

import csv
import json
import random
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from reader import ROOT, Block, Reader, blocks
from tiny import make_tiny_llm

PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
OF_FILMS = ("README.md", "docs/bridges.md")  # they ask about MovieLens
RUN = {"bash", "python"}
SHOWN = {"console", "csv", "json", "text"}
NOT_RUN = {  # why, and how often
    "installs": 3,
    "measures for hours": 2,
    "measures for minutes": 2,
    "needs Docker": 7,
    "needs Kubernetes": 2,
    "needs Milvus": 1,
    "needs Ray": 3,
    "needs RecBole": 1,
    "needs VNNI": 1,
    "needs a GPU": 1,
    "needs a collector": 1,
    "needs several GPUs": 2,
    "needs the Hub": 1,
}
PROGRAMS = ("bash", "curl", "openssl")
SHORT = (
    "--set=scft.epochs=1 --set=scft.batch_size=16 --set=collaborative.epochs=1 --set=rat.epochs=1"
)
TRAINED = """
llmemb data prepare files my-shop --domain outdoor --out data/my-shop
llmemb train data/my-shop --out bundles/my-shop --preset default
"""
NAMES = ["Trail running shoe", "Rain jacket", "Wool hat", "Rope", "Stove", "Tent"]
CATEGORIES = ["Shoes", "Jackets", "Hats", "Climbing", "Cooking", "Camping"]


def make_shop(folder: Path) -> None:
    """Write a catalogue and its log, as CSV and as RecBole's files; buyers keep to a few categories."""
    items = [
        {
            "id": f"sku-{1001 + i}",
            "name": f"{NAMES[i % 6]} {i}",
            "brand": ["Nordvik", "Fjell", "Sund"][i % 3],
            "category": CATEGORIES[i % 6],
            "colour": ["blue", "yellow", "red", "green"][i % 4],
            "price": 19 + 7 * i,
        }
        for i in range(60)
    ]
    rng = random.Random(0)
    bought = [
        (f"u-{user}", items[(user + 6 * step) % 60]["id"], 1_760_000_000 + 86_400 * place)
        for user in range(80)
        for place, step in enumerate(rng.sample(range(10), 6))
    ]
    (folder / "my-shop").mkdir()
    with (folder / "my-shop/items.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, items[0])
        writer.writeheader()
        writer.writerows(items)
    with (folder / "my-shop/interactions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user", "item", "timestamp"), *bought])
    atomic = folder / "dataset/my-shop"
    atomic.mkdir(parents=True)
    rows = [("item_id:token", "name:token_seq"), *((item["id"], item["name"]) for item in items)]
    (atomic / "my-shop.item").write_text("".join("\t".join(row) + "\n" for row in rows))
    rows = [("user_id:token", "item_id:token", "timestamp:float"), *bought]
    (atomic / "my-shop.inter").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


@pytest.fixture(scope="session")
def train_options(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"{SHORT} --base-model {make_tiny_llm(tmp_path_factory.mktemp('llm') / 'llm')}"


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, train_options: str, redis_port: int) -> Path:
    """A folder as a reader has it who has trained once."""
    folder = tmp_path_factory.mktemp("docs")
    make_shop(folder)
    make_tiny_llm(folder / "models/my-llm")
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / ".curlrc").write_text("fail-with-body\nshow-error\n")  # an error is one here
    with Reader(folder, "", train_options, redis_port) as reader:
        reader.run(Block("bash", TRAINED, 0, ""))
    return folder


@pytest.fixture
def reader(
    shop: Path,
    tmp_path: Path,
    train_options: str,
    redis_port: int,
    request: pytest.FixtureRequest,
) -> Iterator[Reader]:
    folder = shutil.copytree(shop, tmp_path / "reader", symlinks=True)
    bundle = "my-shop"
    if request.node.callspec.params["page"] in OF_FILMS:
        bundle = "ml-100k"
        shutil.copytree(request.getfixturevalue("movielens_bundle"), folder / "bundles/ml-100k")
    with Reader(folder, bundle, train_options, redis_port) as reader:
        yield reader


@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)} on this machine"
)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.real) if page in OF_FILMS else page
        for page in PAGES
        if any(block.language in RUN and not block.not_run for block in blocks(ROOT / page))
    ],
)
def test_every_command_of_a_page_runs_as_it_stands(page: str, reader: Reader) -> None:
    for block in blocks(ROOT / page):
        if block.language in RUN and not block.not_run:
            printed = reader.run(block)
            if page == "README.md" and block.language == "bash" and "curl" in block.code:
                check_answers(printed, block.code.count("curl"))


def check_answers(printed: str, count: int) -> None:
    """Check that so many answers were printed, none of them a problem, each with the items asked for."""
    decoder, answers = json.JSONDecoder(), []
    while printed:
        answer, end = decoder.raw_decode(printed)
        answers.append(answer)
        printed = printed[end:].strip()
    assert len(answers) == count
    for answer in answers:
        assert "status" not in answer, answer  # a problem detail
        if "items" in answer:
            assert len(answer["items"]) == 5


def test_what_is_not_run_here_says_why_and_where_it_is() -> None:
    counted: Counter[str] = Counter()
    for page in PAGES:
        for block in blocks(ROOT / page):
            assert block.language in RUN | SHOWN, f"{page}: what language is this?\n{block.code}"
            if block.not_run:
                reason, _, elsewhere = block.not_run.partition("; ")
                counted[reason] += 1
                assert reason.startswith("measures") or (ROOT / elsewhere).is_file(), page
    assert counted == NOT_RUN


def test_the_page_of_commands_is_of_this_version() -> None:
    page = runpy.run_path(str(ROOT / "docs/commands_page.py"))["page"]()
    assert (ROOT / "docs/commands.md").read_text() == page, "run `python docs/commands_page.py`"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "--quiet", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # a warning is an error
    return folder


def test_the_site_asks_no_other_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^>]*",
            page.read_text(encoding="utf-8"),
        )
        assert loaded == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", sheet.read_text()), sheet.name


def test_the_site_has_every_call(site: Path) -> None:
    shown = re.sub(r"<[^>]+>", "", (site / "api.html").read_text(encoding="utf-8"))
    document = json.loads((ROOT / "clients/openapi.json").read_bytes())
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert f"{method.upper()} {path}" in shown
            assert operation["summary"] in shown


def test_formulas_are_drawn(site: Path) -> None:
    page = (site / "how-it-works.html").read_text(encoding="utf-8")
    assert page.count("<svg role=") > 20
    assert "arithmatex" not in page
