"""A page's blocks, and a reader who pastes them one by one."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ports import free_port

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"^(## )|(?:^<!-- not run here: ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
SHELL = ["bash", "-eo", "pipefail", "-c"]
SECONDS = 240  # that one block may take
SERVE = re.compile(r"\bllmemb serve ")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: as the fence names it; empty: it does not.
        section: how many headings of the second level stand above it.
        not_run: why no test runs it; empty: one does.
    """

    language: str
    code: str
    section: int
    not_run: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield a page's blocks in order."""
    section = 0
    for heading, not_run, language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if heading:
            section += 1
        else:
            yield Block(language, code, section, not_run)


class Reader:
    """Runs blocks in a folder, each in a shell of its own.

    ``llmemb serve`` goes on in the background until the next section, or until another is started: a reader's
    second terminal. Where a section asks a service that it does not start, the one of ``bundle`` answers.
    """

    def __init__(self, folder: Path, bundle: str, train_options: str, redis_port: int) -> None:
        """Take the folder to work in, the bundle, what makes each training shorter, and a Redis."""
        self._folder, self._bundle, self._train_options = folder, bundle, train_options
        self._port = str(free_port())
        self._ports = {"8000": self._port, "6379": str(redis_port)}
        self._section = 0
        self._service: subprocess.Popen[bytes] | None = None
        self._environment = {
            **os.environ,
            "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT / 'clients/python'}:{os.environ.get('PYTHONPATH', '')}",
            "CURL_HOME": str(folder),
            "LLMEMB_PORT": self._port,
            "LLMEMB_STATE_DIR": str(folder / "state"),
            "LLMEMB_RELOAD_QUALITY": "0",  # after an epoch it is chance which bundle is better
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, block: Block) -> str:
        """Run a block as it stands, but for its ports and the length of a training; return what it prints."""
        if block.section != self._section:
            self._stop()
            self._section = block.section
        code = re.sub(r"\b(8000|6379)\b", lambda found: self._ports[found[0]], block.code)
        code = code.replace("llmemb train ", f"llmemb train {self._train_options} ")
        if self._port in code and not SERVE.search(code) and self._service is None:
            self._serve(f"llmemb serve bundles/{self._bundle}")
        if block.language == "python":
            return self._finish([sys.executable, "-c", code])
        if SERVE.search(code):
            self._serve(code)
            return ""
        return self._finish([*SHELL, code])

    def _finish(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _serve(self, code: str) -> None:
        self._stop()
        before, _, last = code.strip().rpartition("\n")
        assert SERVE.search(last), f"nothing can be pasted behind a service:\n{code}"
        log = self._folder / "serve.log"
        with log.open("wb") as output:
            self._service = subprocess.Popen(
                # In the shell's own place, so that it is the service that is stopped, and waited for.
                [*SHELL, f"{before}\nexec env {last}"],
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + SECONDS
        while "LLMEmb serves" not in log.read_text():
            assert self._service.poll() is None, f"{code}\n{log.read_text()}"
            assert time.monotonic() < until, f"{code}: not ready within {SECONDS} seconds"
            time.sleep(0.1)

    def _stop(self) -> None:
        if self._service is not None:
            self._service.terminate()
            self._service.wait(timeout=60)
            self._service = None
