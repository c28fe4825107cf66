"""The process around the application: the port, signals, logging, and the server's life."""

import errno
import logging
import signal
import socket

import uvicorn
import uvloop

from llmemb.errors import SettingsError
from service.settings import Settings

KEEP_ALIVE_SECONDS = 75  # longer than proxies and clients keep an idle one: they close it, not we


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; requests wait in it until the service is ready.

    Raises:
        SettingsError: the port is in use, or the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} on {host} is in use; choose another with --port"
        else:
            reason = f"cannot listen on {host}, port {port}: {error.strerror}"
        raise SettingsError(reason) from error
    # Connections inherit it. asyncio sets it for sockets that it makes itself, and without it the end
    # of an answer waits 40 ms for the client's acknowledgement of its beginning.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests in progress and return.

    Raises:
        LLMEmbError: the port, the bundle, the base model or the state directory cannot be used.
    """
    with listen(settings.host, settings.port) as listener:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        signal.signal(signal.SIGTERM, _end)
        signal.signal(signal.SIGINT, _end)
        uvloop.run(_serve(settings, listener))


async def _serve(settings: Settings, listener: socket.socket) -> None:
    # Here and not above: a port in use is told at once, not after seconds of importing PyTorch.
    from service.app import create_app

    app = create_app(settings)
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    server = uvicorn.Server(config)
    # The lifespan is entered here, not by uvicorn, which would log its errors as tracebacks.
    async with app.router.lifespan_context(app):

        def end_gently(*_: object) -> None:
            server.should_exit = True

        # uvicorn raises the signal that ended it once more: this time it must end nothing.
        signal.signal(signal.SIGTERM, end_gently)
        signal.signal(signal.SIGINT, end_gently)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"LLMEmb serves {settings.bundle} at http://{shown}:{port}/docs", flush=True)
        model = app.state.serving
        print(
            f"the LLM runs on {model.device} in {model.dtype}, {model.threads} threads, "
            f"{model.forward_pass} forward pass",
            flush=True,
        )
        await server.serve(sockets=[listener])


def _end(*_: object) -> None:
    raise SystemExit(0)
