"""The process around the application: the port, signals, logging, and the server's life."""

import asyncio
import contextlib
import errno
import signal
import socket

import uvicorn
import uvloop

from llmemb.errors import SettingsError
from service.observe import set_up_logging
from service.settings import Settings
from service.traffic import Traffic

CLOSING_SECONDS = 1  # for connections, when nothing is in progress any more
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
        set_up_logging(settings.log_format, settings.log_level)
        signal.signal(signal.SIGTERM, _end)
        signal.signal(signal.SIGINT, _end)
        uvloop.run(_serve(settings, listener))


async def _serve(settings: Settings, listener: socket.socket) -> None:
    # Here and not above: a port in use is told at once, not after seconds of importing PyTorch.
    from service.app import create_app
    from service.protocol import bounded_protocol

    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http=bounded_protocol(settings),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=CLOSING_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except OSError as error:  # a file that is missing, or no certificate
        raise SettingsError(f"{settings.tls_cert} and {settings.tls_key}: {error}") from error
    server = _Server(config)
    # The lifespan is entered here, not by uvicorn, which would log its errors as tracebacks.
    async with app.router.lifespan_context(app):
        ending: list[asyncio.Task[None]] = []

        def end(*_: object) -> None:
            if ending:
                server.should_exit = True  # who asks twice does not want to wait
            else:
                ending.append(asyncio.create_task(_drain(server, app.state.traffic, settings)))

        for one in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(one, end)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        scheme = "https" if settings.tls_cert else "http"
        print(f"LLMEmb serves {settings.bundle} at {scheme}://{shown}:{port}/docs", flush=True)
        model = app.state.served.serving
        print(
            f"the LLM runs on {model.device} in {model.dtype}, {model.threads} threads, "
            f"{model.forward_pass} forward pass",
            flush=True,
        )
        await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's, but signals are not its matter."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Leave signals as they are."""
        return contextlib.nullcontext()


async def _drain(server: uvicorn.Server, traffic: Traffic, settings: Settings) -> None:
    """Take no more requests, finish those in progress, and let the server end."""
    traffic.draining = True
    await asyncio.sleep(settings.drain_seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.shutdown_seconds):
            await traffic.idle()
    server.should_exit = True


def _end(*_: object) -> None:
    raise SystemExit(0)
