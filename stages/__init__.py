"""One short script for each stage: `python -m stages.<stage>`, inputs first, then outputs."""

import os

from antimatter.pipeline import portable

# libgomp reads this when torch is imported. By default waiting threads spin for milliseconds, and
# beside another busy process a training then stops almost completely (benchmarks/contention.py).
# No result depends on it.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
portable.apply()
