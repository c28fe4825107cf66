"""The service's settings: environment variables ``LLMEMB_<NAME>``, overridden by the command line.

Parsed once at the edge; everything further in gets plain values.
"""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _state_directory() -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "llmemb"


class Settings(BaseSettings):
    """Everything that can be set, with its default; every limit of the service is one of these."""

    model_config = SettingsConfigDict(env_prefix="LLMEMB_", env_ignore_empty=True, frozen=True)

    bundle: Path = Field(description="The bundle to serve, a directory that `llmemb train` wrote.")
    base_model: str | None = Field(
        default=None, description="Where the base model is; default: the name it was trained by."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    shutdown_seconds: int = Field(
        default=10, ge=1, description="How long requests in progress may take after SIGTERM."
    )

    redis_url: SecretStr | None = Field(
        default=None,
        description="A Redis or Valkey (redis://, rediss://, unix://); default: an embedded Valkey.",
    )
    state_dir: Path = Field(
        default_factory=_state_directory, description="Where the embedded Valkey keeps its data."
    )
    embedded_maxmemory: str = Field(
        default="256mb",
        pattern=r"^[1-9]\d*([kmg]b)?$",
        description="Memory of the embedded Valkey; at the limit the least used vectors go.",
    )
    redis_timeout_seconds: float = Field(
        default=0.25, gt=0, le=10, description="After this long without an answer Redis is away."
    )
    cache_ttl_seconds: int = Field(
        default=30 * 24 * 3600, ge=1, description="How long a computed vector stays in the cache."
    )

    cache_memory_mb: int = Field(
        default=64,
        ge=0,
        description="Vectors kept in this process besides, those used last; 0: none.",
    )

    max_requests: int = Field(
        default=256, ge=1, description="Requests in progress at once; one more is answered 429."
    )
    max_body_bytes: int = Field(
        default=1024 * 1024, ge=1, description="Size of a request's body; a larger one gets 413."
    )
    max_items: int = Field(default=256, ge=1, description="Items in one embed request.")
    max_sequence: int = Field(default=1000, ge=1, description="Entries of one sequence.")
    max_exclude: int = Field(default=10_000, ge=1, description="Ids in `exclude`.")
    max_k: int = Field(default=1000, ge=1, description="Items that one answer may hold.")

    max_queue: int = Field(
        default=1024, ge=1, description="Items waiting for the model; beyond it requests get 429."
    )
    deadline_seconds: float = Field(
        default=10,
        gt=0,
        description="How long a request may wait for the model; then it gets 503, and 429 at once "
        "where that is foreseen.",
    )
    batch_window_ms: float = Field(
        default=2, ge=0, le=1000, description="How long an idle model waits for more items."
    )
    batch_tokens: int = Field(
        default=2048,
        ge=1,
        description="Tokens of a batch: a fuller one is hardly faster, and others wait for it.",
    )
    precision: Literal["auto", "int8"] = Field(
        default="auto",
        description="`int8`: faster on CPUs with VNNI; refused where vectors would differ by more than "
        "a cosine of .999.",
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of the model; default: PyTorch's choice."
    )

    @model_validator(mode="after")
    def _largest_request_fits_the_queue(self) -> Self:
        if self.max_items > self.max_queue:
            raise ValueError("max_items may not exceed max_queue: such a request could never run")
        return self
