"""The FLOPs of a token and the peak FLOP/s of a GPU.

With a measured speed they give the model FLOPs utilisation, MFU (Chowdhery et al. 2022, PaLM).
"""

import re

from antimatter.model.config import GPTConfig

# Peak FLOP/s in dense bf16 (fp16 on a T4, which has no bf16) with float32 sums, by the name that
# torch.cuda.get_device_name() returns, without its maker. From NVIDIA's data sheets and, for the
# RTX 4090, its Ada white paper; half of a figure that a sheet shows "with sparsity".
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
    """The weights in matrix products: 12·C² a layer (4·C² attention, 8·C² feed-forward), and V·C of
    the head, tied or not.

    Norms, biases and look-ups in the embeddings are not matrix products.
    """
    return 12 * config.n_layer * config.n_embd**2 + config.vocab_size * config.n_embd


def flops_per_token(config: GPTConfig) -> int:
    """FLOPs forward and backward for one token of a full context: 6·N + 12·L·C·T.

    Each of the N weights is multiplied and added once forward and twice backward. The second term
    is the two products of attention, QKᵀ and the weighting of V, each 2·C·T forward. As usual they
    count in full, although a causal kernel skips half; recomputation would not count.
    """
    return 6 * matmul_weights(config) + 12 * config.n_layer * config.n_embd * config.block_size


def muon_flops(config: GPTConfig) -> int:
    """FLOPs of Muon in one step on each device, whatever the batch: 300·C³ a layer.

    Each of 5 iterations multiplies the normalised update of a matrix, m x n with m <= n, by its own
    transpose, that product by itself, and the result by the update: 4·m²·n + 2·m³. A layer has four
    matrices of C x C (queries, keys, values, projection) and two of C x 4·C.
    """
    return 300 * config.n_layer * config.n_embd**3


def peak_flops(device_name: str) -> float | None:
    """The peak of a device in FLOP/s by its data sheet, or None if it is unknown.

    A MIG slice or the chip of a laptop does not count as one of the known cards.
    """
    model = re.sub(r"^(NVIDIA|Tesla) ", "", device_name)
    return next((peak for pattern, peak in _PEAKS.items() if re.fullmatch(pattern, model)), None)
