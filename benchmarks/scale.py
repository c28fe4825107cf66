"""More than one process or machine, measured: each section is a measurement of its own.

    python benchmarks/scale.py --bundle bundles/ml-100k             # all, half an hour on two cores
    python benchmarks/scale.py training cluster

Writes the sections into ``results/scale.json`` and leaves the others as they are.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scale_cluster
import scale_ray
import scale_training
from report import RESULTS, write_report

from llmemb.files import json_bytes, replacing_file

SECTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "training": lambda _: scale_training.measure(),
    "cluster": lambda _: scale_cluster.measure(),
    "ray": scale_ray.measure,
}


def main() -> None:
    """Measure the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), help=", ".join(SECTIONS))
    parser.add_argument(
        "--bundle", type=Path, default=Path("bundles/ml-100k"), help="of `ray` (`llmemb train`)"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    path = RESULTS / "scale.json"
    for section in arguments.sections:
        report = SECTIONS[section](arguments.bundle)
        found = json.loads(path.read_bytes()) if path.exists() else {}
        with tempfile.TemporaryDirectory() as name:
            written = write_report(section, **report, folder=Path(name))
            found[section] = json.loads(written.read_bytes())
        with replacing_file(path) as aside:
            aside.write_bytes(json_bytes(found))
        print(f"{path}: {section}")


if __name__ == "__main__":
    main()
