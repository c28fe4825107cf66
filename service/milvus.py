"""The connection to Milvus: bounded in time, and let go of while it is away.

A bundle's items are one collection, made by whichever replica comes first and shared by all. What is written
there never changes under its key (see :class:`service.index.Facts`), so that any replica may write it, again
too. One database of Milvus belongs to one catalogue, as one Redis does.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from llmemb.errors import LLMEmbError, SettingsError
from service.errors import IndexAwayError
from service.index import Rows, Vectors
from service.milvus_filters import MAX_TERMS

WRITE_SECONDS = 30.0  # that a call may take which no request waits for
AWAY_SECONDS = 1.0  # after a failure, until one caller tries again
SETTLE_SECONDS = 5.0  # bounded staleness, as Milvus sets it: a search may be so far behind
NOT_LOADED = 101  # Milvus's code of a collection that it holds and does not search
MOST = 16_384  # items that Milvus answers one search with
PREFIX = "llmemb"
GRAPH = {"M": 16, "efConstruction": 200}  # of HNSW
EFFORT, LEAST_EFFORT = 2, 128  # candidates of its search: times what is wanted, and at least

log = logging.getLogger(__name__)
T = TypeVar("T")


class Milvus:
    """A Milvus that may go away and come back.

    Attributes:
        local: whether it is a file, which Milvus Lite searches in this process.
        seconds: that a search may take.
    """

    def __init__(self, uri: str, seconds: float) -> None:
        """Take where it is; nothing is sent yet.

        Args:
            uri: ``http://user:password@host:19530/database``, https too, or the path of a file that ends
                in ``.db``.
            seconds: that a search may take.

        Raises:
            SettingsError: it is neither, or pymilvus is not installed.
        """
        try:
            import pymilvus
        except ImportError as error:
            raise SettingsError(
                "LLMEMB_INDEX_URI needs the extra `scale`: pip install 'llmemb[scale]'"
            ) from error
        self.seconds = seconds
        self.local = "://" not in uri
        known = uri.endswith(".db") if self.local else uri.startswith(("http://", "https://"))
        if not known:
            # It may hold a password: it is not repeated.
            raise SettingsError(
                "LLMEMB_INDEX_URI is no URI of Milvus; it looks like http://host:19530/database, or "
                "items.db for a file"
            )
        if self.local and not Path(uri).resolve().parent.is_dir():
            raise SettingsError(
                f"LLMEMB_INDEX_URI: there is no folder {Path(uri).resolve().parent}"
            )
        # It logs each failure with its traceback; what matters of it is said here.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self._pymilvus: Any = pymilvus
        self._uri = uri
        self._client: Any = None
        self._lock = threading.Lock()
        self._away_until = 0.0  # 0: it is there

    def run(self, command: Callable[[Any], T]) -> T:
        """Return what a command on the client gets; at once an error while Milvus is away.

        Raises:
            IndexAwayError: it is away, or went away during the command.
        """
        with self._lock:
            if self._away_until:
                if time.monotonic() < self._away_until:
                    raise IndexAwayError("Milvus is away: items cannot be searched now")
                # This caller tries; others do not wait for how that ends.
                self._away_until = time.monotonic() + 2 * self.seconds
        try:
            found = command(self._connected())
        except Exception as error:
            if getattr(error, "is_input_error", False):
                raise  # Milvus is there, and the command is wrong
            self._lost(error)
            raise IndexAwayError("Milvus is away: items cannot be searched now") from error
        if self._away_until:
            self._away_until = 0.0
            log.warning("Milvus is back")
        return found

    def point(self, alias: str, collection: str) -> None:
        """Let an alias name a collection from now on; where Milvus is away, it does not.

        Replicas never search by it: while a new bundle is rolled out they serve different ones.
        """

        def point(client: Any) -> None:
            # Altered first: only the first replica of all has to make it.
            try:
                client.alter_alias(collection, alias, timeout=WRITE_SECONDS)
            except self._pymilvus.MilvusException:
                client.create_alias(collection, alias, timeout=WRITE_SECONDS)

        try:
            self.run(point)
        except IndexAwayError as error:
            log.warning("the alias %s does not name %s: %s", alias, collection, _said(error))

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._pymilvus.MilvusClient(self._uri, timeout=self.seconds)
            return self._client

    def _lost(self, error: Exception) -> None:
        if not self._away_until:
            log.warning("Milvus is away (%s); the most popular items are recommended", _said(error))
        self._away_until = time.monotonic() + AWAY_SECONDS


class MilvusCollection:
    """The items of one bundle, by their keys."""

    def __init__(self, milvus: Milvus, name: str, width: int) -> None:
        """Open it, and make it where it is not there.

        Args:
            milvus: where.
            name: letters, digits and underscores.
            width: of the vectors.

        Raises:
            LLMEmbError: Milvus cannot be reached, or refuses.
        """
        self._milvus, self._name = milvus, name
        self.settle_seconds = 0 if milvus.local else SETTLE_SECONDS
        try:
            milvus.run(lambda client: self._open(client, width))
        except IndexAwayError as error:
            raise LLMEmbError(
                f"Milvus, which LLMEMB_INDEX_URI names, cannot be used: {_said(error)}"
            ) from error

    def _open(self, client: Any, width: int) -> None:
        from pymilvus import DataType

        if not client.has_collection(self._name, timeout=WRITE_SECONDS):
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("key", DataType.INT64, is_primary=True)
            schema.add_field("content", DataType.INT64)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
            schema.add_field(
                "terms", DataType.ARRAY, element_type=DataType.INT64, max_capacity=MAX_TERMS
            )
            schema.add_field("low", DataType.JSON)
            schema.add_field("high", DataType.JSON)
            indexes = client.prepare_index_params()
            indexes.add_index("vector", index_type="HNSW", metric_type="IP", params=GRAPH)
            if not self._milvus.local:  # Milvus Lite has none for arrays
                indexes.add_index("terms", index_type="INVERTED")
            try:
                client.create_collection(
                    self._name, schema=schema, index_params=indexes, timeout=WRITE_SECONDS
                )
            except Exception:
                # Another replica may have made it meanwhile.
                if not client.has_collection(self._name, timeout=WRITE_SECONDS):
                    raise
        client.load_collection(self._name, timeout=WRITE_SECONDS)

    def own(self) -> int:
        """Return how many of the bundle's own items are there.

        Raises:
            IndexAwayError: Milvus is away.
        """
        found = self._run(
            lambda client: client.query(
                self._name,
                filter="key < 0",
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=WRITE_SECONDS,
            )
        )
        return int(found[0]["count(*)"])

    def contents(self, keys: Sequence[int]) -> dict[int, int]:
        """Return what is there of some keys, and what each one's content is.

        Raises:
            IndexAwayError: Milvus is away.
        """
        found = self._run(
            lambda client: client.query(
                self._name,
                filter=f"key in {list(keys)}",
                output_fields=["key", "content"],
                consistency_level="Strong",
                timeout=WRITE_SECONDS,
            )
        )
        return {one["key"]: one["content"] for one in found}

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write items, whole.

        Raises:
            IndexAwayError: Milvus is away.
        """
        self._run(lambda client: client.upsert(self._name, rows, timeout=WRITE_SECONDS))

    def delete(self, keys: Sequence[int]) -> None:
        """Delete what is there of some keys.

        Raises:
            IndexAwayError: Milvus is away.
        """
        self._run(lambda client: client.delete(self._name, ids=list(keys), timeout=WRITE_SECONDS))

    def search(self, query: Vectors, limit: int, asked: str, passed: Collection[int]) -> Rows:
        """Return the keys of the nearest items, the nearest first, int64 ``[at most limit]``.

        Args:
            query: float32 ``[width]``.
            limit: at most ``MOST``.
            asked: an expression; empty: none.
            passed: keys that are not wanted.

        Raises:
            IndexAwayError: Milvus is away.
        """
        parts = [f"({asked})"] if asked else []
        if passed:
            parts.append(f"key not in {list(passed)}")
        effort = {"ef": max(EFFORT * limit, LEAST_EFFORT)}
        found = self._run(
            lambda client: client.search(
                self._name,
                [query],
                anns_field="vector",
                limit=limit,
                filter=" and ".join(parts),
                search_params={"metric_type": "IP", "params": effort},
                consistency_level="Bounded",
                timeout=self._milvus.seconds,
            )
        )
        return np.array([hit["key"] for hit in found[0]], dtype=np.int64)

    def _run(self, command: Callable[[Any], T]) -> T:
        def run(client: Any) -> T:
            try:
                return command(client)
            except Exception as error:
                if getattr(error, "code", None) != NOT_LOADED:
                    raise
                # As after a restart of Milvus Lite, or when an operator released it.
                client.load_collection(self._name, timeout=self._milvus.seconds)
                return command(client)

        return self._milvus.run(run)


def _said(error: Exception) -> str:
    """Return what Milvus, or the way to it, gave for a reason."""
    error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    details = getattr(error, "details", None)
    return str(getattr(error, "message", "") or (details() if details else error))
