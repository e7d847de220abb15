"""The block for training on a CPU in bf16 against the plain one.

Shapes: B batch, T tokens, C channels.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from antimatter.model import fused, gpt
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT, Block, KeyValueCache

SHAPE = {"n_layer": 1, "block_size": 40, "vocab_size": 64, "tied_embeddings": True, "seed": 1}
needs_bf16 = pytest.mark.skipif(not fused._has_linear(), reason="this CPU has no bf16 products")


def make(**values: Any) -> Block:
    """A block whose weights are not near zero, so that a missing term shows."""
    config = {**SHAPE, "n_head": 3, "n_embd": 96, "negative_slope": 0.1, "dropout": 0.0}
    block = GPT(GPTConfig(**{**config, "residual_scale": 1.0, **values})).blocks[0]  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(7)
    for parameter in block.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return block


def inputs(channels: int = 96) -> Tensor:
    return torch.randn(2, 40, channels, generator=torch.Generator().manual_seed(3))


def blocked_pairs() -> Tensor:
    """Of two texts in each row, which must not attend to each other, (B, T, T)."""
    text = torch.arange(40).ge(torch.tensor([[13], [29]]))
    return text[:, :, None] != text[:, None, :]


def compute(block: Block, x: Tensor, blocked: Tensor | None, precision: str) -> list[Tensor]:
    """The output, and the gradients of the input and of each parameter."""
    x = x.clone().requires_grad_()
    block.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        y = block(x, blocked=blocked)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad.clone() for p in block.parameters() if p.grad is not None)]


def error(values: Tensor, exact: Tensor) -> float:
    return float((values - exact).norm() / exact.norm())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The inputs of the fused blocks."""
    real, seen = fused.block, list[Tensor]()

    def block(x: Tensor, *rest: Any) -> Tensor:
        seen.append(x)
        return real(x, *rest)

    monkeypatch.setattr(fused, "block", block)
    return seen


@needs_bf16
@pytest.mark.parametrize("blocked", [None, blocked_pairs()], ids=["causal", "two texts"])
@pytest.mark.parametrize("values", [{}, {"negative_slope": 0.0}, {"n_head": 1}], ids=str)
def test_values_and_gradients_are_as_exact_as_those_of_the_plain_block(
    values: dict[str, float],
    blocked: Tensor | None,
    calls: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block, x = make(**values), inputs()
    ours = compute(block, x, blocked, "bf16")
    assert len(calls) == 1
    exact = compute(block, x, blocked, "fp32")
    monkeypatch.setattr(fused, "applies", lambda x: False)
    plain = compute(block, x, blocked, "bf16")
    assert len(calls) == 1 and len(ours) == len(plain) == len(exact) == 14
    for mine, theirs, right in zip(ours, plain, exact, strict=True):
        assert mine.dtype == theirs.dtype == torch.float32
        assert error(mine, right) < max(0.01, 1.1 * error(theirs, right))


@needs_bf16
def test_the_same_input_gives_the_same_bits() -> None:
    block = make()
    first, second = (compute(block, inputs(), None, "bf16") for _ in range(2))
    assert all(map(torch.equal, first, second))


def no_grad(block: Block, x: Tensor) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        block(x)


def with_cache(block: Block, x: Tensor) -> None:
    config = GPTConfig(
        **{**SHAPE, "n_head": 3, "n_embd": 96, "negative_slope": 0.1},  # type: ignore[arg-type]
        **{"dropout": 0.0, "residual_scale": 1.0},  # type: ignore[arg-type]
    )
    with torch.autocast("cpu", torch.bfloat16):
        block(x, KeyValueCache(config, 2, like=x.bfloat16()))


def with_selection(block: Block, x: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        block(x, selected=torch.ones(x.shape[:2], dtype=torch.bool))


def in_fp16(block: Block, x: Tensor) -> None:
    with torch.autocast("cpu", torch.float16):
        block(x)


def with_dropout(block: Block, x: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        make(dropout=0.1)(x)


def in_float32(block: Block, x: Tensor) -> None:
    block(x)


@pytest.mark.parametrize(
    "use", [no_grad, with_cache, with_selection, in_fp16, with_dropout, in_float32]
)
def test_whatever_else_is_computed_by_the_plain_block(
    use: Callable[[Block, Tensor], None], calls: list[Tensor]
) -> None:
    use(make(), inputs())
    assert not calls


def test_a_long_context_is_computed_by_the_plain_block(
    calls: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpt, "SHORT", 39)
    with torch.autocast("cpu", torch.bfloat16):
        make()(inputs())
    assert not calls


def test_a_torch_without_the_product_uses_the_plain_block(
    calls: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_has_linear", lambda: False)
    with torch.autocast("cpu", torch.bfloat16):
        make()(inputs())
    assert not calls
