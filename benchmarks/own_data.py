"""A stranger's path, timed: from two CSV files and nothing installed to recommendations, in five commands.

    python benchmarks/own_data.py data/ml-100k        # about ten minutes on two cores

The CSV files hold what a prepared data set holds. Works in a fresh clone in a temporary folder with an
empty home, so that nothing that is cached helps. Writes ``results/own-data.json``.
"""

import argparse
import csv
import json
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

import polars as pl
from quickstart import free_port, fresh_clone, until_ready
from report import must_show, write_report

INSTALL = "make install"
PREPARE = ".venv/bin/llmemb data prepare files my-shop --domain film --out data/my-shop"
TRAIN = ".venv/bin/llmemb train data/my-shop --out bundles/my-shop --preset quick"
SERVE = ".venv/bin/llmemb serve bundles/my-shop --port {port}"
RECOMMEND = (
    "curl -s http://127.0.0.1:{port}/recommend -H 'Content-Type: application/json' "
    '-d \'{{"sequence": ["{item}"], "k": 10}}\''
)
COMMANDS = 5


def main() -> None:
    """Type the five commands and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="prepared data, to make the CSV files of")
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory(prefix="llmemb-own-data-") as name:
        clone, environment = fresh_clone(Path(name))
        item = write_csv(data, clone / "my-shop")

        def run(command: str) -> float:
            began = time.monotonic()
            subprocess.run(shlex.split(command), cwd=clone, env=environment, check=True)
            return time.monotonic() - began

        seconds = {command: run(command) for command in (INSTALL, PREPARE, TRAIN)}
        port = free_port()
        began = time.monotonic()
        with subprocess.Popen(
            shlex.split(SERVE.format(port=port)), cwd=clone, env=environment
        ) as service:
            until_ready(service, port)
            seconds[SERVE] = time.monotonic() - began
            began = time.monotonic()
            asked = shlex.split(RECOMMEND.format(port=port, item=item))
            answer = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
            seconds[RECOMMEND] = time.monotonic() - began
            service.terminate()
    path = write_report(
        "own-data",
        f"two CSV files ({data.name}) to recommendations in a fresh clone with SmolLM2-135M, preset quick",
        1,
        [
            must_show(
                "own CSV files to ten recommendations, in commands",
                len(seconds),
                f"<= {COMMANDS}",
                len(seconds) <= COMMANDS and len(answer["items"]) == 10,
            )
        ],
        seconds={command: round(value, 1) for command, value in seconds.items()},
        seconds_in_all=round(sum(seconds.values()), 1),
    )
    print(path)


def write_csv(data: Path, folder: Path) -> str:
    """Write what a stranger has; return the id of an item."""
    folder.mkdir()
    items = [
        {"id": item_id} | json.loads(attributes)
        for item_id, attributes in pl.read_parquet(data / "items.parquet").iter_rows()
    ]
    names = dict.fromkeys(name for item in items for name in item)
    with (folder / "items.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(names))
        table.writeheader()
        for item in items:
            lists = {name: ", ".join(v) for name, v in item.items() if isinstance(v, list)}
            table.writerow(item | lists)
    pl.read_parquet(data / "interactions.parquet").write_csv(folder / "interactions.csv")
    return items[0]["id"]


if __name__ == "__main__":
    main()
