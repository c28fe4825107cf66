"""More than one process or machine, measured: each section is a measurement of its own.

    python benchmarks/scale.py ray bundles/ml-100k           # about half an hour on two cores

Writes the section into ``results/scale.json`` and leaves the others as they are.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scale_ray
from report import RESULTS, write_report

from llmemb.files import json_bytes, replacing_file

SECTIONS: dict[str, Callable[[Path, int], dict[str, Any]]] = {"ray": scale_ray.measure}


def main() -> None:
    """Measure one section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("bundle", type=Path, help="a bundle (`llmemb train`)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    path = RESULTS / "scale.json"
    report = SECTIONS[arguments.section](arguments.bundle, arguments.rounds)
    sections = json.loads(path.read_bytes()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        written = write_report(arguments.section, **report, folder=Path(name))
        sections[arguments.section] = json.loads(written.read_bytes())
    with replacing_file(path) as aside:
        aside.write_bytes(json_bytes(sections))
    print(path)


if __name__ == "__main__":
    main()
