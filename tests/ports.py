"""A port for a server of a test."""

import socket


def free_port() -> int:
    """Return one that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
