"""FLOPs against torch's own counter, and peaks of GPUs by the names that torch gives them."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from antimatter.model.config import GPTConfig
from antimatter.model.flops import flops_per_token, peak_flops
from antimatter.model.gpt import GPT


@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_three_times_what_torch_counts_forward(
    tiny_config: GPTConfig, tied: bool
) -> None:
    config = replace(tiny_config, n_layer=3, tied_embeddings=tied)
    # The counter cannot count the fused attention of a CPU
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        GPT(config)(torch.zeros(2, config.block_size, dtype=torch.long))
    assert 3 * counter.get_total_flops() == flops_per_token(config) * 2 * config.block_size


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H200", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("Tesla T4", 65),
    ],
)
def test_a_device_has_the_peak_of_its_data_sheet(name: str, teraflops: float) -> None:
    assert peak_flops(name) == teraflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA L40",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GH200 480GB",
        "",
    ],
)
def test_a_device_that_resembles_a_known_one_has_no_peak(name: str) -> None:
    assert peak_flops(name) is None
