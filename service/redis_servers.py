"""From a URL to Redis or Valkey: one server, whichever the sentinels say is the primary, or a cluster."""

from typing import Any, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AskError, ClusterDownError, TryAgainError

PORT, SENTINEL_PORT = 6379, 26379
URL_FORMS = (
    "redis://host:6379/0, rediss://user:password@host:6379/0, unix:///path/to/socket, "
    "redis+sentinel://:password@host:26379,host:26379/primary/0 or "
    "redis+cluster://:password@host:6379,host:6379"
)

AnyRedis = Redis | RedisCluster
ELSEWHERE = (AskError, TryAgainError, ClusterDownError)  # keys have moved, or are about to


class Servers(Protocol):
    """One server or several that keep the keys together.

    Attributes:
        whole: for commands on keys wherever they are.
    """

    whole: AnyRedis

    def at(self, key: str) -> Redis:
        """Return the server that has a key, and all keys of its hash tag."""
        ...

    async def disconnect(self) -> None:
        """Let go of every connection, and of what is known of where keys are."""
        ...

    async def aclose(self) -> None:
        """Close for good."""
        ...


class OneServer:
    """A server that has every key."""

    def __init__(self, client: Redis) -> None:
        """Take its client."""
        self.whole: AnyRedis = client
        self._client = client

    def at(self, key: str) -> Redis:
        """Return the server."""
        del key
        return self._client

    async def disconnect(self) -> None:
        """Let go of every connection."""
        await self._client.connection_pool.disconnect()

    async def aclose(self) -> None:
        """Close for good."""
        await self._client.aclose()


class Cluster:
    """Servers that share the keys out among themselves."""

    def __init__(self, nodes: list[tuple[str, int]], options: dict[str, Any]) -> None:
        """Take some of the nodes, and how to connect to any."""
        startup = [ClusterNode(host, port) for host, port in nodes]
        self._cluster = RedisCluster(startup_nodes=startup, **options)
        self.whole: AnyRedis = self._cluster
        self._options = options
        self._clients: dict[tuple[str, int], Redis] = {}

    def at(self, key: str) -> Redis:
        """Return the primary that has a key, as far as is known; it refuses what has moved meanwhile."""
        node = self._cluster.get_node_from_key(key)
        if node is None:
            raise ConnectionError("no node of the cluster has the key")
        address = (node.host, int(node.port))
        if address not in self._clients:
            self._clients[address] = Redis(host=address[0], port=address[1], **self._options)
        return self._clients[address]

    async def disconnect(self) -> None:
        """Let go of every connection; who asks next learns anew where keys are."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()
        await self._cluster.aclose()

    async def aclose(self) -> None:
        """Close for good."""
        await self.disconnect()


def connect(url: str, timeout: float) -> Servers:
    """Return what answers to a URL; nothing is sent yet.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://`` as redis-py has them;
            ``redis+sentinel://user:password@host:port,host:port/name/0``: user and password are the
            servers', the hosts the sentinels', ``name`` is that of the primary;
            ``redis+cluster://user:password@host:port,host:port``: some of the nodes. With ``rediss``,
            servers are spoken to by TLS.
        timeout: seconds that connecting, and an answer, may take.

    Raises:
        ValueError: it is none of these; the message may quote it.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # no pushed messages: with them redis-py skips its check for stale replies
    }
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        return OneServer(Redis.from_url(url, **options))
    if scheme not in ("redis", "rediss") or kind not in ("sentinel", "cluster"):
        raise ValueError(f"there is no {parts.scheme}")
    login: dict[str, Any] = {**_login(parts), "ssl": scheme == "rediss"}
    if kind == "cluster":
        if parts.path.strip("/"):
            raise ValueError("a cluster has no databases")
        return Cluster(_hosts(parts, PORT), {**options, **login})
    name, _, database = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError("a URL of sentinels names the primary")
    found = Sentinel(_hosts(parts, SENTINEL_PORT), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    return OneServer(found.master_for(name, db=int(database or 0), **login, **options))


def _login(parts: SplitResult) -> dict[str, str | None]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    return {"username": unquote(user) or None, "password": unquote(password) or None}


def _hosts(parts: SplitResult, port: int) -> list[tuple[str, int]]:
    hosts = [urlsplit(f"//{one}") for one in parts.netloc.rpartition("@")[2].split(",")]
    named = [(one.hostname, one.port or port) for one in hosts if one.hostname]
    if len(named) < len(hosts):
        raise ValueError("each host has a name")
    return named
