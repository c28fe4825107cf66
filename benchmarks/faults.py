"""The faults that `chaos.py` measures: how each is set up, begins and ends."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from serve import LLMEMB, server

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "service"))
from redis_topologies import Clustered, Guarded, Single, Topology, free_port
from tiny_bundle import make_tiny_bundle

PORT = 8121
SLOW_SECONDS = 0.4  # for each answer of Redis; the cache is given up after .25
DISK_MB, JUMP = 32, "+3600"
JUNK = 20_000
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")

# The installed command, but the model waits as long as a file is there, and the clock is off by the seconds
# that another holds.
PATCHED = """
import sys, time
from pathlib import Path
from llmemb import cli
from llmemb.encoder import Encoder
hang, clock = Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
forward, now = Encoder.forward, time.time
def waiting(self, tokens):
    while hang.exists():
        time.sleep(0.05)
    return forward(self, tokens)
Encoder.forward = waiting
time.time = lambda: now() + float(clock.read_text())
cli.main()
"""


class Scene:
    """A service and its Redis, as a fault needs them."""

    def __init__(self, fault: "Fault", folder: Path) -> None:
        """Take the fault, and a folder for all that is written."""
        self.folder = folder
        self.hang = folder / "hang"
        self.clock = folder / "clock"
        self._fault = fault
        self._stack = ExitStack()
        self.slow: SlowProxy | None = None

    def __enter__(self) -> Self:
        """Start Redis and the service."""
        bundle = make_tiny_bundle(self.folder / "tiny")
        self.redis = self._stack.enter_context(self._fault.redis(self))
        url = self.redis.url
        if self._fault.through_proxy:
            self.slow = SlowProxy(self.redis.servers[0].port)
            url = f"redis://127.0.0.1:{self.slow.port}/0"
        environment = {
            "LLMEMB_REDIS_URL": url,
            "LLMEMB_HUNG_SECONDS": "2",
            "LLMEMB_DEADLINE_SECONDS": "3",
            "OMP_NUM_THREADS": "1",
        }
        command = [LLMEMB, "serve", str(bundle), "--port", str(PORT)]
        if self._fault.patched:
            self.clock.write_text("+0")
            command[:1] = [sys.executable, "-c", PATCHED, str(self.hang), str(self.clock)]
        self._start = partial(server, command, PORT, "/health/ready", **environment)
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop both."""
        self._service.close()
        self._stack.close()

    def _open(self) -> None:
        self._service = ExitStack()
        self.service = self._service.enter_context(self._start())

    def restart(self) -> None:
        """Start the service anew."""
        self._service.close()
        self._open()

    def kill_service(self) -> None:
        """Kill it and start it anew."""
        self.service.process.kill()
        self.restart()


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        begin, end: make it, and make it good.
        how: in words.
        redis: what the service gets.
        through_proxy: whether the service reaches it through a proxy that can be slow.
        patched: whether the service's model can be made to hang, and its clock to jump.
        impossible: why it cannot be made here; nothing: it can.
    """

    name: str
    how: str
    begin: Callable[[Scene], Any]
    end: Callable[[Scene], Any] = lambda _: None
    redis: Callable[[Scene], Topology] = lambda scene: Single(scene.folder)
    through_proxy: bool = False
    patched: bool = False
    impossible: Callable[[], str] = lambda: ""


class SlowProxy:
    """Passes on what goes to and fro; answers of Redis late, where it is told so."""

    def __init__(self, port: int) -> None:
        """Take the port of Redis."""
        self.port = free_port()
        self.seconds = 0.0
        self._to = port
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True).start()
        ready.wait()

    async def _serve(self, ready: threading.Event) -> None:
        async with await asyncio.start_server(self._connected, "127.0.0.1", self.port):
            ready.set()
            await asyncio.Event().wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, to = await asyncio.open_connection("127.0.0.1", self._to)
            await asyncio.gather(
                self._pass(reader, to, late=False), self._pass(back, writer, late=True)
            )
        except OSError:
            writer.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            if late:
                await asyncio.sleep(self.seconds)
            writer.write(data)
            await writer.drain()
        writer.close()


def _slow(seconds: float) -> Callable[[Scene], None]:
    def set_delay(scene: Scene) -> None:
        assert scene.slow
        scene.slow.seconds = seconds

    return set_delay


def _config(name: str, value: str) -> Callable[[Scene], None]:
    return lambda scene: scene.redis.servers[0].client.config_set(name, value)


def _lock_out(scene: Scene) -> None:
    client = scene.redis.servers[0].client
    client.config_set("requirepass", "another")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def _let_in(scene: Scene) -> None:
    client = scene.redis.servers[0].client
    client.execute_command("AUTH", "another")
    client.config_set("requirepass", "")


def _junk(scene: Scene) -> None:
    """Put what is not ours under our names, and much under others."""
    client = scene.redis.servers[0].client
    for i, key in enumerate(client.scan_iter("llmemb:vec:*")):
        client.delete(key)
        client.rpush(key, "x") if i % 2 else client.set(key, b"\x00" * 100)
    with client.pipeline(transaction=False) as pipeline:
        for i in range(JUNK):
            pipeline.set(f"shop:session:{i}", "x" * 100)
            pipeline.lpush(f"items:{i}", "x")
        pipeline.execute()


def _signal_service(number: signal.Signals) -> Callable[[Scene], None]:
    return lambda scene: scene.service.process.send_signal(number)


def _on_small_disk(scene: Scene) -> Topology:
    disk = scene.folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(disk)]
    subprocess.run(command, check=True)
    scene._stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
    return Single(disk)


def _fill_disk(scene: Scene) -> None:
    with (scene.folder / "disk" / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass


def _may_mount() -> str:
    if os.geteuid() == 0 and shutil.which("mount"):
        return ""
    return "needs root, to mount a small disk"


def _jumping(scene: Scene) -> dict[str, str]:
    scene.clock.write_text("+0")
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(scene.clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


FAULTS = (
    Fault(
        "redis slow",
        f"each answer of Valkey {1000 * SLOW_SECONDS:.0f} ms late",
        _slow(SLOW_SECONDS),
        _slow(0.0),
        through_proxy=True,
    ),
    Fault(
        "redis hangs",
        "SIGSTOP of Valkey",
        lambda scene: scene.redis.servers[0].signal(signal.SIGSTOP),
        lambda scene: scene.redis.servers[0].signal(signal.SIGCONT),
    ),
    Fault(
        "redis away",
        "SIGKILL of Valkey, started again after 5 s",
        lambda scene: scene.redis.servers[0].kill(),
        lambda scene: scene.redis.servers[0].start(),
    ),
    Fault(
        "redis full",
        "maxmemory of 1 MB, nothing may be evicted",
        _config("maxmemory", "1mb"),
        _config("maxmemory", "0"),
    ),
    Fault(
        "redis restarted empty",
        "SIGKILL of Valkey, its files deleted, started again",
        lambda scene: scene.redis.servers[0].forget(),
    ),
    Fault(
        "redis fails over",
        "SIGKILL of the primary; sentinels promote its replica",
        lambda scene: scene.redis.servers[0].kill(),
        redis=lambda scene: Guarded(scene.folder),
    ),
    Fault(
        "redis cluster moves the catalogue",
        "its slot migrates to another node",
        lambda scene: scene.redis.move_catalogue(1.0),
        redis=lambda scene: Clustered(scene.folder),
    ),
    Fault(
        "redis cluster loses a node",
        "SIGKILL of the node with the catalogue; its replica takes its place",
        lambda scene: scene.redis.holder.kill(),
        redis=lambda scene: Clustered(scene.folder),
    ),
    Fault("redis wants another password", "requirepass, connections cut", _lock_out, _let_in),
    Fault(
        "redis holds another's keys",
        f"cached vectors overwritten, half of them by lists; {2 * JUNK:,} foreign keys",
        _junk,
    ),
    Fault(
        "redis' disk is full",
        f"append-only file on a disk of {DISK_MB} MB that is filled",
        _fill_disk,
        lambda scene: (scene.folder / "disk" / "filler").unlink(),
        redis=_on_small_disk,
        impossible=_may_mount,
    ),
    Fault(
        "clock jumps",
        "an hour ahead and back, for the service and Valkey (libfaketime)",
        lambda scene: scene.clock.write_text(JUMP),
        lambda scene: scene.clock.write_text("+0"),
        redis=lambda scene: Single(scene.folder, **_jumping(scene)),
        patched=True,
        impossible=lambda: "" if FAKETIME.exists() else "needs libfaketime",
    ),
    Fault("service killed", "SIGKILL, started again at once", lambda scene: scene.kill_service()),
    Fault(
        "service stopped",
        "SIGSTOP, SIGCONT after 5 s",
        _signal_service(signal.SIGSTOP),
        _signal_service(signal.SIGCONT),
    ),
    Fault(
        "model hangs",
        "its thread does not return for 5 s",
        lambda scene: scene.hang.touch(),
        lambda scene: scene.hang.unlink(),
        patched=True,
    ),
)
