"""References of docstrings, such as ``:class:`Encoder```, made links where a page has what they name."""

import re

REFERENCE = re.compile(r":(?:class|meth|func|mod|data):<code>(~?)([\w.]+)</code>")


def on_page_content(content: str, **_: object) -> str:
    """Return a page whose references mkdocstrings resolves."""
    return REFERENCE.sub(_link, content)


def _link(found: re.Match[str]) -> str:
    short, name = found[1], found[2]
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref optional identifier="{name}"><code>{shown}</code></autoref>'
