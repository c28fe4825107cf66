"""What the service tells of itself: metrics in Prometheus' format."""

from prometheus_client import CollectorRegistry, Counter, generate_latest


class Metrics:
    """The metrics of one application.

    Attributes:
        asked_vectors: LLM vectors that requests asked for, by where they came from.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.asked_vectors = Counter(
            "llmemb_asked_vectors",
            "LLM vectors that requests asked for, by where they came from: this process's memory, "
            "Redis or the model. The cache's hit ratio is the share of the first two.",
            ["source"],
            registry=self._registry,
        )

    def render(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self._registry)
