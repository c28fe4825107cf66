"""What the service tells of itself: metrics in Prometheus' format."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from service.traces import Traces

if TYPE_CHECKING:
    from opentelemetry.trace import Span

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
AGES = (60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400)
SHARES = tuple(tenth / 10 for tenth in range(11))
STAGES = ("queue", "tokenize", "forward", "cache", "adapter", "backbone", "index")
COVERAGE_SECONDS = 3600


class Metrics:
    """The metrics of one application.

    Attributes:
        requests: by route, method and status.
        request_seconds: by route.
        asked_vectors: LLM vectors that requests asked for, by where they came from.
        stages: how long each stage of the work took, by name.
        recommend_seconds: by arm: ``main``, or ``trial``.
        recommendations: by arm and source: the model, or the popular items.
        recommended: items, by arm and kind.
        new_item_age: of recommended items that were put since training.
        sequence_entries: by whether they are ids that are known, ids that are not, or cold items.
        coverage: which items were recommended lately.
        catalogue_items, waiting_items, redis_up, hung_threads: as they are when somebody looks.
        looked_on: requests that the bundle on trial was asked after the one at work.
        in_common: the share of an answer's items that the bundle on trial gives too.
    """

    def __init__(self, traces: Traces | None = None) -> None:
        """Begin at nought.

        Args:
            traces: that stages are part of, too; None: of none.
        """
        self._registry = CollectorRegistry()
        self.requests = self._counter(
            "requests", "Requests, by what came of them.", "route", "method", "status"
        )
        self.request_seconds = self._histogram(
            "request_seconds", "How long requests took.", SECONDS, "route"
        )
        self._of_requests: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.asked_vectors = self._counter(
            "asked_vectors",
            "LLM vectors that requests asked for, by where they came from: this process's memory, "
            "Redis or the model. The cache's hit ratio is the share of the first two.",
            "source",
        )
        stages = self._histogram(
            "stage_seconds",
            "How long stages of the work took: waiting for the model, its tokeniser, its forward pass (of "
            "a batch), reading Redis, the adapter, the backbone, the index.",
            SECONDS,
            "stage",
        )
        self.stages = {name: Stage(name, stages.labels(name), traces) for name in STAGES}
        self.recommend_seconds = self._histogram(
            "recommend_seconds",
            "How long recommendations took, by the bundle asked: the main one, or the one on trial.",
            SECONDS,
            "arm",
        )
        self.recommendations = self._counter(
            "recommendations",
            "Recommendations, by bundle and source: the model, or, as a fallback, the popular items.",
            "arm",
            "source",
        )
        self.recommended = self._counter(
            "recommended_items",
            "Items recommended, by bundle and kind: the fifth with the most interactions in training "
            "(head), others with some (tail), those with none (cold).",
            "arm",
            "kind",
        )
        self.new_item_age = self._histogram(
            "recommended_new_item_age_seconds",
            "How long ago recommended items were put into the catalogue, where that was since training.",
            AGES,
        )
        self.sequence_entries = self._counter(
            "sequence_entries",
            "Entries of sequences: ids that are known, ids that are not, items by their attributes.",
            "kind",
        )
        self.coverage = Coverage()
        self._gauge(
            "recommended_distinct_items",
            f"Items recommended at least once in the last {COVERAGE_SECONDS} seconds, or up to twice that.",
        ).set_function(self.coverage.distinct)
        self.catalogue_items = self._gauge("catalogue_items", "Items that can be recommended.")
        self.waiting_items = self._gauge("waiting_items", "Items that wait for the model.")
        self.redis_up = self._gauge("redis_up", "1: Redis answered last time; 0: it is away.")
        self.replicas = self._gauge(
            "replicas", "Services that share this Redis, this one among them; 0: it is away."
        )
        self.hung_threads = self._gauge(
            "hung_threads", "Threads (model, tokeniser, backbone) that do not answer."
        )
        ProcessCollector(registry=self._registry)
        self.looked_on = self._counter(
            "trial_looked_on",
            "Requests that the bundle on trial was asked besides, by what came of it.",
            "outcome",
        )
        self.in_common = self._histogram(
            "trial_in_common",
            "Share of an answer's items that the bundle on trial gives too.",
            SHARES,
        )

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        # Labels are looked up once: each time takes longer than to count.
        known = self._of_requests.get((route, method, status))
        if known is None:
            counted = self.requests.labels(route, method, status)
            known = counted, self.request_seconds.labels(route)
            self._of_requests[route, method, status] = known
        counter, histogram = known
        counter.inc()
        histogram.observe(seconds)

    def render(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self._registry)

    def _counter(self, name: str, means: str, *labels: str) -> Counter:
        return Counter(f"llmemb_{name}", means, labels, registry=self._registry)

    def _gauge(self, name: str, means: str) -> Gauge:
        return Gauge(f"llmemb_{name}", means, registry=self._registry)

    def _histogram(
        self, name: str, means: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        return Histogram(f"llmemb_{name}", means, labels, buckets=buckets, registry=self._registry)


class Stage:
    """A stage of the work: how long it took goes into the metrics, and into traces where there are any."""

    def __init__(self, name: str, histogram: Histogram, traces: Traces | None) -> None:
        """Take where it is told."""
        self._name, self._histogram, self._traces = name, histogram, traces

    def time(self) -> AbstractContextManager[object]:
        """Tell how long what follows takes."""
        return self._histogram.time() if self._traces is None else self._traced(self._traces)

    @contextmanager
    def _traced(self, traces: Traces) -> Iterator[None]:
        with traces.stage(self._name), self._histogram.time():
            yield

    def current(self) -> "Span | None":
        """Return the request whose work runs now, for :meth:`took`; None: it is not traced."""
        return self._traces.current() if self._traces else None

    def took(self, seconds: float, spans: Iterable["Span | None"]) -> None:
        """Tell that the stage has just ended, for some requests together."""
        self._histogram.observe(seconds)
        if self._traces:
            self._traces.ended(self._name, seconds, filter(None, spans))


class Coverage:
    """Which items were recommended lately: since the clock's last hour but one began."""

    def __init__(self) -> None:
        """Begin with none."""
        self._now: set[str] = set()
        self._before: set[str] = set()
        self._began = time.monotonic()

    def add(self, ids: Sequence[str]) -> None:
        """Remember that these were recommended."""
        self._turn()
        self._now.update(ids)

    def distinct(self) -> float:
        """Return how many were."""
        self._turn()
        return len(self._now | self._before)

    def _turn(self) -> None:
        passed = time.monotonic() - self._began
        if passed >= COVERAGE_SECONDS:
            self._before = self._now if passed < 2 * COVERAGE_SECONDS else set()
            self._now = set()
            self._began = time.monotonic()
