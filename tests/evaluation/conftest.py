"""A tokenizer, a random model for it, and shards at a size one can read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import gguf_model

from antimatter import files
from antimatter.data.shards.reader import DOCUMENT, DOCUMENTS, Shards
from antimatter.data.special_tokens import BOS, EOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.model import weights
from antimatter.model.gpt import GPT


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `dvc repro evaluation` finds it: params.yaml, a tokenizer, and a model of 64
    tokens of context.
    """
    folder = tmp_path_factory.mktemp("a project")
    (folder / "params.yaml").write_bytes(Path("params.yaml").read_bytes())
    gguf_model.save_tokenizer(folder / "data" / "tokenizer")
    weights.save(gguf_model.gpt(), folder / "models" / "checkpoints")
    return folder


@pytest.fixture(scope="session")
def tokenizer(project: Path) -> Tokenizer:
    return Tokenizer.load(project / "data" / "tokenizer")


@pytest.fixture(scope="session")
def model() -> GPT:
    return gguf_model.gpt()


@pytest.fixture
def make_shards(
    tmp_path: Path, token_file: Callable[..., np.ndarray]
) -> Callable[[list[int], np.ndarray], Shards]:
    """Validation documents of the given lengths in two files, from two sources in turn; the n-th
    has 10 + n bytes.
    """

    def make(lengths: list[int], counts: np.ndarray) -> Shards:
        documents = [
            np.array([BOS, *(3 + token_file(n, 61, seed)), EOS], np.uint16)
            for seed, n in enumerate(lengths)
        ]
        half = len(documents) // 2
        entries = []
        for number, part in enumerate((documents[:half], documents[half:])):
            name = f"validation-{number:05d}.npy"
            np.save(tmp_path / name, np.concatenate(part))
            entries.append({"name": name, "tokens": sum(map(len, part)), "documents": len(part)})
        table = np.array([(n % 2, 10 + n) for n in range(len(documents))], DOCUMENT)
        np.save(tmp_path / DOCUMENTS, table)
        np.save(tmp_path / "token_counts.npy", counts.astype(np.uint64))
        validation = {
            "files": entries,
            "documents": len(documents),
            "bytes": int(table["bytes"].sum()),
            "tokens": sum(map(len, documents)),
        }
        index = {
            "vocab_size": 64,
            "bos": BOS,
            "eos": EOS,
            "splits": {"train": {"files": []}, "validation": validation},
            "documents": {"sources": ["even", "odd"]},
        }
        files.write_json(tmp_path / "index.json", index)
        return Shards(tmp_path)

    return make
