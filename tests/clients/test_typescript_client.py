"""The TypeScript client keeps the contract that all clients share, and its types are the service's."""

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from service_process import Service

CLIENTS = Path(__file__).parents[2] / "clients"
PACKAGE = CLIENTS / "typescript"

node = pytest.mark.skipif(
    not (PACKAGE / "node_modules").is_dir() or shutil.which("node") is None,
    reason="needs Node and what `npm ci` installs in clients/typescript (`make test` does both)",
)


def run(*command: str, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=PACKAGE, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_openapi_document_is_of_this_version() -> None:
    document = runpy.run_path(str(CLIENTS / "openapi_document.py"))["document"]()
    assert (CLIENTS / "openapi.json").read_text(encoding="utf-8") == document, "run `make clients`"


@node
def test_its_types_are_made_of_the_openapi_document() -> None:
    run("npm", "run", "--silent", "generate", "--", "--check")


@node
def test_it_keeps_the_contract(service: Service, scripted: str) -> None:
    run("npm", "run", "--silent", "build")
    url = str(service.client.base_url).rstrip("/")
    run("node", "--test", "test/", LLMEMB_TEST_URL=url, LLMEMB_TEST_SCRIPTED=scripted)
