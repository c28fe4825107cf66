"""Writes ``docs/settings.md`` from the service's settings: ``python docs/settings_page.py``."""

from pathlib import Path
from typing import Any

from llmemb.catalogue import MAX_DEPTH, MAX_ID_CHARS, MAX_ITEM_BYTES
from llmemb.files import replacing_file
from service.settings import Settings

PAGE = Path(__file__).with_name("settings.md")
GROUPS = {
    "What is served": (
        "bundle",
        "bundle_key",
        "base_model",
        "trial",
        "trial_share",
        "reload_quality",
    ),
    "Where, and to whom": (
        "host",
        "port",
        "keys_file",
        "open",
        "admin",
        "tls_cert",
        "tls_key",
        "cors_origins",
    ),
    "Redis": (
        "redis_url",
        "redis_replicas",
        "redis_timeout_seconds",
        "state_dir",
        "embedded_maxmemory",
        "cache_ttl_seconds",
        "cache_memory_mb",
    ),
    "The model and the index": (
        "threads",
        "precision",
        "batch_tokens",
        "batch_window_ms",
        "index_uri",
        "index_timeout_seconds",
        "index_storage",
        "freshness_days",
    ),
    "What operators see": ("log_format", "log_level", "traces"),
    "Life and death": ("drain_seconds", "shutdown_seconds", "hung_seconds"),
}
BOUNDS = "Bounds"  # all others
INTRODUCTION = """# Settings of the service

Environment variables; the command line of `llmemb serve` has the most common ones. An empty variable counts
as none. Written by `python docs/settings_page.py`.

A request over a bound is answered with a problem (RFC 9457) that says which: 413 for a body, 431 for a head,
422 with the field for what is in a body, 408 for what comes too slowly, 429 or 503 with `Retry-After` for
what is too much at once.
"""
FIXED = f"""
Three bounds belong to what an item is, for the trainer too, and are no settings: {MAX_ITEM_BYTES:,} bytes of
attributes in canonical form, {MAX_DEPTH} levels of lists and objects, ids of {MAX_ID_CHARS} characters. How
many tokens of an item the model reads is the bundle's (`encoder.max_tokens`).
"""


def page() -> str:
    """Return the page."""
    named = {name for names in GROUPS.values() for name in names}
    bounds = tuple(name for name in Settings.model_fields if name not in named)
    parts = [INTRODUCTION]
    for title, names in {**GROUPS, BOUNDS: bounds}.items():
        parts += [f"\n## {title}\n", "| variable | default | |", "|---|---|---|"]
        parts += [_row(name) for name in names]
    return "\n".join(parts) + "\n" + FIXED


def _row(name: str) -> str:
    field = Settings.model_fields[name]
    text = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| `LLMEMB_{name.upper()}` | {_default(name, field)} | {text} |"


def _default(name: str, field: Any) -> str:
    if name == "state_dir":
        return "`~/.local/state/llmemb`"
    if field.is_required():
        return "needed"
    if field.default in (None, []):
        return ""
    shown = str(field.default).lower() if isinstance(field.default, bool) else field.default
    return f"`{shown}`"


if __name__ == "__main__":
    with replacing_file(PAGE) as aside:
        aside.write_text(page(), encoding="utf-8")
