"""The service's commands: ``serve``, ``doctor``, ``capacity``, ``keys``.

Everything heavy is imported when it runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from service.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the service's commands to the ``llmemb`` command."""
    app.command()(serve)
    app.command()(doctor)
    app.command()(capacity)
    keys = typer.Typer(
        help="API keys: who may ask the service what. A running service takes changes up within a second.",
        no_args_is_help=True,
    )
    keys.command()(add)
    keys.command()(remove)
    keys.command("list")(show)
    app.add_typer(keys, name="keys")


KeysFile = Annotated[
    Path,
    typer.Option("--file", envvar="LLMEMB_KEYS_FILE", help="Where they are kept, as hashes alone."),
]


def add(
    name: Annotated[str, typer.Argument(help="Whose it is, for example shop-frontend.")],
    file: KeysFile,
    scope: Annotated[
        str,
        typer.Option(
            help="read: embed, recommend, look up; write: change the catalogue too; admin: everything."
        ),
    ] = "read",
    per_minute: Annotated[
        int | None,
        typer.Option(help="Requests a minute, over all replicas.", show_default="no limit"),
    ] = None,
) -> None:
    """Make a key and print it, once: the file keeps a hash."""
    from service.keys import add_key

    print(add_key(file, name, scope, per_minute))


def remove(name: Annotated[str, typer.Argument(help="Whose.")], file: KeysFile) -> None:
    """Remove a key: it is good no more."""
    from service.keys import remove_key

    remove_key(file, name)


def show(file: KeysFile) -> None:
    """List the keys."""
    from rich.console import Console
    from rich.table import Table

    from service.keys import read_keys

    table = Table("name", "scope", "a minute", "created")
    for key in read_keys(file):
        table.add_row(key.name, key.scope, str(key.per_minute or ""), str(key.created))
    Console().print(table)


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
    from service.server import run

    run(_settings(bundle, host=host, port=port, base_model=base_model, redis_url=redis_url))


def doctor(
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle to be served.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Look at this machine, at Redis and at a bundle, and say what each means for the service.

    Settings are read from the environment, as `llmemb serve` reads them. Exit code 1: something would
    keep it from running.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from service.doctor import examined

    found = list(examined(_settings(bundle or Path()), bundle))
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        signs = {"good": "[green]✓", "note": "[yellow]·", "wrong": "[red]✗"}
        table = Table(box=None, show_header=False, pad_edge=False)
        for one in found:
            table.add_row(
                signs[one.level], one.name, escape(one.value), f"[dim]{escape(one.meaning)}"
            )
        Console().print(table)
    if any(one.level == "wrong" for one in found):
        raise typer.Exit(1)


def capacity(
    items: Annotated[int, typer.Option(min=1, help="In the catalogue.")],
    rps: Annotated[float, typer.Option(min=0, help="Requests a second to /recommend.")],
    new_items_per_second: Annotated[
        float, typer.Option(min=0, help="Put into the catalogue while it is served.")
    ] = 0,
    dim: Annotated[int, typer.Option(min=1, help="Width of item vectors.")] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Tell what a deployment needs, and what breaks first at that size.

    From costs that were measured with the default base model on CPUs; docs/capacity.md tells how, and how
    far they are off.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from service.capacity import Constants, Workload, plan, rows

    constants = Constants.measured()
    found = plan(Workload(items, rps, new_items_per_second, dim), constants)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value, meaning in rows(found, constants):
        table.add_row(name, value, f"[dim]{meaning}")
    console = Console()
    console.print(table)
    for limit in found.limits.values():
        console.print(f"[yellow]· {limit}")


def _settings(bundle: Path, **options: Any) -> "Settings":
    """Return the settings of the environment, with the options that are given.

    Raises:
        SettingsError: one of them cannot be used.
    """
    from pydantic import ValidationError

    from llmemb.errors import SettingsError
    from service.settings import Settings

    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(bundle=bundle, **given)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        name = "_".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"{name} (LLMEMB_{name.upper()}): {reason}" if name else reason
        ) from error
