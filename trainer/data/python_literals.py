"""Python literals inside data: what some releases were written with in place of JSON. Never run."""

import ast
from typing import Any

LITERAL_CHARS = 1 << 20  # Python's parser takes some hundred bytes of memory a character


def parse_literal(text: str) -> Any:
    """Return the value of a Python literal: text, number, boolean, None, or a container of those.

    >>> parse_literal("u'free'")
    'free'

    Raises:
        ValueError: the text is something else, or longer than ``LITERAL_CHARS``.
    """
    if len(text) > LITERAL_CHARS:
        raise ValueError(f"{len(text):,} characters; the limit is {LITERAL_CHARS:,}")
    try:
        return ast.literal_eval(text)
    except SyntaxError as error:
        raise ValueError(f"not a Python literal: {error.msg}") from None
    except (ValueError, TypeError):
        raise ValueError("not a Python literal") from None
    except (MemoryError, RecursionError):
        raise ValueError("nested too deep") from None


def parse_literal_object(text: str) -> dict[str, Any]:
    """Parse a dictionary whose keys are text.

    Raises:
        ValueError: the text is something else; the message says what.
    """
    value = parse_literal(text)
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError("no Python dictionary with names for keys")
    return value
