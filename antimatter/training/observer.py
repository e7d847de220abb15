"""What a training tells those who watch it."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A step that has been made."""

    step: int
    # Mean over the global batch, nats per token
    loss: float
    learning_rate: float
    # Of the gradient before clipping
    gradient_norm: float


class Observer:
    """Watches a training without any effect on its results; this one ignores everything.

    The trainer calls these methods and uses nothing that they return or change, so the code of a
    subclass is no part of a run's identity (pipeline/closure.py, OBSERVERS).
    """

    def on_start(self, step: int) -> None:
        """The loop starts, or starts again, after `step` steps."""

    def on_step(self, progress: Progress) -> None:
        """A step has been made."""

    def on_validation(self, step: int) -> None:
        """The model has been validated after `step` steps."""

    def on_end(self, outcome: str) -> None:
        """The run ended: "finished", "paused" or "diverged"."""

    def log(self, text: str) -> None:
        """A message for people."""

    def pause(self) -> AbstractContextManager[None]:
        """The time spent in this context is not training."""
        return nullcontext()
