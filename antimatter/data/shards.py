"""Token shards: documents as BOS ... EOS in uint16 files that are read by memory map, so a corpus may be larger than memory.

Reading is apart from writing (encode.py), because a GPU machine with prepared shards needs numpy for it and nothing else.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from antimatter import files

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
HEADER_BYTES = 128  # of a .npy file that holds one array of one dimension


class Shards:
    """Reads what encode.write() wrote; opens every file at once and checks its length, so a damaged corpus is found before training begins."""

    def __init__(self, folder: Path) -> None:
        """Raises FileNotFoundError without an index; ValueError for a file that is missing or not of the length in the index."""
        self.index: dict[str, Any] = files.read_json(folder / "index.json")
        self.vocab_size: int = self.index["vocab_size"]
        self._files = {split: [_open(folder / file["name"], file["tokens"]) for file in self.index["splits"][split]["files"]] for split in SPLITS}
        self.folder = folder

    def digests(self) -> dict[str, str]:
        """sha256 of the index, which holds that of every file, and of what the shards were made of."""
        return {"shards": files.sha256(self.folder / "index.json"), **self.index.get("made_of", {})}

    def split(self, split: Split) -> list[np.ndarray]:
        """The files of a split as memory maps, (tokens,) uint16 each."""
        return self._files[split]

    def documents(self, split: Split) -> Iterator[np.ndarray]:
        """Each document of a split with its BOS and EOS."""
        for ids in self._files[split]:
            starts = np.flatnonzero(ids == self.index["bos"])
            yield from np.split(ids, starts[1:])

    def tokens(self, split: Split) -> int:
        return int(self.index["splits"][split]["tokens"])

    def bytes(self, split: Split) -> int:
        """Bytes of UTF-8 text, the denominator of bits per byte."""
        return int(self.index["splits"][split]["bytes"])

    def token_counts(self) -> np.ndarray:
        """How often each token occurs in train, (V,) uint64."""
        counts: np.ndarray = np.load(self.folder / "token_counts.npy")
        return counts

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens, for a look at it where no tokenizer is installed. Halves of characters become U+FFFD."""
        texts: list[str] = files.read_json(self.folder / "texts.json")
        return b"".join(texts[id].encode("latin-1") for id in ids).decode("utf-8", errors="replace")


def _open(path: Path, tokens: int) -> np.ndarray:
    way_out = f"delete {path.parent} and run `dvc repro shards`, or `dvc checkout {path.parent}` to restore it"
    if not path.is_file():
        raise ValueError(f"{path} is missing, expected {tokens:,} tokens: {way_out}")
    found = max(0, path.stat().st_size - HEADER_BYTES) // 2
    ids: np.ndarray | None = None
    try:
        ids = np.load(path, mmap_mode="r")
        found = len(ids)
    except (ValueError, EOFError):  # numpy: the header is broken, or the file is shorter than its header says
        pass
    if ids is None or found != tokens or ids.dtype != np.uint16:
        raise ValueError(f"{path} is damaged, expected {tokens:,} tokens of uint16, found {found:,}: {way_out}")
    return ids
