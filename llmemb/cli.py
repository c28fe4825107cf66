"""The ``llmemb`` command. The wings register their subcommands through entry points."""

import sys
import warnings
from importlib.metadata import entry_points
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from safetensors import SafetensorError

import llmemb
from llmemb.errors import LLMEmbError

EPILOG = """
[bold]Examples[/bold]

  llmemb data prepare files my-shop/ --domain outdoor --out data/my-shop

  llmemb train data/my-shop --out bundles/my-shop --preset default

  llmemb evaluate bundles/my-shop data/my-shop

  llmemb embed bundles/my-shop my-shop/items.csv --out vectors.parquet

  llmemb serve bundles/my-shop --port 8000

Exit codes: 0 success, 1 an error named on standard error, 2 a wrong command line, 130 interrupted.
"""


def main() -> None:
    """Run the command; a user's mistake ends as one line on standard error and exit code 1."""
    # Notes that libraries write to each other, not to the user.
    warnings.simplefilter("ignore", FutureWarning)
    app = build_app()
    try:
        app()
    except (LLMEmbError, OSError, SafetensorError) as error:
        # The last two: a disk that is full, a file that may not be read. Both say which.
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(1)


def build_app() -> typer.Typer:
    """Return the command with whatever wings are installed."""
    app = typer.Typer(
        name="llmemb",
        help="Item embeddings from an LLM for sequential recommenders: new and long-tail items "
        "become recommendable from their attributes.",
        epilog=EPILOG,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and exit.")
        ] = False,
    ) -> None:
        if version:
            print(llmemb.__version__)
            raise typer.Exit

    for wing in sorted(entry_points(group="llmemb.commands"), key=lambda entry: entry.name):
        wing.load()(app)
    return app


if __name__ == "__main__":  # `torchrun -m llmemb.cli train ...`
    main()
