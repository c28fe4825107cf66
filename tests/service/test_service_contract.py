"""The live service keeps to its own OpenAPI document, whatever it is asked.

``LLMEMB_TEST_CONTRACT_EXAMPLES=800`` asks more than 10,000 times; the default is a small share of that.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from service_process import Serve

from service.keys import add_key

EXAMPLES = os.environ.get("LLMEMB_TEST_CONTRACT_EXAMPLES", "8")
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("keys", [False, True])
def test_no_request_breaks_the_contract(serve: Serve, tmp_path: Path, keys: bool) -> None:
    environment, headers = {}, []
    if keys:
        file = tmp_path / "keys.json"
        headers = ["--header", f"Authorization: Bearer {add_key(file, 'all', 'admin', None)}"]
        environment = {"LLMEMB_KEYS_FILE": str(file)}
    service = serve(**environment)
    url = f"{service.client.base_url}/openapi.json"
    command = [str(Path(sys.executable).with_name("st")), "--config-file", str(CONFIG), "run", url]
    options = ["--max-examples", EXAMPLES, "--no-color", "--generation-database", "none"]
    done = subprocess.run(
        [*command, *options, *headers], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert service.client.get("/health/ready").status_code == 200
