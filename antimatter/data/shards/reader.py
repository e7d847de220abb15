"""Token shards: documents as BOS ... EOS in uint16 files that are read by memory map, so a corpus may be larger than memory.

Reading is apart from writing (encode.py), because a GPU machine with prepared shards needs numpy for it and nothing else.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from antimatter import files
from antimatter.errors import UserError

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
HEADER_BYTES = 128  # of a .npy file that holds one array of one dimension
DOCUMENTS = "validation_documents.npy"
# Of a document: a place among the names of sources; its UTF-8 text
DOCUMENT = np.dtype([("source", np.uint32), ("bytes", np.uint32)])


class Shards:
    """Reads what encode.write() wrote; opens every file at once and checks its length, so a damaged corpus is found before training begins."""

    def __init__(self, folder: Path) -> None:
        """Raises FileNotFoundError without an index; ValueError for a file that is missing or not of the length in the index."""
        self.index: dict[str, Any] = files.read_json(folder / "index.json")
        self.vocab_size: int = self.index["vocab_size"]
        self._files = {
            split: [
                _open(folder / file["name"], file["tokens"])
                for file in self.index["splits"][split]["files"]
            ]
            for split in SPLITS
        }
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

    def sources(self) -> list[str]:
        """The names of what the documents of validation come from, in alphabetical order."""
        names: list[str] = self.index.get("documents", {}).get("sources", [])
        return names

    def validation_documents(self) -> np.ndarray:
        """Source and bytes of each document of validation, in the order of its files: (D,) DOCUMENT, a memory map.

        Raises:
            ValueError: the shards lack it, or it does not fit the index.
        """
        path, expected = self.folder / DOCUMENTS, self.index["splits"]["validation"]["documents"]
        try:
            documents: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            raise UserError(f"{path} is missing or damaged: {_way_out(self.folder)}") from None
        if (
            documents.dtype != DOCUMENT
            or len(documents) != expected
            or not (documents["source"] < len(self.sources())).all()
        ):
            raise UserError(
                f"{path} is damaged, expected {expected:,} documents of {len(self.sources())} sources: {_way_out(self.folder)}"
            )
        return documents

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


def _way_out(folder: Path) -> str:
    return f"delete {folder} and run `dvc repro shards`, or `dvc checkout {folder}` to restore it"


def _open(path: Path, tokens: int) -> np.ndarray:
    way_out = _way_out(path.parent)
    if not path.is_file():
        raise UserError(f"{path} is missing, expected {tokens:,} tokens: {way_out}")
    found = max(0, path.stat().st_size - HEADER_BYTES) // 2
    ids: np.ndarray | None = None
    try:
        ids = np.load(path, mmap_mode="r")
        found = len(ids)
    # Numpy: the header is broken, or the file is shorter than its header says
    except (ValueError, EOFError):
        pass
    if ids is None or found != tokens or ids.dtype != np.uint16:
        raise UserError(
            f"{path} is damaged, expected {tokens:,} tokens of uint16, found {found:,}: {way_out}"
        )
    return ids
