import json
import math
import re
import struct
from dataclasses import replace
from pathlib import Path

import gguf as reference
import numpy as np
import pytest
import torch
from helpers.gguf_model import CHAT, CONFIG, VOCAB, Tiny, gpt, save_tokenizer
from torch.nn import functional as F

from antimatter.chat import template
from antimatter.data.special_tokens import USER
from antimatter.export import gguf
from antimatter.export.config import GGUFConfig, MaxKL
from antimatter.export.gguf import GELUForm
from antimatter.export.source import of_model
from antimatter.llama.header import ChatFacts, read_header
from antimatter.llama.server import Llama
from antimatter.model.gpt import FeedForward


def ffn_of(slope: float, gain: float = 3.0) -> FeedForward:
    ffn = gpt(gain=gain, slope=slope).blocks[0].ffn
    assert isinstance(ffn, FeedForward)
    return ffn.double()


def form_of(ffn: FeedForward, scale: int) -> GELUForm:
    return gguf.gelu_form(
        ffn.up.weight, ffn.up.bias, ffn.down.weight, ffn.down.bias, ffn.negative_slope, scale
    )


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3, 1.0])
def test_the_rewritten_network_is_the_leaky_relu_network_up_to_gelus_own_bound(
    slope: float, approximate: str
) -> None:
    ffn, x = (
        ffn_of(slope),
        torch.randn(200, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5,
    )
    form = form_of(ffn, 1024)
    y = F.linear(
        F.gelu(F.linear(x, form.up, form.up_bias), approximate=approximate) / form.scales,
        form.down,
        form.down_bias,
    )
    bound = (
        0.171 / 1024 * (1 - slope) * ffn.down.weight.abs().sum(dim=1)
    )  # |gelu(cu)/c - relu(u)| <= 0.17/c, for each hidden unit
    assert ((y - ffn(x)).abs() <= bound + 1e-10).all()


def test_the_error_falls_as_one_over_the_scale() -> None:
    ffn, x = (
        ffn_of(0.1),
        torch.randn(500, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        * 0.01,
    )  # near the kink
    errors = []
    for scale in (4, 64, 1024):
        form = form_of(ffn, scale)
        y = F.linear(
            F.gelu(F.linear(x, form.up, form.up_bias)) / form.scales, form.down, form.down_bias
        )
        errors.append(float((y - ffn(x)).abs().max()))
    assert errors[0] > 4 * errors[1] > 16 * errors[2]


def test_rows_too_large_for_float16_get_a_smaller_power_of_two() -> None:
    ffn = ffn_of(0.1)
    ffn.up.weight[3] *= 5000
    ffn.up.weight[5] = 0
    form = form_of(ffn, 1024)
    assert form.up.abs().max() <= gguf.FLOAT16_MAX
    assert 0 < form.scales[3] < 1024 and form.scales[5] == 1024
    assert (form.scales.log2() == form.scales.log2().round()).all()


def test_the_same_weights_give_the_same_bytes(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("a", "b"):
        gguf.write(
            of_model(gpt()),
            tiny.tokenizer_folder / "tokenizer.json",
            tmp_path / f"{name}.gguf",
            "f16",
            CONFIG,
        )
    assert (
        (tmp_path / "a.gguf").read_bytes()
        == (tmp_path / "b.gguf").read_bytes()
        == tiny.path.read_bytes()
    )


def test_tensors_and_last_keys_stand_in_the_order_that_llama_quantize_leaves(tiny: Tiny) -> None:
    reader = reference.GGUFReader(tiny.path)
    names = [tensor.name for tensor in reader.tensors]
    outside = [name for name in names if not name.startswith("blk.")]
    layers = [[name for name in names if name.startswith(f"blk.{i}.")] for i in range(2)]
    assert names == sorted(outside) + sorted(layers[0]) + sorted(layers[1])
    assert layers[0][3:8] == [
        f"blk.0.{name}"
        for name in (
            "attn_output.weight",
            "attn_qkv.bias",
            "attn_qkv.weight",
            "ffn.act.scales",
            "ffn_down.bias",
        )
    ]
    assert list(reader.fields)[-2:] == ["general.quantization_version", "general.file_type"]
    assert [reader.fields[key].contents() for key in list(reader.fields)[-2:]] == [2, 1]


def test_gguf_py_reads_back_what_was_written(tiny: Tiny) -> None:
    reader = reference.GGUFReader(tiny.path)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    model = tiny.model
    np.testing.assert_array_equal(
        tensors["token_embd.weight"], model.token_embedding.weight.half().numpy()
    )
    np.testing.assert_array_equal(
        tensors["position_embd.weight"], model.position_embedding.weight.numpy()
    )
    assert "output.weight" not in tensors  # tied
    assert {
        tensors[name].dtype for name in tensors if not name.endswith("weight") or "norm" in name
    } == {np.dtype(np.float32)}
    header = read_header(tiny.path)
    assert header.keys == {
        key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")
    }
    assert header.n_parameters == sum(int(np.prod(tensor.shape)) for tensor in reader.tensors)
    assert header.context_length == 64
    assert header.keys["tokenizer.ggml.token_type"] == [3] * 6 + [1] * (VOCAB - 6)


def test_untied_models_bring_their_output_matrix(tiny: Tiny, tmp_path: Path) -> None:
    gguf.write(
        of_model(gpt(tied=False)),
        tiny.tokenizer_folder / "tokenizer.json",
        tmp_path / "a.gguf",
        "f32",
        CONFIG,
    )
    assert read_header(tmp_path / "a.gguf").tensors["output.weight"] == (64, VOCAB)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1e6, "position|float16 ends at 65504"),
        (float("nan"), "not finite.*training diverged"),
        (float("inf"), "not finite"),
    ],
)
def test_weights_that_a_file_cannot_hold_are_one_clear_error_and_leave_no_file(
    tiny: Tiny, tmp_path: Path, value: float, words: str
) -> None:
    model = gpt()
    model.token_embedding.weight[7, 7] = value
    with pytest.raises(ValueError, match=f"token_embd.weight.*({words})"):
        gguf.write(
            of_model(model),
            tiny.tokenizer_folder / "tokenizer.json",
            tmp_path / "a.gguf",
            "f16",
            CONFIG,
        )
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "other", vocab_size=300)
    with pytest.raises(ValueError, match=r"has 300 tokens, the checkpoint was trained with 400"):
        gguf.write(
            of_model(gpt()),
            tmp_path / "other" / "tokenizer.json",
            tmp_path / "a.gguf",
            "f16",
            CONFIG,
        )
    (tmp_path / "other" / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(ValueError, match="is not a byte-level BPE tokenizer"):
        gguf.write(
            of_model(gpt()),
            tmp_path / "other" / "tokenizer.json",
            tmp_path / "a.gguf",
            "f16",
            CONFIG,
        )


def test_a_tokenizer_without_the_role_tokens_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    text = (tiny.tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8")
    path.write_text(text.replace("[USER]", "[OTHER]"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json lacks the role tokens: .*\[USER\]=3"):
        gguf.write(of_model(gpt()), path, tmp_path / "a.gguf", "f16", CONFIG)


def test_a_chat_model_tells_how_a_chat_begins_and_ends(tiny: Tiny, tmp_path: Path) -> None:
    header = read_header(tiny.chat_path)
    assert header.keys["tokenizer.chat_template"] == template.JINJA
    assert header.keys["tokenizer.ggml.eot_token_id"] == USER
    assert header.chat == ChatFacts(CHAT["system"], CHAT["greeting"], tuple(CHAT["starters"]))
    silent = {"system": "", "greeting": "", "starters": CHAT["starters"]}
    source = replace(of_model(gpt()), chat=silent)
    tokenizer = tiny.tokenizer_folder / "tokenizer.json"
    gguf.write(source, tokenizer, tmp_path / "a.gguf", "f16", CONFIG)
    assert read_header(tmp_path / "a.gguf").chat == ChatFacts("", "", tuple(CHAT["starters"]))


def test_a_base_model_tells_nothing_of_a_chat(tiny: Tiny) -> None:
    header = read_header(tiny.path)
    assert header.keys["tokenizer.chat_template"] == template.CONTINUED_JINJA
    assert header.chat is None
    assert not [key for key in header.keys if "eot" in key or key.startswith("antimatter.")]


@pytest.mark.parametrize(
    ("key", "value"),
    [("starters", "[1]"), ("starters", "{"), ("starters", 3), ("system", 1), ("greeting", [])],
)
def test_a_damaged_word_of_the_chat_names_its_key(tmp_path: Path, key: str, value: object) -> None:
    keys: dict[str, object] = {**GOOD, "antimatter.chat.starters": '["a"]'}
    path = tmp_path / "a.gguf"
    path.write_bytes(bare(keys))
    assert read_header(path).chat == ChatFacts("", "", ("a",))
    path.write_bytes(bare({**keys, f"antimatter.chat.{key}": value}))
    with pytest.raises(ValueError, match=rf"^[^\n]*a\.gguf .*antimatter\.chat\.{key} must be"):
        read_header(path)


def test_a_file_that_is_not_gguf_is_one_clear_error(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with pytest.raises(FileNotFoundError, match=r"a\.gguf is missing: run `dvc repro gguf`"):
        read_header(path)
    for content in (b"", b"GG", b"PK\x03\x04" * 100, b"\x00" * 1000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.gguf is not a GGUF file"):
            read_header(path)


def test_a_damaged_file_is_a_value_error_wherever_it_is_cut_or_changed(
    tiny: Tiny, tmp_path: Path
) -> None:
    whole, path = tiny.path.read_bytes(), tmp_path / "a.gguf"
    for length in [*range(4, 200, 7), 5000, len(whole) // 2, len(whole) - 100]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.gguf is a damaged GGUF file"):
            read_header(path)
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole[:20_000])
        for position in generator.integers(4, 2000, 3):
            damaged[position] = generator.integers(256)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.gguf is"):
            read_header(path)


GOOD = {"general.architecture": "mpt", "mpt.context_length": 64, "general.alignment": 32}
READ = [*GOOD, "general.file_type", "tokenizer.ggml.tokens"]
# Of each sort that breaks arithmetic or a look-up
ODD = [
    "",
    "a\nb",
    -1,
    0,
    3,
    2**63,
    True,
    0.5,
    math.nan,
    math.inf,
    -math.inf,
    [],
    [1, 2],
    ["a"],
    [[]],
]


def packed(value: object) -> bytes:
    """A type and a value, as a GGUF file has them."""
    match value:
        case str():
            return struct.pack("<IQ", 8, len(value)) + value.encode()
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


def bare(keys: dict[str, object], *tensors: bytes) -> bytes:
    """A file of keys, and of what is given as the list of tensors, without their data."""
    pairs = [struct.pack("<Q", len(key)) + key.encode() + packed(keys[key]) for key in keys]
    counts = struct.pack("<IQQ", 3, len(tensors), len(keys))
    return b"".join([b"GGUF", counts, *pairs, *tensors, bytes(64)])


@pytest.mark.parametrize("key", READ)
def test_a_key_of_the_wrong_kind_is_one_line_that_names_it(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(bare(GOOD))
    assert read_header(path).context_length == 64
    good = []
    for value in ODD:
        path.write_bytes(bare({**GOOD, key: value}))
        try:
            header = read_header(path)
        except ValueError as error:
            words = rf"[^\n]*a\.gguf is [^\n]*({re.escape(key)}|context_length|of type 9)[^\n]*"
            assert re.fullmatch(words, str(error))
        else:
            assert header.context_length > 0
            good.append(value)
    texts: list[object] = [[], ["a"]]
    known = {"mpt.context_length": [3], "general.file_type": [0, 3], "tokenizer.ggml.tokens": texts}
    assert good == known.get(key, [])


@pytest.mark.parametrize("shape", [(2**64 - 1,) * 4, (2**64 - 1,) * 40, (2,) * 5])
@pytest.mark.parametrize("kind", [1, 12])
def test_a_shape_that_no_tensor_has_is_one_line(
    tmp_path: Path, shape: tuple[int, ...], kind: int
) -> None:
    tensor = struct.pack(f"<Q1sI{len(shape)}QIQ", 1, b"x", len(shape), *shape, kind, 0)
    (tmp_path / "a.gguf").write_bytes(bare(GOOD, tensor))
    with pytest.raises(ValueError, match=r"^[^\n]*a\.gguf is a damaged GGUF file[^\n]*$"):
        read_header(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a/b"),
        ("name", ""),
        ("license", ""),
        ("types", ()),
        ("types", ("f16", "f16")),
        ("relu_scale", 1000),
        ("windows", 0),
    ],
)
def test_bad_parameters_name_their_key(key: str, value: object) -> None:
    values = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__} | {key: value}
    with pytest.raises(ValueError, match=f"^{key} must "):
        GGUFConfig(**values)


def test_a_bound_that_nothing_can_keep_is_refused() -> None:
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^q8_0 must be positive"):
            MaxKL(f32=1.0, f16=1.0, q8_0=value, q4_k_m=1.0)


def test_what_made_the_model_stands_in_the_keys_and_llama_cpp_takes_them(
    tiny: Tiny, tmp_path: Path
) -> None:
    made = {
        "code": "12ab",
        "params": {"model": {"n_layer": 2}},
        "data": {"shards": "34cd"},
        "machine": {"kind": "é", "devices": 2},
    }
    gguf.write(
        replace(of_model(gpt()), provenance=made),
        tiny.tokenizer_folder / "tokenizer.json",
        tmp_path / "a.gguf",
        "f16",
        CONFIG,
    )
    ours = {
        name: value
        for name, value in read_header(tmp_path / "a.gguf").keys.items()
        if name.startswith("antimatter.")
    }
    assert json.loads(ours.pop("antimatter.params")) == made["params"]
    assert ours == {
        "antimatter.code": "12ab",
        "antimatter.data.shards.reader": "34cd",
        "antimatter.machine.kind": "é",
        "antimatter.machine.devices": "2",
    }
    with Llama(tmp_path / "a.gguf", 64, threads=1) as llama:
        assert llama.tokenize("The", special=False)
