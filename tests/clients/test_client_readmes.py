"""What the clients' READMEs say runs as it stands, against a service that is empty of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from service_process import Serve, Service

CLIENTS = Path(__file__).parents[2] / "clients"


@pytest.fixture(scope="module")
def open_service(serve: Serve) -> Service:
    return serve()


def blocks(readme: Path, language: str, service: Service) -> list[str]:
    """Return a README's blocks of a language, asking this service."""
    text = readme.read_text(encoding="utf-8")
    text = text.replace("http://127.0.0.1:8000", str(service.client.base_url).rstrip("/"))
    found = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found
    return found


def test_the_python_snippets_run(open_service: Service) -> None:
    for code in blocks(CLIENTS / "python/README.md", "python", open_service):
        environment = {**os.environ, "PYTHONPATH": str(CLIENTS / "python")}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.skipif(
    not (CLIENTS / "typescript/node_modules").is_dir(),
    reason="needs what `npm ci` installs in clients/typescript (`make test` does it)",
)
def test_the_javascript_snippet_runs(open_service: Service) -> None:
    package = CLIENTS / "typescript"
    subprocess.run(["npm", "run", "--silent", "build"], check=True, cwd=package)
    for code in blocks(package / "README.md", "javascript", open_service):
        # A package may import itself by its own name.
        command = ["node", "--input-type=module", "-e", code]
        subprocess.run(command, check=True, cwd=package)
