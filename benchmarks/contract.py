"""Every endpoint asked whatever its OpenAPI document allows, and what it does not, by schemathesis.

    python benchmarks/contract.py                  # more than 10,000 cases, half an hour
    python benchmarks/contract.py --examples 50

Two services of the tiny bundle, one open and one with API keys, with all checks. A part of it runs with
the tests (tests/service/test_service_contract.py). Writes ``results/contract.json``.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from report import must_show, write_report
from serve import llmemb

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny_bundle import make_tiny_bundle

from service.keys import add_key

EXAMPLES, CASES = 800, 10_000  # of each operation and phase; in all
CONFIG = Path(__file__).parents[1] / "tests/service/schemathesis.toml"


def main() -> None:
    """Ask and write ``results/contract.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="llmemb-contract-") as name:
        folder = Path(name)
        bundle = make_tiny_bundle(folder / "tiny")
        keys = folder / "keys.json"
        header = f"Authorization: Bearer {add_key(keys, 'all', 'admin', None)}"
        for service, headers, environment in (
            ("open", [], {}),
            ("with keys", ["--header", header], {"LLMEMB_KEYS_FILE": str(keys)}),
        ):
            with llmemb(bundle, folder, **environment) as running:
                found[service] = asked(running.url, arguments.examples, headers, folder)
                urllib.request.urlopen(f"{running.url}/health/ready").close()
    cases = sum(one["cases"] for one in found.values())
    failures = sum(one["failures"] for one in found.values())
    path = write_report(
        "contract",
        "cases that schemathesis made of the OpenAPI document, all its checks",
        1,
        [
            must_show("cases", cases, f">= {CASES}", cases >= CASES),
            must_show("answers against the contract, 5xx among them", failures, "0", failures == 0),
        ],
        examples=arguments.examples,
        services=found,
    )
    print(path)


def asked(url: str, examples: int, headers: list[str], folder: Path) -> dict[str, Any]:
    """Let schemathesis ask a service, with its own files in a folder; return what it counted."""
    command = [str(Path(sys.executable).with_name("st")), "--config-file", str(CONFIG), "run"]
    options = ["--max-examples", str(examples), "--no-color", "--generation-database", "none"]
    done = subprocess.run(
        [*command, f"{url}/openapi.json", *options, *headers],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    print(done.stdout[-3000:], done.stderr, sep="\n", file=sys.stderr)
    operations = re.search(r"Tested: +(\d+)", done.stdout)
    cases = re.search(r"([\d,]+) generated", done.stdout)
    failures = re.search(r"([\d,]+) unique failures?", done.stdout)
    if not operations or not cases:
        raise SystemExit("schemathesis ended without a count")
    return {
        "operations": int(operations[1]),
        "cases": int(cases[1].replace(",", "")),
        "failures": int(failures[1].replace(",", "")) if failures else int(done.returncode != 0),
    }


if __name__ == "__main__":
    main()
