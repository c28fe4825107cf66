"""Serving, measured: next to Infinity, next to an endpoint that does nothing, overloaded, poisoned.

    python benchmarks/serve.py data/beauty                   # about 25 minutes on two cores

All layers of the LLM, as it came: what another server of the same model would run. Servers that are
compared are up together and asked in turns, each a round. Infinity is left out where `make encode` has
not installed it. Writes ``results/serve.json``.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
from load import closed_loop, figures, open_loop
from portable_model import portable_model
from report import must_show, write_report
from tokenizers import Tokenizer

from llmemb.base_model import DEFAULT_BASE_MODEL, find_base_model
from trainer.dataset import read_dataset
from trainer.presets import build_preset
from trainer.train import prompt_template

CLIENTS = (1, 8, 64)
CACHED_CLIENTS = (1, 16)
ROUND_SECONDS = 20
OVERLOAD, OVERLOAD_SECONDS = 3, 60
DEADLINE = 10
POISON, POISONED_ITEMS = "<|poison|>", 1000
FASTER, CACHED_SHARE, GOODPUT, FLAT = 1.3, 0.5, 0.85, 1.1

EMPTY = "empty FastAPI endpoint"
MODEL = "llmemb-llm"  # the LLM's own vectors; Infinity serves its model by the same name

LLMEMB = str(Path(sys.executable).with_name("llmemb"))


def main() -> None:
    """Measure and write ``results/serve.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="prepared data (`llmemb data prepare`)")
    parser.add_argument("--base-model", default=DEFAULT_BASE_MODEL, help="the LLM")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=Path(), help="folder of their environments")
    arguments = parser.parse_args()
    base = find_base_model(arguments.base_model)
    data = read_dataset(arguments.data)
    template = prompt_template(data, build_preset("default"))
    texts = fresh_texts([template.render(item) for item in data.catalogue.attributes])
    with tempfile.TemporaryDirectory(prefix="llmemb-serve-") as name, ExitStack() as stack:
        folder = Path(name)
        bundle = trained_bundle(arguments.data, base.path, folder)
        limits = {"LLMEMB_DEADLINE_SECONDS": str(DEADLINE)}
        ours = stack.enter_context(llmemb(bundle, folder, **limits))
        uncached = {"llmemb": f"{ours.url}/v1/embeddings"}
        python = arguments.peers / ".venv-infinity" / "bin" / "python"
        if python.exists():
            model = portable_model(base.path, folder / "infinity")
            uncached["infinity"] = stack.enter_context(infinity(python, model)) + "/embeddings"
        shown: dict[str, Any] = {
            "uncached": turns(uncached, texts, CLIENTS, arguments.rounds, ROUND_SECONDS)
        }
        empty = stack.enter_context(empty_endpoint())
        body = json.dumps({"items": [{"attributes": data.catalogue.attributes[0]}]}).encode()
        cached = {"llmemb": f"{ours.url}/items/embed", EMPTY: empty}
        shown["cached"] = turns(cached, itertools.repeat(body), CACHED_CLIENTS, 5, 5)
        shown["overload"] = overload(ours, texts, arguments.rounds)
    with tempfile.TemporaryDirectory(prefix="llmemb-serve-") as name, ExitStack() as stack:
        folder = Path(name)
        bundle = trained_bundle(arguments.data, poisoned(base.path, folder / "base"), folder)
        wide = {"LLMEMB_MAX_REQUESTS": "2000", "LLMEMB_DEADLINE_SECONDS": "300"}
        ours = stack.enter_context(llmemb(bundle, folder, **wide))
        shown["poison"] = poison(ours, texts)
    print(
        write_report(
            "serve",
            f"serving {base.source}, all layers, prompts of {data.facts.name}",
            arguments.rounds,
            promises(shown),
            **shown,
        )
    )


def text_body(text: str) -> bytes:
    """Return a request for one text's vector, in the form that both servers take."""
    return json.dumps({"model": MODEL, "input": [text]}).encode()


def fresh_texts(texts: list[str]) -> Iterator[str]:
    """Yield texts for ever, none of them twice."""
    for number in itertools.count():
        for text in texts:
            yield f"{text}; edition is {number}"


def turns(
    urls: dict[str, str],
    texts: Iterator[Any],
    clients: tuple[int, ...],
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Load each server in turn; return the figures of each, of the round of median throughput."""
    found: dict[str, dict[str, Any]] = {name: {} for name in urls}
    bodies = (text if isinstance(text, bytes) else text_body(text) for text in texts)
    for count in clients:
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in urls}
        for _ in range(rounds):
            for name, url in urls.items():
                taken[name].append(figures(closed_loop(url, bodies, count, seconds)))
                print(f"{name}, {count} clients: {taken[name][-1]}", file=sys.stderr)
        for name, ones in taken.items():
            ones.sort(key=lambda one: float(one["per_second"]))
            rates = [one["per_second"] for one in ones]
            found[name][str(count)] = ones[len(ones) // 2] | {"rounds_per_second": rates}
    return found


def overload(ours: "Server", texts: Iterator[str], rounds: int) -> dict[str, Any]:
    """Ask for a minute for three times what the service can do; return the round of median goodput.

    What it can do is the mean of what it did right before and right after: machines have slow minutes.
    """
    url = f"{ours.url}/v1/embeddings"

    def sustainable() -> float:
        bodies = map(text_body, texts)
        return float(figures(closed_loop(url, bodies, CLIENTS[-1], ROUND_SECONDS))["per_second"])

    taken = []
    before = sustainable()
    memory = [ours.memory()]
    for _ in range(rounds):
        rate = OVERLOAD * before
        bodies = [text_body(next(texts)) for _ in range(round(rate * OVERLOAD_SECONDS))]
        answers = open_loop(url, bodies, rate)
        memory.append(ours.memory())
        after = sustainable()
        found = figures(answers)
        refused = sum(a.status == 429 and b"retry-after:" in a.head.lower() for a in answers)
        taken.append(
            found
            | {
                "asked_per_second": round(rate, 1),
                "sustainable_per_second": [before, after],
                "goodput_share": round(2 * found["per_second"] / (before + after), 3),
                "refused": refused,
                "answered_otherwise": len(answers) - found["answered"] - refused,
            }
        )
        print(f"overload: {taken[-1]}, {memory[-1] >> 20} MB", file=sys.stderr)
        before = after
    shares = [one["goodput_share"] for one in taken]
    return sorted(taken, key=lambda one: float(one["goodput_share"]))[len(taken) // 2] | {
        "rounds_goodput_share": shares,
        "answered_otherwise": sum(one["answered_otherwise"] for one in taken),
        "memory_mb": [round(one / 2**20) for one in memory],  # before, and after each round
    }


def poison(ours: "Server", texts: Iterator[str]) -> dict[str, Any]:
    """Ask for 1,000 items at once, one of which makes the model fail."""
    asked = [next(texts) for _ in range(POISONED_ITEMS)]
    asked[POISONED_ITEMS // 2] += f" {POISON}"
    answers = open_loop(f"{ours.url}/v1/embeddings", map(text_body, asked), rate=1e9)
    wrong = [(i, answer) for i, answer in enumerate(answers) if answer.status != 200]
    return {
        "answers": sum(answer.status == 200 for answer in answers),
        "errors": len(wrong),
        "the_error_is_the_poison": [i for i, _ in wrong] == [POISONED_ITEMS // 2],
        "its_answer": json.loads(wrong[0][1].body) if wrong else None,
    }


def promises(shown: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was promised, and whether it holds."""
    found = []
    uncached, cached, over = shown["uncached"], shown["cached"], shown["overload"]
    if "infinity" in uncached:
        rates = [uncached[name]["64"]["per_second"] for name in ("llmemb", "infinity")]
        ratio = round(rates[0] / rates[1], 2)
        line = "uncached, 64 clients: throughput over Infinity's"
        found.append(must_show(line, ratio, f">= {FASTER}", ratio >= FASTER))
    for count in map(str, CACHED_CLIENTS):
        rates = [cached[name][count]["per_second"] for name in ("llmemb", EMPTY)]
        share = round(rates[0] / rates[1], 2)
        line = f"cached item, {count} clients: requests a second, share of an empty endpoint's"
        found.append(must_show(line, share, f">= {CACHED_SHARE}", share >= CACHED_SHARE))
    times = f"{OVERLOAD} times the load for {OVERLOAD_SECONDS} s"
    goodput = over["goodput_share"]
    found.append(
        must_show(f"{times}: goodput", goodput, f"> {GOODPUT} of its peak", goodput > GOODPUT)
    )
    otherwise = over["answered_otherwise"]
    line = f"{times}: answers that are neither 200 nor 429 with Retry-After"
    found.append(must_show(line, otherwise, "0", otherwise == 0))
    slowest = over["p99_ms"] / 1e3
    found.append(
        must_show(f"{times}: p99, s", slowest, f"< {DEADLINE} (deadline)", slowest < DEADLINE)
    )
    first, *later = over["memory_mb"]
    growth = round(max(later) / first, 3)
    found.append(must_show(f"{times}: memory after / before", growth, f"<= {FLAT}", growth <= FLAT))
    answers, alone = shown["poison"]["answers"], shown["poison"]["the_error_is_the_poison"]
    line = "one poison item among 1,000 concurrent: answers, and one error"
    holds = answers == POISONED_ITEMS - 1 and alone
    found.append(must_show(line, answers, str(POISONED_ITEMS - 1), holds))
    return found


def trained_bundle(data: Path, base: Path, folder: Path) -> Path:
    """Train the least there is around the LLM as it came."""
    bundle = folder / "bundle"
    settings = ["scft.epochs=0", "encoder.depth=1", "collaborative.epochs=1", "rat.epochs=1"]
    options = [f"--set={one}" for one in settings]
    command = [LLMEMB, "train", str(data), "--out", str(bundle), "--base-model", str(base)]
    subprocess.run([*command, "--preset", "quick", *options], check=True)
    return bundle


def poisoned(model: Path, folder: Path) -> Path:
    """Copy a model and teach its tokenizer a token that the model has no embedding for."""
    shutil.copytree(model, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([POISON])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


class Server:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[Any], url: str) -> None:
        """Take the process, and the URL that it is at."""
        self.process = process
        self.url = url

    def memory(self) -> int:
        """Return the bytes that it holds of its own."""
        return int(psutil.Process(self.process.pid).memory_full_info().uss)


@contextmanager
def server(
    command: list[str], port: int, health: str, host: str = "127.0.0.1", **environment: str
) -> Iterator[Server]:
    """Run a server until the block ends; the block begins when it is ready."""
    with subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": str(os.cpu_count()), **environment},
        stdout=subprocess.DEVNULL,
    ) as process:
        url = f"http://{host}:{port}"
        try:
            wait_for(f"{url}{health}", process)
            yield Server(process, url)
        finally:
            process.send_signal(signal.SIGTERM)


def wait_for(url: str, process: subprocess.Popen[Any], seconds: float = 180) -> None:
    """Wait until a URL answers; fail where that takes too long, or the process ends."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{process.args} did not come up")


def llmemb(
    bundle: Path, folder: Path, port: int = 8101, host: str = "127.0.0.1", **environment: str
) -> Any:
    """Return our service, with the settings it comes with but for ``environment``."""
    command = [LLMEMB, "serve", str(bundle), "--host", host, "--port", str(port)]
    state = str(folder / "state")
    return server(command, port, "/health/ready", host, LLMEMB_STATE_DIR=state, **environment)


@contextmanager
def infinity(python: Path, model: Path) -> Iterator[str]:
    """Run Infinity with the same weights in bfloat16."""
    options = "--engine torch --device cpu --dtype bfloat16 --no-bettertransformer --port 8102"
    names = ["--model-id", str(model), "--served-model-name", MODEL]
    command = [str(python.with_name("infinity_emb")), "v2", *names, *options.split()]
    with server(command, 8102, "/health") as running:
        yield running.url


@contextmanager
def empty_endpoint() -> Iterator[str]:
    """Run an endpoint that does nothing, as our service is run."""
    command = [sys.executable, str(Path(__file__).with_name("empty_endpoint.py")), "8103"]
    with server(command, 8103, "/docs") as running:
        yield f"{running.url}/"


if __name__ == "__main__":
    main()
