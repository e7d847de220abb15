"""How often each token occurs, as a curve by rank."""

from collections.abc import Iterator

import numpy as np

POINTS = 200


def by_rank(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Token frequencies by rank (Zipf 1949), as pairs (rank, count).

    The ranks are evenly spaced on a logarithmic scale. Tokens that never occur are left out.

    Args:
        counts: of each token, (V,).
    """
    ordered = np.sort(counts[counts > 0])[::-1]
    for rank in np.unique(np.geomspace(1, len(ordered), POINTS).round().astype(int)):
        yield int(rank), int(ordered[rank - 1])
