"""The durability of the live catalogue where a cluster of three primaries holds it; run by ``scale.py``.

As in ``freshness.py``, but the node that has the catalogue is killed. Its replica takes its place, and
the node, started again, becomes the replica. A change is acknowledged once the replica has it, too.
"""

import asyncio
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from durability import KILLS, PORTS, Killable, kept_promises, under_kills

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "service"))
from redis_topologies import Clustered
from tiny_bundle import make_tiny_bundle

CHANGES = 4000  # Valkey writes its file once a second, and each waits for that


def measure() -> dict[str, Any]:
    """Return what ``report.write_report`` takes."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmemb-scale-")))
        bundle = make_tiny_bundle(folder / "tiny")
        nodes = stack.enter_context(Clustered(folder))
        services = [
            stack.enter_context(
                Killable(bundle, folder, port, nodes.url, LLMEMB_REDIS_REPLICAS="1")
            )
            for port in PORTS
        ]
        found = asyncio.run(under_kills(services, nodes.fail_over, CHANGES))
    return {
        "what": f"{CHANGES:,} changes by two services on a cluster of three primaries, while the services "
        f"and the node that has the catalogue are killed, each {KILLS} times",
        "runs": 1,
        "promises": kept_promises(found),
        "durability": found,
    }
