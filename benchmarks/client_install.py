"""What the Python client costs those who use it: installing it alone, and importing it.

    python benchmarks/client_install.py

Each of the installations begins with an empty environment and an empty cache of pip's; building the
package is part of it. Writes ``results/client-install.json``.
"""

import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from report import must_show, write_report

CLIENT = Path(__file__).parents[1] / "clients/python"
INSTALLATIONS, IMPORTS = 3, 11
INSTALL_SECONDS, IMPORT_SECONDS = 10, 0.3


def main() -> None:
    """Install it a few times, import it a few times more, and write the JSON."""
    installing, importing, installed = [], [], ""
    for _ in range(INSTALLATIONS):
        with tempfile.TemporaryDirectory(prefix="llmemb-client-") as name:
            venv.create(name, with_pip=True)
            python = f"{name}/bin/python"
            pip = [python, "-m", "pip", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
            installing.append(seconds([*pip, "install", str(CLIENT)]))
            alone = [python, "-c", "pass"]
            client = [python, "-c", "import llmemb_client"]
            seconds(client)  # writes the byte code
            importing += [seconds(client) - seconds(alone) for _ in range(IMPORTS)]
            listed = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True)
            installed = listed.stdout
    install, imported = statistics.median(installing), statistics.median(importing)
    path = write_report(
        "client-install",
        "installing llmemb-client in an empty environment, and importing it",
        INSTALLATIONS,
        [
            must_show(
                "it installs in under 10 s",
                round(install, 1),
                f"< {INSTALL_SECONDS}",
                install < INSTALL_SECONDS,
            ),
            must_show(
                "it is imported in under 0.3 s",
                round(imported, 3),
                f"< {IMPORT_SECONDS}",
                imported < IMPORT_SECONDS,
            ),
        ],
        install_seconds=[round(value, 2) for value in installing],
        import_seconds=[round(value, 4) for value in importing],
        installed=[line for line in installed.splitlines() if "==" in line],
        python=sys.version.split()[0],
    )
    print(path)


def seconds(command: list[str]) -> float:
    """Return how long a command takes, in seconds of wall clock."""
    started = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
