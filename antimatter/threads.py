"""How long the threads of a matrix product wait for each other by spinning."""

import os

# libgomp, which torch uses on Linux, reads this when torch is imported. By default threads spin for
# milliseconds, and beside another busy process a training then stops almost completely. With 1,000
# turns they sleep too often: on a machine where waking up takes long, a training alone loses a
# quarter of its speed (benchmarks/contention.py). No result depends on it.
VARIABLE, SPINS = "GOMP_SPINCOUNT", "4000"


def yield_soon() -> None:
    """Lets waiting threads give up their core soon. To be called before torch is imported."""
    os.environ.setdefault(VARIABLE, SPINS)
