"""The service's settings: environment variables ``LLMEMB_<NAME>``, overridden by the command line.

Parsed once at the edge; everything further in gets plain values.
"""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

BUNDLE_NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"


def _state_directory() -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "llmemb"


class Settings(BaseSettings):
    """Everything that can be set, with its default; every limit of the service is one of these."""

    model_config = SettingsConfigDict(env_prefix="LLMEMB_", env_ignore_empty=True, frozen=True)

    bundle: Path = Field(description="The bundle to serve, a directory that `llmemb train` wrote.")
    bundle_key: Path | None = Field(
        default=None,
        description="Public key, Ed25519 in PEM; a bundle that was not signed with its private key "
        "(`llmemb sign`) is not served.",
    )
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
    drain_seconds: float = Field(
        default=0,
        ge=0,
        description="How long after SIGTERM new requests are answered 503 before the port is closed, so "
        "that a load balancer sees it.",
    )
    hung_seconds: float = Field(
        default=30,
        gt=0,
        description="After so long without an answer from the model's thread it is said to hang, and the "
        "service not to be ready.",
    )

    keys_file: Path | None = Field(
        default=None,
        description="API keys, a file that `llmemb keys add` writes; every request but `/health` and the "
        "documentation then needs one.",
    )
    open: bool = Field(
        default=False,
        description="Listen without keys on an address that other machines can reach.",
    )
    cors_origins: Annotated[list[str], NoDecode] = Field(
        default=[],
        description="Origins, separated by commas, whose pages may ask from a browser; * for all.",
    )
    tls_cert: Path | None = Field(default=None, description="Certificate chain, PEM, for HTTPS.")
    tls_key: Path | None = Field(default=None, description="Private key of it, PEM.")

    log_format: Literal["text", "json"] = Field(
        default="text", description="`json`: an object a line, for what collects logs."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="warning", description="`info`: a line for each request, too."
    )
    traces: bool = Field(
        default=False,
        description="Send traces by OpenTelemetry, as its own environment variables say "
        "(`OTEL_EXPORTER_OTLP_ENDPOINT` and others).",
    )

    admin: bool | None = Field(
        default=None,
        description="Answer `/admin`; default: with keys, of which it needs one of scope `admin`, or on a "
        "loopback address, where others cannot ask.",
    )
    reload_quality: float = Field(
        default=0.9,
        ge=0,
        description="Share of the HR@10 of the bundle at work that a reloaded one must have.",
    )

    trial: str | None = Field(
        default=None,
        pattern=BUNDLE_NAME,
        description="Name of a folder beside the bundle: another bundle, served beside it.",
    )
    trial_share: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Share of the users that the bundle on trial answers, by a hash of a request's "
        "`user`; 0: nobody, it is asked besides, and metrics tell how its answers compare.",
    )

    redis_url: SecretStr | None = Field(
        default=None,
        description="A Redis or Valkey (redis://, rediss://, unix://, "
        "redis+sentinel://:password@host:port,host:port/primary/0, "
        "redis+cluster://:password@host:port,host:port); default: an embedded Valkey.",
    )
    redis_replicas: int = Field(
        default=0,
        ge=0,
        description="Replicas of Redis that must have a change of the catalogue on disk, too, before it is "
        "acknowledged: at least 1 where one of them may take the primary's place.",
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
    max_connections: int = Field(
        default=4096, ge=1, description="Connections at once; one more gets 503 and is closed."
    )
    max_head_bytes: int = Field(
        default=32 * 1024,
        ge=1024,
        description="Size of a request line with its headers; larger ones get 431.",
    )
    head_seconds: float = Field(
        default=10, gt=0, description="How long those may take to come; then 408."
    )
    body_seconds: float = Field(
        default=30, gt=0, description="How long a body may take to come; then 408."
    )
    max_body_bytes: int = Field(
        default=1024 * 1024, ge=1, description="Size of a request's body; a larger one gets 413."
    )
    max_items: int = Field(default=256, ge=1, description="Items in one embed request.")
    max_sequence: int = Field(default=1000, ge=1, description="Entries of one sequence.")
    max_exclude: int = Field(default=10_000, ge=1, description="Ids in `exclude`.")
    max_batch: int = Field(default=256, ge=1, description="Requests in one recommend batch.")
    max_filter: int = Field(default=1000, ge=1, description="Values that one filter may name.")
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
    freshness_days: float = Field(
        default=7, gt=0, description="After so long `freshness_boost` is worth half as much."
    )
    batch_window_ms: float = Field(
        default=2, ge=0, le=1000, description="How long an idle model waits for more items."
    )
    batch_tokens: int = Field(
        default=4096,
        ge=1,
        description="Tokens of a batch: a fuller one is hardly faster, and others wait for it.",
    )
    precision: Literal["auto", "int8"] = Field(
        default="auto",
        description="`int8`: faster on CPUs with VNNI; refused where vectors would differ by more than "
        "a cosine of .999.",
    )
    index_uri: SecretStr | None = Field(
        default=None,
        description="A Milvus (http://user:password@host:19530/database, a database for each catalogue), "
        "or a file of Milvus Lite that ends in `.db`, to search the items; default: FAISS, in the process.",
    )
    index_timeout_seconds: float = Field(
        default=1, gt=0, le=60, description="After this long without an answer Milvus is away."
    )
    index_storage: Literal["float16", "int8"] = Field(
        default="float16",
        description="How more than 50,000 items are held for the search; the best that it finds are "
        "scored in float32.",
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of the model; default: PyTorch's choice."
    )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _separated_by_commas(cls, given: object) -> object:
        if isinstance(given, str):
            return [origin.strip() for origin in given.split(",") if origin.strip()]
        return given

    @model_validator(mode="after")
    def _others_need_keys(self) -> Self:
        if not (self.open or self.keys_file or is_loopback(self.host)):
            raise ValueError(
                f"other machines can reach {self.host}: name a file of API keys in LLMEMB_KEYS_FILE "
                "(`llmemb keys add` makes it), or set LLMEMB_OPEN=true"
            )
        return self

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("HTTPS needs both LLMEMB_TLS_CERT and LLMEMB_TLS_KEY")
        return self

    @model_validator(mode="after")
    def _largest_request_fits_the_queue(self) -> Self:
        if self.max_items > self.max_queue:
            raise ValueError("max_items may not exceed max_queue: such a request could never run")
        return self


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a service that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
