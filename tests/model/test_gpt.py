"""The network against GPT-2 of transformers and torch's own attention, and its first weights.

Shapes: B batch, H heads, T tokens, D channels of a head.
"""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from antimatter.model import gpt
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT, KeyValueCache, attend

# Of parameters, in transformers and here
NAMES = {
    "transformer.wte": "token_embedding",
    "transformer.wpe": "position_embedding",
    "transformer.h": "blocks",
    "transformer.ln_f": "norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn.qkv",
    "attn.c_proj": "attn.proj",
    "mlp.c_fc": "ffn.up",
    "mlp.c_proj": "ffn.down",
    "lm_head": "head",
}


def randomise(model: GPT) -> GPT:
    """Moves all weights away from their initial values, so that a missing bias or norm shows."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def test_the_future_cannot_change_the_past(tiny_gpt: GPT) -> None:
    ids = torch.randint(64, (1, 16), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 9:] = (changed[0, 9:] + 1) % 64
    with torch.no_grad():
        before, after = randomise(tiny_gpt)(ids), tiny_gpt(changed)
    assert torch.equal(before[0, :9], after[0, :9])
    assert not torch.allclose(before[0, 9:], after[0, 9:])


@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_those_of_hugging_face_gpt2_with_its_activation_swapped(
    tiny_config: GPTConfig, tied: bool
) -> None:
    ours = randomise(GPT(replace(tiny_config, tied_embeddings=tied)).eval())
    config = GPT2Config(
        vocab_size=64,
        n_positions=16,
        n_embd=32,
        n_layer=2,
        n_head=4,
        activation_function="leaky_relu",
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
    )
    theirs = GPT2LMHeadModel(config).eval()
    state = ours.state_dict()
    for name, parameter in theirs.state_dict().items():
        own_name = name
        for old, new in NAMES.items():
            own_name = own_name.replace(old, new)
        value = state[own_name]
        # Their Conv1D has transposed matrices
        parameter.copy_(value.T if ".c_" in name and value.ndim == 2 else value)
    ids = torch.randint(64, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)


def test_the_seed_decides_the_initial_weights(tiny_config: GPTConfig) -> None:
    one, same, other = GPT(tiny_config), GPT(tiny_config), GPT(replace(tiny_config, seed=2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.token_embedding.weight, other.token_embedding.weight)


@pytest.mark.parametrize("residual_scale", [1.0, 0.5, 0.0])
def test_every_matrix_starts_with_zero_mean_and_its_deviation(
    tiny_config: GPTConfig, residual_scale: float
) -> None:
    """0.02, with the scale only in what writes into the residual stream."""
    large = replace(tiny_config, n_embd=256, block_size=256, vocab_size=512)
    model = GPT(replace(large, residual_scale=residual_scale))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            scale = residual_scale if name.endswith(("proj.weight", "down.weight")) else 1
            assert parameter.std().item() == pytest.approx(0.02 * scale, rel=0.02), name
            assert parameter.mean().item() == pytest.approx(0, abs=3e-4), name
        else:
            assert parameter.unique().tolist() == [float("norm.weight" in name)], name


def test_a_residual_scale_multiplies_these_matrices_and_changes_no_other_value(
    tiny_config: GPTConfig,
) -> None:
    """As GPT-2 in transformers does it, with 1 / sqrt(2 n_layer)."""
    plain = GPT(tiny_config).state_dict()
    scale = (2 * tiny_config.n_layer) ** -0.5
    scaled = GPT(replace(tiny_config, residual_scale=scale)).state_dict()
    for name, value in plain.items():
        writes = name.endswith(("attn.proj.weight", "ffn.down.weight"))
        torch.testing.assert_close(scaled[name], value * scale if writes else value)
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=256, n_head=4))
    large = GPT(replace(tiny_config, n_layer=12, n_embd=256, residual_scale=24**-0.5))
    for ours, other in (("attn.proj", "attn.c_proj"), ("ffn.down", "mlp.c_proj")):
        expected = theirs.transformer.h[0].get_submodule(other).weight.std().item()
        deviation = large.blocks[0].get_submodule(ours).weight.std().item()
        assert deviation == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("tied", "millions"), [(True, 355.9), (False, 407.3)])
def test_the_300m_preset_has_the_number_of_parameters_in_the_readme(
    tied: bool, millions: float
) -> None:
    config = GPTConfig(
        n_layer=24,
        n_head=16,
        n_embd=1024,
        block_size=2048,
        negative_slope=0.01,
        residual_scale=1.0,
        dropout=0.0,
        tied_embeddings=tied,
        seed=1,
        vocab_size=50257,
    )
    with torch.device("meta"):
        model = GPT(config)
    assert model.n_parameters() / 1e6 == pytest.approx(millions, abs=0.05)


def test_short_attention_equals_torchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 12, 8, generator=generator)  # each (B, H, T, D)
    whole = attend(q, k, v, 0.0)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-6)
    last = attend(q[:, :, 9:], k, v, 0.0)
    torch.testing.assert_close(last, whole[:, :, 9:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("short", [0, 512], ids=["torch's attention", "short contexts"])
def test_blocked_pairs_have_no_weight(short: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt, "SHORT", short)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 12, 8, generator=generator)
    blocked = torch.rand(2, 12, 12, generator=generator) < 0.5
    blocked &= ~torch.eye(12, dtype=torch.bool)
    result = attend(q, k, v, 0.0, blocked)
    for row in range(12):
        for batch in range(2):
            allowed = [i for i in range(row + 1) if not blocked[batch, row, i]]
            scores = q[batch, :, row, None] @ k[batch, :, allowed].mT * 8**-0.5  # (H, 1, allowed)
            expected = (scores.softmax(-1) @ v[batch, :, allowed])[:, 0]
            torch.testing.assert_close(result[batch, :, row], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("short", [0, 512], ids=["torch's attention", "short contexts"])
def test_with_a_cache_the_logits_are_those_without(
    tiny_gpt: GPT, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpt, "SHORT", short)
    ids = torch.randint(64, (3, 16), generator=torch.Generator().manual_seed(0))
    randomise(tiny_gpt)
    with torch.no_grad():
        cache = KeyValueCache(tiny_gpt.config, 3, like=tiny_gpt.head.weight)
        parts = [tiny_gpt.hidden(part, cache) for part in ids.split([5, 1, 1, 3, 6], dim=1)]
        logits = tiny_gpt.head(torch.cat(parts, 1))
        torch.testing.assert_close(logits, tiny_gpt(ids), rtol=1e-5, atol=1e-5)
    assert cache.length == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_head": 5}, "n_embd must be a multiple"),
        ({"n_layer": 0}, "n_layer"),
        ({"negative_slope": 2.0}, "negative_slope"),
        ({"dropout": 1.0}, "dropout"),
        ({"residual_scale": -0.1}, "residual_scale"),
    ],
)
def test_an_impossible_shape_is_refused(
    tiny_config: GPTConfig, change: dict[str, float], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        replace(tiny_config, **change)  # type: ignore[arg-type]
