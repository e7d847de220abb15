"""The header of a GGUF file, compared with gguf-py, and of files that are damaged in many ways."""

import math
import re
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from helpers.gguf_model import CONTEXT, VOCAB, Tiny

from antimatter.errors import UserError
from antimatter.llama.header import ChatFacts, read_header

MINIMAL = {"general.architecture": "mpt", "mpt.context_length": 64, "general.alignment": 32}
CHECKED = [*MINIMAL, "general.file_type", "tokenizer.ggml.tokens"]
# Values that break arithmetic or a look-up
ODD: list[object] = [
    *("", "a\nb", -1, 0, 3, 2**63, True, 0.5, math.nan, math.inf, -math.inf),
    *([], [1, 2], ["a"], [[]]),
]


def packed(value: object) -> bytes:
    """A type and a value, as a GGUF file has them."""
    match value:
        case str():
            content = value.encode()
            return struct.pack("<IQ", 8, len(content)) + content
        case bool():
            return struct.pack("<I?", 7, value)
        case float():
            return struct.pack("<Id", 12, value)
        case int():
            return struct.pack("<IQ", 10, value) if value >= 0 else struct.pack("<Iq", 11, value)
        case list():
            items = [packed(item) for item in value]
            kind = items[0][:4] if items else struct.pack("<I", 8)
            count = struct.pack("<Q", len(items))
            return struct.pack("<I", 9) + kind + count + b"".join(item[4:] for item in items)
    raise TypeError(value)


def file_of(keys: dict[str, object], *tensors: bytes) -> bytes:
    """A file with these keys and these entries of the list of tensors, without their data."""
    pairs = [struct.pack("<Q", len(key)) + key.encode() + packed(keys[key]) for key in keys]
    counts = struct.pack("<IQQ", 3, len(tensors), len(keys))
    return b"".join([b"GGUF", counts, *pairs, *tensors, bytes(64)])


def test_the_keys_and_shapes_are_those_that_gguf_py_reads(tiny: Tiny) -> None:
    header, reader = read_header(tiny.path), gguf.GGUFReader(tiny.path)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert header.keys == {name: field.contents() for name, field in fields.items()}
    assert header.tensors == {tensor.name: tuple(tensor.shape) for tensor in reader.tensors}
    assert header.n_parameters == sum(tensor.n_elements for tensor in reader.tensors)
    assert (header.architecture, header.context_length) == ("mpt", CONTEXT)
    assert header.keys["tokenizer.ggml.token_type"] == [3] * 6 + [1] * (VOCAB - 6)


def test_values_of_every_type_are_read(tmp_path: Path) -> None:
    values: dict[str, object] = {"text": "é", "flag": True, "real": 0.5, "negative": -7}
    values |= {"big": 2**40, "texts": ["a", "bc"], "numbers": [1, 2, 3], "none": []}
    (tmp_path / "a.gguf").write_bytes(file_of({**MINIMAL, **values}))
    keys = read_header(tmp_path / "a.gguf").keys
    assert {name: keys[name] for name in values} == values


@pytest.mark.parametrize(
    ("key", "value"),
    [("starters", "[1]"), ("starters", "{"), ("starters", 3), ("system", 1), ("greeting", [])],
)
def test_a_chat_key_of_the_wrong_type_is_named(tmp_path: Path, key: str, value: object) -> None:
    keys: dict[str, object] = {**MINIMAL, "antimatter.chat.starters": '["a"]'}
    path = tmp_path / "a.gguf"
    path.write_bytes(file_of(keys))
    assert read_header(path).chat == ChatFacts("", "", ("a",))
    path.write_bytes(file_of({**keys, f"antimatter.chat.{key}": value}))
    with pytest.raises(UserError, match=rf"^[^\n]*a\.gguf .*antimatter\.chat\.{key} must be"):
        read_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.gguf is missing: .*`dvc repro gguf`"):
        read_header(tmp_path / "a.gguf")


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04" * 100, b"\x00" * 1000])
def test_a_file_of_another_format_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.gguf is not a GGUF file.*`dvc repro gguf`"):
        read_header(tmp_path / "a.gguf")


def test_a_truncated_file_is_damaged_wherever_it_ends(tiny: Tiny, tmp_path: Path) -> None:
    whole, path = tiny.path.read_bytes(), tmp_path / "a.gguf"
    for length in [*range(4, 200, 7), 5000, len(whole) // 2, len(whole) - 100]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"^[^\n]*a\.gguf is a damaged GGUF file[^\n]*$"):
            read_header(path)


def test_random_damage_is_one_line_that_names_the_file(tiny: Tiny, tmp_path: Path) -> None:
    """Whole files, so that some damage leaves a header that can be read."""
    whole, path = tiny.path.read_bytes(), tmp_path / "a.gguf"
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for position in generator.integers(4, generator.choice([30, 300, 3000]), 2):
            damaged[position] = generator.integers(256)
        path.write_bytes(damaged)
        try:
            assert read_header(path).context_length > 0
        except UserError as error:
            assert re.fullmatch(r"[^\n]*a\.gguf is [^\n]*`dvc repro gguf`[^\n]*", str(error))
            refused += 1
    assert 200 < refused < 400


@pytest.mark.parametrize("key", ["tokenizer.ggml.token_type", "tokenizer.ggml.tokens"])
@pytest.mark.parametrize("count", [2**21, 2**40, 2**63])
def test_an_absurd_count_is_refused_at_once(
    tiny: Tiny, tmp_path: Path, key: str, count: int
) -> None:
    """gguf-py reads the tensors as items of the array, and does not always come to an end."""
    content = bytearray(tiny.path.read_bytes())
    struct.pack_into("<Q", content, content.index(key.encode()) + len(key) + 8, count)
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.gguf is a damaged GGUF file \(a count of {count}\)"):
        read_header(tmp_path / "a.gguf")


@pytest.mark.parametrize("key", CHECKED)
def test_a_key_of_the_wrong_type_is_one_line_that_names_it(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(file_of(dict(MINIMAL)))
    assert read_header(path).context_length == 64
    accepted = []
    for value in ODD:
        path.write_bytes(file_of({**MINIMAL, key: value}))
        try:
            header = read_header(path)
        except UserError as error:
            named = rf"[^\n]*a\.gguf is [^\n]*({re.escape(key)}|context_length|of type 9)[^\n]*"
            assert re.fullmatch(named, str(error))
        else:
            assert header.context_length > 0
            accepted.append(value)
    texts: list[object] = [[], ["a"]]
    valid = {"mpt.context_length": [3], "general.file_type": [0, 3], "tokenizer.ggml.tokens": texts}
    assert accepted == valid.get(key, [])


@pytest.mark.parametrize("shape", [(2**64 - 1,) * 4, (2**64 - 1,) * 40, (2,) * 5])
@pytest.mark.parametrize("kind", [1, 12])
def test_a_shape_that_no_tensor_has_is_one_line(
    tmp_path: Path, shape: tuple[int, ...], kind: int
) -> None:
    tensor = struct.pack(f"<Q1sI{len(shape)}QIQ", 1, b"x", len(shape), *shape, kind, 0)
    (tmp_path / "a.gguf").write_bytes(file_of(dict(MINIMAL), tensor))
    with pytest.raises(UserError, match=r"^[^\n]*a\.gguf is a damaged GGUF file[^\n]*$"):
        read_header(tmp_path / "a.gguf")
