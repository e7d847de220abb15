import json
from dataclasses import replace
from pathlib import Path

import gguf as reference
import numpy as np
import pytest
import torch
from helpers.gguf_model import CHAT, CONFIG, VOCAB, Tiny, gpt, of_model, save_tokenizer
from torch import Tensor
from torch.nn import functional as F

from antimatter.chat import template
from antimatter.data.special_tokens import USER
from antimatter.errors import UserError
from antimatter.export import gguf
from antimatter.export.config import FileType, GGUFConfig, MaxKL
from antimatter.export.gguf import GELUForm
from antimatter.export.source import Source
from antimatter.llama.header import ChatFacts, read_header
from antimatter.llama.server import Llama
from antimatter.model.gpt import FeedForward


def write(source: Source, tokenizer_folder: Path, path: Path, file_type: FileType = "f16") -> Path:
    gguf.write(source, tokenizer_folder / "tokenizer.json", path, file_type, CONFIG)
    return path


def ffn_of(slope: float, gain: float = 3.0) -> FeedForward:
    ffn = gpt(gain=gain, slope=slope).blocks[0].ffn
    assert isinstance(ffn, FeedForward)
    return ffn.double()


def form_of(ffn: FeedForward, scale: int) -> GELUForm:
    return gguf.gelu_form(
        ffn.up.weight, ffn.up.bias, ffn.down.weight, ffn.down.bias, ffn.negative_slope, scale
    )


def apply(form: GELUForm, x: Tensor, approximate: str = "none") -> Tensor:
    hidden = F.gelu(F.linear(x, form.up, form.up_bias), approximate=approximate)
    return F.linear(hidden / form.scales, form.down, form.down_bias)


def inputs(count: int, size: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 64, dtype=torch.float64, generator=generator) * size


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3, 1.0])
def test_the_rewritten_network_is_the_leaky_relu_network_up_to_gelus_own_bound(
    slope: float, approximate: str
) -> None:
    ffn, x = ffn_of(slope), inputs(200, 5)
    y = apply(form_of(ffn, 1024), x, approximate)
    # |gelu(cu)/c - relu(u)| <= 0.17/c, for each hidden unit
    bound = 0.171 / 1024 * (1 - slope) * ffn.down.weight.abs().sum(dim=1)
    assert ((y - ffn(x)).abs() <= bound + 1e-10).all()


def test_the_error_falls_as_one_over_the_scale() -> None:
    ffn, near_the_kink = ffn_of(0.1), inputs(500, 0.01)
    errors = [
        float((apply(form_of(ffn, scale), near_the_kink) - ffn(near_the_kink)).abs().max())
        for scale in (4, 64, 1024)
    ]
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
    path = write(of_model(gpt()), tiny.tokenizer_folder, tmp_path / "a.gguf")
    assert path.read_bytes() == tiny.path.read_bytes()


def test_tensors_and_last_keys_have_the_order_of_llama_quantize(tiny: Tiny) -> None:
    reader = reference.GGUFReader(tiny.path)
    names = [tensor.name for tensor in reader.tensors]
    outside = [name for name in names if not name.startswith("blk.")]
    layers = [[name for name in names if name.startswith(f"blk.{i}.")] for i in range(2)]
    assert names == sorted(outside) + sorted(layers[0]) + sorted(layers[1])
    middle = "attn_output.weight attn_qkv.bias attn_qkv.weight ffn.act.scales ffn_down.bias"
    assert layers[0][3:8] == [f"blk.0.{name}" for name in middle.split()]
    last = list(reader.fields)[-2:]
    assert last == ["general.quantization_version", "general.file_type"]
    assert [reader.fields[key].contents() for key in last] == [2, 1]


def test_gguf_py_reads_back_what_was_written(tiny: Tiny) -> None:
    tensors = {tensor.name: tensor.data for tensor in reference.GGUFReader(tiny.path).tensors}
    tokens, positions = (
        getattr(tiny.model, f"{kind}_embedding").weight for kind in ("token", "position")
    )
    np.testing.assert_array_equal(tensors["token_embd.weight"], tokens.half().numpy())
    np.testing.assert_array_equal(tensors["position_embd.weight"], positions.numpy())
    # The head is tied
    assert "output.weight" not in tensors
    small = {name for name in tensors if not name.endswith("weight") or "norm" in name}
    assert len(small) > 10
    assert {tensors[name].dtype for name in small} == {np.dtype(np.float32)}


def test_untied_models_have_an_output_matrix(tiny: Tiny, tmp_path: Path) -> None:
    source = of_model(gpt(tied=False))
    path = write(source, tiny.tokenizer_folder, tmp_path / "a.gguf", "f32")
    assert read_header(path).tensors["output.weight"] == (64, VOCAB)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (1e6, "float16 ends at 65504"),
        (float("nan"), "not finite.*training diverged"),
        (float("inf"), "not finite"),
    ],
)
def test_weights_that_a_file_cannot_hold_are_an_error_and_leave_no_file(
    tiny: Tiny, tmp_path: Path, value: float, reason: str
) -> None:
    model = gpt()
    model.token_embedding.weight[7, 7] = value
    with pytest.raises(UserError, match=f"token_embd.weight.*{reason}"):
        write(of_model(model), tiny.tokenizer_folder, tmp_path / "a.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_does_not_fit_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    source, folder = of_model(gpt()), tmp_path / "other"
    save_tokenizer(folder, vocab_size=300)
    with pytest.raises(UserError, match=r"has 300 tokens, the checkpoint was trained with 400"):
        write(source, folder, tmp_path / "a.gguf")
    (folder / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(UserError, match=r"tokenizer\.json has no key vocab"):
        write(source, folder, tmp_path / "a.gguf")
    text = (tiny.tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text.replace("[USER]", "[OTHER]"), encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizer\.json lacks special tokens.*\[USER\]=3"):
        write(source, folder, tmp_path / "a.gguf")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_chat_model_says_how_a_chat_begins_and_ends(tiny: Tiny, tmp_path: Path) -> None:
    header = read_header(tiny.chat_path)
    assert header.keys["tokenizer.chat_template"] == template.JINJA
    assert header.keys["tokenizer.ggml.eot_token_id"] == USER
    assert header.chat == ChatFacts(CHAT["system"], CHAT["greeting"], tuple(CHAT["starters"]))
    silent = {"system": "", "greeting": "", "starters": CHAT["starters"]}
    source = replace(of_model(gpt()), chat=silent)
    path = write(source, tiny.tokenizer_folder, tmp_path / "a.gguf")
    assert read_header(path).chat == ChatFacts("", "", tuple(CHAT["starters"]))


def test_a_base_model_has_no_keys_of_a_chat(tiny: Tiny) -> None:
    header = read_header(tiny.path)
    assert header.keys["tokenizer.chat_template"] == template.CONTINUED_JINJA
    assert header.chat is None
    assert not [key for key in header.keys if "eot" in key or key.startswith("antimatter.chat.")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a/b"),
        ("name", ""),
        ("name", "-a"),
        ("license", ""),
        ("languages", ("english",)),
        ("types", ()),
        ("types", ("f16", "f16")),
        ("relu_scale", 1000),
        ("windows", 0),
    ],
)
def test_bad_parameters_name_their_key(key: str, value: object) -> None:
    values = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__} | {key: value}
    with pytest.raises(UserError, match=f"^{key} must "):
        GGUFConfig(**values)


def test_a_bound_that_no_file_can_keep_is_refused() -> None:
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=r"^q8_0 must be above 0"):
            MaxKL(f32=1.0, f16=1.0, q8_0=value, q4_k_m=1.0)


def test_the_provenance_is_in_the_keys_and_llama_cpp_accepts_them(
    tiny: Tiny, tmp_path: Path
) -> None:
    provenance = {
        "code": "12ab",
        "params": {"model": {"n_layer": 2}},
        "data": {"shards": "34cd"},
        "machine": {"kind": "é", "devices": 2},
    }
    source = replace(of_model(gpt()), provenance=provenance)
    path = write(source, tiny.tokenizer_folder, tmp_path / "a.gguf")
    keys = read_header(path).keys
    ours = {name: value for name, value in keys.items() if name.startswith("antimatter.")}
    assert ours.pop("antimatter.parameters") == str(source.load().n_parameters())
    assert json.loads(ours.pop("antimatter.params")) == provenance["params"]
    assert ours == {
        "antimatter.code": "12ab",
        "antimatter.data.shards": "34cd",
        "antimatter.machine.kind": "é",
        "antimatter.machine.devices": "2",
    }
    with Llama(path, 64, threads=1) as llama:
        assert llama.tokenize("The", special=False)


def test_the_facts_are_in_the_keys_of_the_specification(tiny: Tiny, tmp_path: Path) -> None:
    """As gguf's own reader finds them, and its metadata heuristics, which fill a model card."""
    result = {"steps": 4, "tokens": 8000, "train_loss": 2.5, "validation_loss": None}
    source = replace(
        of_model(gpt()), chat=CHAT, result={**result, "initial": {"tokens": 9000, "steps": 5}}
    )
    config = replace(CONFIG, url="https://example.org/tiny", languages=("en", "de"))
    path, names = tmp_path / "a.gguf", ["numpy 2.4.6", "torch 2.13.0"]
    gguf.write(source, tiny.tokenizer_folder / "tokenizer.json", path, "f16", config, names)
    fields = reference.GGUFReader(path).fields
    general = reference.Keys.General
    size = reference.size_label(source.load().n_parameters(), 0, 0, 0)
    for key, value in {
        general.NAME: "tiny",
        general.BASENAME: "tiny",
        general.FINETUNE: "chat",
        general.SIZE_LABEL: size,
        general.LICENSE: "mit",
        general.URL: "https://example.org/tiny",
        general.LANGUAGES: ["en", "de"],
        general.TAGS: ["antimatter", "text-generation", "conversational"],
        general.DATASET_COUNT: 2,
        general.DATASET_NAME.format(id=1): "torch 2.13.0",
        "antimatter.result.tokens": "8000",
        "antimatter.result.train_loss": "2.5",
        "antimatter.result.initial.tokens": "9000",
    }.items():
        assert fields[key].contents() == value, key
    text = fields[general.DESCRIPTION].contents()
    assert size in text and "9,000 tokens of text and tuned on 8,000 tokens" in text
    own = replace(config, description="Mine.", url="")
    gguf.write(source, tiny.tokenizer_folder / "tokenizer.json", path, "f16", own)
    fields = reference.GGUFReader(path).fields
    assert fields[general.DESCRIPTION].contents() == "Mine."
    assert general.URL not in fields and general.DATASET_COUNT not in fields


def test_the_tensors_do_not_depend_on_the_facts(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    own = replace(CONFIG, description="Mine.")
    gguf.write(of_model(gpt()), tiny.tokenizer_folder / "tokenizer.json", path, "f16", own)
    one, other = (reference.GGUFReader(name).tensors for name in (path, tiny.path))
    for ours, theirs in zip(one, other, strict=True):
        assert ours.name == theirs.name and np.array_equal(ours.data, theirs.data)
