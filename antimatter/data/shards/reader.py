"""Token shards: documents as BOS ... EOS in uint16 files that are memory-mapped, so a corpus may be
larger than memory.

Separate from writer.py, because a GPU machine with prepared shards reads them with numpy alone.
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
# Of a document: the index of its source among their names, and the size of its UTF-8 text
DOCUMENT = np.dtype([("source", np.uint32), ("bytes", np.uint32)])


class Shards:
    """Reads what writer.write() wrote. Opens every file at once and checks its length, so a damaged
    corpus is found before the training begins.
    """

    def __init__(self, folder: Path) -> None:
        """Raises UserError if the index or a file is missing, or a file does not have the length
        that the index gives.
        """
        self.folder = folder
        self.index: dict[str, Any] = files.read_json(folder / "index.json")
        self.vocab_size: int = self.index["vocab_size"]
        self._files = {
            split: [
                _open_tokens(folder / file["name"], file["tokens"])
                for file in self.index["splits"][split]["files"]
            ]
            for split in SPLITS
        }

    def digests(self) -> dict[str, str]:
        """sha256 of the index, which holds that of every file, and of the inputs of the shards."""
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
        """The names of the sources of the validation documents, in alphabetical order."""
        names: list[str] = self.index.get("documents", {}).get("sources", [])
        return names

    def validation_documents(self) -> np.ndarray:
        """Source and bytes of each validation document, in the order of the files: (D,) DOCUMENT, a
        memory map.

        Raises:
            UserError: the file is missing or damaged, or does not fit the index.
        """
        path, expected = self.folder / DOCUMENTS, self.index["splits"]["validation"]["documents"]
        documents, n_sources = _load(path), len(self.sources())
        if (
            documents is None
            or documents.dtype != DOCUMENT
            or len(documents) != expected
            or not (documents["source"] < n_sources).all()
        ):
            raise UserError(
                f"{path} is missing or damaged, expected {expected:,} documents of "
                f"{n_sources} sources: {how_to_restore(self.folder)}"
            )
        return documents

    def tokens(self, split: Split) -> int:
        return int(self.index["splits"][split]["tokens"])

    def bytes(self, split: Split) -> int:
        """Bytes of UTF-8 text, the denominator of bits per byte."""
        return int(self.index["splits"][split]["bytes"])

    def token_counts(self) -> np.ndarray:
        """How often each token occurs in train, (V,) uint64."""
        path = self.folder / "token_counts.npy"
        counts = _load(path)
        if counts is None or len(counts) != self.vocab_size:
            raise UserError(
                f"{path} is missing or damaged, expected the counts of {self.vocab_size:,} tokens: "
                f"{how_to_restore(self.folder)}"
            )
        return np.array(counts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens, for display where no tokenizer is installed. Incomplete
        characters become U+FFFD.
        """
        texts: list[str] = files.read_json(self.folder / "texts.json", list)
        return b"".join(texts[id].encode("latin-1") for id in ids).decode("utf-8", errors="replace")


def how_to_restore(folder: Path) -> str:
    return f"delete {folder} and run `dvc repro shards`, or `dvc checkout {folder}` to restore it"


def _open_tokens(path: Path, tokens: int) -> np.ndarray:
    if not path.is_file():
        raise UserError(
            f"{path} is missing, expected {tokens:,} tokens: {how_to_restore(path.parent)}"
        )
    ids = _load(path)
    size = max(0, path.stat().st_size - HEADER_BYTES) // 2 if ids is None else len(ids)
    if ids is None or size != tokens or ids.dtype != np.uint16:
        raise UserError(
            f"{path} is damaged, expected {tokens:,} tokens of uint16, found {size:,}: "
            f"{how_to_restore(path.parent)}"
        )
    return ids


def _load(path: Path) -> np.ndarray | None:
    """An array as a memory map; None if the file is missing, its header is broken, or it is shorter
    than its header says.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r")
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return array
