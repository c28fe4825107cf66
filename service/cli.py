"""The ``serve`` command; everything heavy is imported when it runs."""

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the service's commands to the ``llmemb`` command."""
    app.command()(serve)


def serve(
    bundle: Annotated[Path, typer.Argument(help="Directory that `llmemb train` wrote.")],
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one.", show_default="8000")
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            help="Folder, .gguf file or hub id of the base model.", show_default="as trained"
        ),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(help="Redis or Valkey to use.", show_default="an embedded Valkey"),
    ] = None,
) -> None:
    """Serve a bundle over HTTP; the interactive documentation is at /docs.

    Each option, and every limit, can be set in the environment too: LLMEMB_PORT, LLMEMB_MAX_ITEMS, ...
    """
    from pydantic import ValidationError

    from llmemb.errors import SettingsError
    from service.server import run
    from service.settings import Settings

    options = {"host": host, "port": port, "base_model": base_model, "redis_url": redis_url}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings(bundle=bundle, **given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]) or "the settings"
        raise SettingsError(f"{name} (LLMEMB_{name.upper()}): {first['msg']}") from error
    run(settings)
