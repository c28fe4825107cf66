"""Fuzzing, by coverage: nothing that comes from outside makes a reader crash, hang or lie.

    pip install -r requirements/fuzz.txt
    python benchmarks/fuzz.py                               # ten minutes for each of five readers
    python benchmarks/fuzz.py --only canonical --seconds 60

Each reader runs in a process of its own under atheris (libFuzzer); an input that takes more than
ten seconds counts as a hang. Inputs that fail are kept in ``fuzz-<reader>``. Writes ``results/fuzz.json``,
where readers that were left out keep what they had.
"""

import argparse
import importlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from report import RESULTS, must_show, write_report

SECONDS, HANG_SECONDS, MEMORY_MB = 600, 10, 6000
DIMENSIONS = 8


def canonical_form(data: bytes) -> None:
    """Attributes have a canonical form, which is its own, or are refused."""
    from llmemb.catalogue import canonical
    from llmemb.errors import ItemError

    attributes = _attributes(data)
    try:
        form = canonical(attributes)
    except ItemError as error:
        json.dumps([error.reason, error.path])
        return
    assert canonical(json.loads(form)) == form


def prompt(data: bytes) -> None:
    """Whatever has a canonical form has a prompt, the same for every spelling."""
    from llmemb.catalogue import canonical_attributes
    from llmemb.errors import ItemError
    from llmemb.prompt import PromptTemplate

    template = PromptTemplate(domain="film", exclude=("rank",), value_chars=20)
    try:
        attributes = canonical_attributes(_attributes(data))
    except ItemError:
        return
    text = template.render(attributes)
    text.encode()
    assert text == template.render(dict(reversed(attributes.items())))


def cached_value(data: bytes) -> None:
    """What is in the cache is the vector that was put there under that key, or a miss."""
    from service.llm_vector import pack, unpack

    found = unpack(data, "key", DIMENSIONS)
    assert found is None or pack(found, "key") == data


def bundle(data: bytes) -> None:
    """A bundle of which bytes are others is read, or refused with the file's name."""
    from llmemb.bundle import read_bundle
    from llmemb.errors import BundleError

    folder, names = _tiny_bundle()
    if len(data) < 5:
        return
    name = names[data[0] % len(names)]
    whole = (folder / name).read_bytes()
    place = int.from_bytes(data[1:4], "little") % (len(whole) + 1)
    removed = data[4] if data[4] < 250 else len(whole)
    try:
        (folder / name).write_bytes(whole[:place] + data[5:] + whole[place + removed :])
        _reseal(folder)
        with suppress(BundleError):
            read_bundle(folder)
    finally:
        (folder / name).write_bytes(whole)


def ndjson(data: bytes) -> None:
    """Lines of items become one body of as many items, or the line to blame is named."""
    from service.api.json_route import _items
    from service.errors import InvalidFieldError

    try:
        body = _items(data)
    except InvalidFieldError:
        return
    lines = [line for line in data.split(b"\n") if line.strip()]
    assert len(json.loads(body)["items"]) == len(lines)


READERS: dict[str, Callable[[bytes], None]] = {
    "canonical": canonical_form,
    "prompt": prompt,
    "cache": cached_value,
    "bundle": bundle,
    "ndjson": ndjson,
}
SEEDS = {
    "canonical": [b'{"title":"Heat","year":1995,"genres":["Crime",{"a":null}],"x":1.5e300}'],
    "prompt": [b'{"title":"Heat","rank":3,"genres":["Crime",["a"]],"price":{"usd":4.5}}'],
    "ndjson": [b'{"id":"a","attributes":{"title":"x"}}\n{"id":"b","attributes":{}}\n'],
    "bundle": [bytes([i, 9, 0, 0, 1, 255]) for i in range(12)],
}
_bundle: list[Any] = []


def _cached_vector() -> bytes:
    import numpy as np

    from service.llm_vector import LLMVector, pack

    return pack(LLMVector(np.arange(DIMENSIONS, dtype=np.float16), 7, truncated=False), "key")


def _attributes(data: bytes) -> dict[str, Any]:
    """Return attributes: JSON as the service reads it, or, where it is none, made of the bytes."""
    from pydantic_core import from_json

    try:
        found = from_json(data, allow_inf_nan=True)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    parts = data.decode("utf-8", "surrogatepass" if data[:1] < b"\x80" else "replace").split(",")
    return {part[:3]: part for part in parts}


def _tiny_bundle() -> tuple[Path, list[str]]:
    if not _bundle:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from tiny_bundle import make_tiny_bundle

        from llmemb.bundle import read_manifest

        made = make_tiny_bundle(Path(tempfile.mkdtemp(prefix="llmemb-fuzz-")))
        names = [name for name in read_manifest(made).files if not name.startswith("encoder/")]
        _bundle.extend([made, sorted(names)])
    return _bundle[0], _bundle[1]


def _reseal(folder: Path) -> None:
    from tiny_bundle import reseal

    reseal(folder)


def fuzz(name: str, arguments: list[str]) -> None:
    """Run libFuzzer over one reader in this process; it does not return."""
    import atheris

    with atheris.instrument_imports(include=["llmemb", "service"]):
        for module in ("llmemb.bundle", "service.api.json_route", "service.llm_vector"):
            importlib.import_module(module)
    reader = READERS[name]

    def one(data: bytes) -> None:
        with suppress(UnicodeDecodeError):  # of our making of attributes, not of a reader
            reader(data)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def run(name: str, seconds: int) -> dict[str, Any]:
    """Fuzz one reader in a process of its own; return what came of it."""
    kept = Path(f"fuzz-{name}")
    with tempfile.TemporaryDirectory() as folder:
        corpus, failed = Path(folder) / "corpus", Path(folder) / "failed"
        corpus.mkdir()
        failed.mkdir()
        for i, seed in enumerate(SEEDS.get(name) or [_cached_vector()]):
            (corpus / f"seed-{i}").write_bytes(seed)
        options = [
            f"-max_total_time={seconds}",
            f"-timeout={HANG_SECONDS}",
            f"-rss_limit_mb={MEMORY_MB}",
            f"-artifact_prefix={failed}/",
            "-print_final_stats=1",
        ]
        ran = subprocess.run(
            [sys.executable, __file__, "--reader", name, "--", str(corpus), *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        artifacts = sorted(failed.iterdir())
        if artifacts:
            shutil.copytree(failed, kept, dirs_exist_ok=True)
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", ran.stderr))
    covered = re.findall(r"cov: (\d+)", ran.stderr)
    if ran.returncode:
        print(ran.stderr[-3000:], file=sys.stderr)
    return {
        "seconds": seconds,
        "inputs": int(stats.get("number_of_executed_units", 0)),
        "edges": int(covered[-1]) if covered else 0,
        "slowest_s": int(stats.get("slowest_unit_time_sec", 0)),
        "failed": len(artifacts) or int(ran.returncode != 0),
    }


def main() -> None:
    """Fuzz and write ``results/fuzz.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=READERS, nargs="+", default=list(READERS))
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each reader")
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reader:
        fuzz(arguments.reader, arguments.arguments)
        return
    path = RESULTS / "fuzz.json"
    found = json.loads(path.read_bytes())["readers"] if path.exists() else {}
    found |= {name: run(name, arguments.seconds) for name in arguments.only}
    lines = [
        must_show(
            f"{name}: inputs in {one['seconds']} s that crash, hang or give a wrong answer",
            one["failed"],
            "0",
            one["failed"] == 0 and one["inputs"] > 0,
        )
        for name, one in found.items()
    ]
    print(
        write_report(
            "fuzz",
            "readers of what comes from outside, fuzzed by coverage",
            1,
            lines,
            readers=found,
        )
    )


if __name__ == "__main__":
    main()
