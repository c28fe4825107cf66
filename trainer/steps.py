"""What one optimiser step of SCFT reports; apart from ``trainer.scft``, whose imports take seconds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One optimiser step."""

    step: int
    steps: int
    loss: float
    items_per_second: float
