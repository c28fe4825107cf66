"""From a URL to a client of Redis or Valkey: one server, or whichever the sentinels say is the primary."""

from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

SENTINEL, SENTINEL_TLS = "redis+sentinel", "rediss+sentinel"
SENTINEL_PORT = 26379


def connect(url: str, timeout: float) -> Redis:
    """Return a client; nothing is sent yet.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://`` as redis-py has them, or
            ``redis+sentinel://user:password@host:port,host:port/name/0``: user and password are the
            servers', the hosts the sentinels', ``name`` is that of the primary.
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
    if parts.scheme not in (SENTINEL, SENTINEL_TLS):
        return Redis.from_url(url, **options)
    who, _, hosts = parts.netloc.rpartition("@")
    user, _, password = who.partition(":")
    name, _, database = parts.path.strip("/").partition("/")
    if not hosts or not name:
        raise ValueError("a URL of sentinels names them, and the primary")
    sentinels = []
    for host in hosts.split(","):
        one = urlsplit(f"//{host}")
        if not one.hostname:
            raise ValueError("a URL of sentinels names each with its host")
        sentinels.append((one.hostname, one.port or SENTINEL_PORT))
    found = Sentinel(sentinels, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    primary: Redis = found.master_for(
        name,
        db=int(database or 0),
        username=unquote(user) or None,
        password=unquote(password) or None,
        ssl=parts.scheme == SENTINEL_TLS,
        **options,
    )
    return primary
