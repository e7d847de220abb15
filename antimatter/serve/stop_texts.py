"""Finds the texts that end an answer, in an answer that arrives in pieces.

The backends are not asked to do this. llama.cpp, when streaming, drops the text that it held back
if the answer ends at its length (ggml-org/llama.cpp#9867, again in 2026), and Ollama runs
llama.cpp's server since version 0.30.
"""

from collections.abc import Sequence


class StopTexts:
    """Holds back only what may become a stop text."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.is_found = False
        self._texts, self._buffer = texts, ""

    def take(self, piece: str, last: bool) -> str:
        """What can be shown after this piece. When a stop text is found, that is all before it.

        Args:
            last: the answer ends here, so what was held back is not a stop text.
        """
        text = self._buffer + piece
        if starts := [text.index(stop) for stop in self._texts if stop in text]:
            self.is_found = True
            return text[: min(starts)]
        n_held = 0 if last else max((_overlap(text, stop) for stop in self._texts), default=0)
        end = len(text) - n_held
        self._buffer = text[end:]
        return text[:end]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest beginning of `stop` that `text` ends with."""
    return max((n for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
