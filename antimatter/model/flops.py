"""What a token costs in arithmetic, and what a GPU could do at best: their ratio at a measured speed is the MFU (Chowdhery et al. 2022, PaLM)."""

import re

from antimatter.model.config import GPTConfig

# Peak FLOP/s in dense bf16 (fp16 on a T4, which has no bf16) with float32 sums, by the name that torch.cuda.get_device_name() gives without its
# maker. From NVIDIA's data sheets and, for the RTX 4090, its Ada white paper; where a sheet shows the figure "with sparsity", half of it.
_PEAKS = {
    r"T4": 65e12,
    r"GeForce RTX 4090": 165e12,
    r"L4": 121e12,
    r"L40S": 362e12,
    r"A100[ -](SXM4-|PCIE-)?\d+GB( PCIe)?": 312e12,
    r"H100 80GB HBM3": 989e12,  # SXM
    r"H100 PCIe": 756e12,
    r"H100 NVL|H200 NVL": 835e12,
    r"H200": 989e12,
    r"B200": 2250e12,
}


def matmul_weights(config: GPTConfig) -> int:
    """Weights of the matrix products: 12·C² a layer (4·C² attention, 8·C² feed-forward) and the head's V·C, tied or not.

    Norms, biases and the look-ups in the embeddings are no matrix products.
    """
    return 12 * config.n_layer * config.n_embd**2 + config.vocab_size * config.n_embd


def flops_per_token(config: GPTConfig) -> int:
    """Forward and backward for one token of a full context: 6·N + 12·L·C·T.

    Each of the N weights is multiplied and added once forward and twice backward. The second term is attention's two products, QKᵀ and the
    weighting of V, each 2·C·T forward. As usual they count in full, though a causal kernel skips half; recomputation would not count.
    """
    return 6 * matmul_weights(config) + 12 * config.n_layer * config.n_embd * config.block_size


def peak_flops(device_name: str) -> float | None:
    """The data sheet's peak of a device, in FLOP/s, or None for one that is not known. A MIG slice or a laptop's chip is none of these cards."""
    model = re.sub(r"^(NVIDIA|Tesla) ", "", device_name)
    return next((peak for pattern, peak in _PEAKS.items() if re.fullmatch(pattern, model)), None)
