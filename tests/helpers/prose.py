"""English prose and text about code, from what is installed anyway."""

from pydoc_data.topics import topics

import numpy as np

_DOCSTRINGS = [value.__doc__ for value in vars(np).values()]
PROSE = [*topics.values(), *(d for d in _DOCSTRINGS if isinstance(d, str) and len(d) > 500)]
