"""Writes ``docs/commands.md`` from the commands' own help: ``python docs/commands_page.py``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click
from typer.core import TyperGroup

from llmemb.cli import EPILOG, build_app
from llmemb.files import replacing_file

PAGE = Path(__file__).with_name("commands.md")
INTRODUCTION = """# Command line

What `llmemb COMMAND --help` says of each command. Written by `python docs/commands_page.py`.

```bash
{examples}
```

{exit_codes}

"""


def page() -> str:
    """Return the page."""
    examples, _, exit_codes = EPILOG.partition("Exit codes:")
    lines = [line.strip() for line in examples.splitlines() if line.startswith("  ")]
    introduction = INTRODUCTION.format(
        examples="\n".join(lines), exit_codes=f"Exit codes:{exit_codes.rstrip()}"
    )
    return introduction + "".join(_sections("llmemb", typer.main.get_command(build_app())))


def _sections(name: str, command: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    if isinstance(command, TyperGroup):
        for inner in command.commands.values():
            yield from _sections(f"{name} {inner.name}", inner)
    else:
        yield get_docs_for_click(obj=command, ctx=context, name=name, indent=1)


if __name__ == "__main__":
    with replacing_file(PAGE) as aside:
        aside.write_text(page(), encoding="utf-8")
