"""One short script for each stage: `python -m stages.<stage>`, inputs first, then outputs."""

from antimatter import threads
from antimatter.pipeline import portable

# Both set variables that libraries read while they are loaded
threads.yield_soon()
portable.apply()
