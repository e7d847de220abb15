"""The split: who is a candidate; candidates that resemble a document of train are trained on."""

import numpy as np

from antimatter.data.shards.config import ShardsConfig
from antimatter.data.shards.split import candidates, is_candidate, place, withdraw_look_alikes


def test_a_chain_of_look_alikes_is_followed_to_its_end():
    """`a` of train resembles `b`, `b` resembles `c`, but `a` does not resemble `c`: both candidates
    are withdrawn, also if they are in another file.
    """
    random = np.random.default_rng(0)
    a, b, c, far = random.integers(0, 256, (4, 120), dtype=np.uint8)
    b[:80] = a[:80]
    c[:40], c[80:] = a[:40], b[80:]
    sketches = [np.stack([c, far]), np.stack([b, a])]
    candidates = [np.array([True, True]), np.array([True, False])]
    withdraw_look_alikes(sketches, candidates, 0.5)
    assert [candidate.tolist() for candidate in candidates] == [[False, True], [False, False]]


def test_the_candidates_of_files_are_those_of_their_texts():
    texts = [f"text {number}" for number in range(2_000)]
    config = ShardsConfig(tokens_per_file=1, validation_fraction=0.03, max_similarity=0.5, seed=7)
    places = np.array([place(text, config) for text in texts], np.uint64)
    first, second = candidates([places[:300], places[300:]], config)
    assert [*first, *second] == [is_candidate(text, config) for text in texts]
    assert 30 < sum(first) + sum(second) < 90
