"""The first impression, measured: a fresh clone, ``make run`` twice, quality, a run killed in every stage.

    python benchmarks/quickstart.py            # about 20 minutes on two cores

Works in a temporary folder with an empty home, so that nothing that is cached helps.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from report import must_show, write_report

ROOT = Path(__file__).parents[1]
STAGES = ("scft", "vectors", "collaborative", "rat")
FIRST_RUN_LIMIT, SECOND_RUN_LIMIT = 12 * 60, 20


def main() -> None:
    """Measure and write ``results/quickstart.json``."""
    with tempfile.TemporaryDirectory(prefix="llmemb-quickstart-") as name:
        clone, environment = fresh_clone(Path(name))
        first = seconds_until_ready(clone, environment)
        print(f"first make run: ready after {first:.0f} s", flush=True)
        second = seconds_until_ready(clone, environment)
        print(f"second make run: ready after {second:.1f} s", flush=True)
        metrics = evaluate(clone, environment)
        print("evaluated", flush=True)
        undisturbed = bundle_id(clone / "bundles" / "ml-100k")
        disturbed, killed = train_killed_in_every_stage(clone, environment)
        print(
            f"killed in {', '.join(killed)}: {disturbed} (undisturbed: {undisturbed})", flush=True
        )

    ours, ids = metrics["full"], metrics["baselines"]["id/sasrec"]["full"]
    path = write_report(
        "quickstart",
        "fresh clone to served recommendations on MovieLens-100K with SmolLM2-135M, preset quick",
        1,
        [
            must_show(
                "make run in a fresh clone reaches /health/ready",
                round(first, 1),
                f"<= {FIRST_RUN_LIMIT} s",
                first <= FIRST_RUN_LIMIT,
            ),
            must_show(
                "a second make run",
                round(second, 1),
                f"<= {SECOND_RUN_LIMIT} s",
                second <= SECOND_RUN_LIMIT,
            ),
            must_show(
                "killed with SIGKILL in each stage and started again: the same bundle id",
                disturbed,
                undisturbed,
                disturbed == undisturbed and set(killed) == set(STAGES),
            ),
        ],
        first_run_seconds=round(first, 1),
        second_run_seconds=round(second, 1),
        quality=metrics,
        relative_to_id_only={
            group: round(ours[group]["NDCG@10"] / ids[group]["NDCG@10"], 3)
            for group in ("all", "tail", "head")
            if ids[group]["NDCG@10"]
        },
    )
    print(path)


def fresh_clone(folder: Path) -> tuple[Path, dict[str, str]]:
    """Return a clone in a folder, and an environment in which nothing is cached or set."""
    clone, home = folder / "clone", folder / "home"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LLMEMB_", "XDG_"))}
    return clone, kept | {"HOME": str(home), "PIP_CACHE_DIR": str(home / "pip")}


def seconds_until_ready(clone: Path, environment: dict[str, str]) -> float:
    """Run ``make run`` until it is ready, then stop it as Ctrl-C would."""
    port = free_port()
    began = time.monotonic()
    with subprocess.Popen(
        ["make", "run", f"PORT={port}"], cwd=clone, env=environment, start_new_session=True
    ) as make:
        until_ready(make, port)
        seconds = time.monotonic() - began
        os.killpg(make.pid, signal.SIGINT)
    return seconds


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the service that a process starts is ready."""
    while True:
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with {process.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
        else:
            return


def evaluate(clone: Path, environment: dict[str, str]) -> dict:
    """Return what ``llmemb evaluate --json`` says of the bundle."""
    target = clone / "metrics.json"
    subprocess.run(
        [".venv/bin/llmemb", "evaluate", "bundles/ml-100k", "data/ml-100k", "--json", str(target)],
        cwd=clone,
        env=environment,
        check=True,
    )
    return json.loads(target.read_bytes())


def bundle_id(path: Path) -> str:
    """Return a bundle's id."""
    return json.loads((path / "manifest.json").read_bytes())["bundle"]


def train_killed_in_every_stage(clone: Path, environment: dict[str, str]) -> tuple[str, list[str]]:
    """Train anew beside the first bundle, killed once in each stage well after its start."""
    out = clone / "bundles" / "killed"
    command = [".venv/bin/llmemb", "train", "data/ml-100k", "--out", str(out), "--preset", "quick"]
    killed = []
    for stage in (*STAGES, None):
        with subprocess.Popen(
            command, cwd=clone, env=environment, stderr=subprocess.PIPE, text=True
        ) as run:
            assert run.stderr is not None
            for line in run.stderr:
                if stage and line.startswith(f"{stage}: started"):
                    time.sleep(30 if stage == "scft" else 12)
                    run.kill()
                    killed.append(stage)
                    break
            run.stderr.read()
    identifier = bundle_id(out)
    shutil.rmtree(out)
    return identifier, killed


if __name__ == "__main__":
    main()
