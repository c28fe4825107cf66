"""Make the synchronous client of the asynchronous one: the same words without `await`.

python make_sync.py
"""

import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "llmemb_client" / "async_client.py"
TARGET = SOURCE.with_name("client.py")
WORDS = (
    (r"AsyncClient", "Client"),
    (r"AsyncIterator", "Iterator"),
    (r"__aenter__", "__enter__"),
    (r"__aexit__", "__exit__"),
    (r"aclose", "close"),
    (r"asyncio\.sleep", "time.sleep"),
    (r"import asyncio\n", ""),
    (r"import json\n", "import json\nimport time\n"),
    (r"import Iterator, Callable, Iterable,", "import Callable, Iterable, Iterator,"),
    (r"many tasks", "many threads"),
    (r"async (?=def|for|with)", ""),
    (r"await ", ""),
)


def synchronous(source: str) -> str:
    """Return the synchronous twin of a module, formatted."""
    for pattern, word in WORDS:
        source = re.sub(pattern, word, source)
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout


if __name__ == "__main__":
    TARGET.write_text(synchronous(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
