"""How a process computes: the same bits again on the same kind of machine, in the precision that the machine has, with memory that stays warm."""

import ctypes
import os
import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from antimatter.training.config import Precision

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def set_deterministic(threads: int) -> None:
    """Makes the same program give the same bits again on the same kind of machine."""
    torch.set_num_threads(threads)
    # Asked for by the next line on a GPU
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs a pass over every buffer
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def describe_hardware(device_type: str, precision: Precision) -> tuple[str, Precision]:
    """The kind of this machine, as far as it decides about bits: the GPU's name, or the CPU's vector instructions and maker; and the precision in
    which it computes when asked for this one.
    """
    native = native_precision(torch.device(device_type), precision)
    if device_type == "cuda":
        return torch.cuda.get_device_name(), native
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    vendor = next(
        (line.split(":")[1].strip() for line in cpu.splitlines() if line.startswith("vendor_id")),
        platform.machine(),
    )
    return f"{torch.backends.cpu.get_cpu_capability()}, {vendor}", native


def tune_malloc() -> None:
    """Lets the process keep the memory that it frees. By default glibc gives large blocks back to the kernel, which clears them anew in each step:
    a fifth of its time on a CPU (benchmarks/train_step.py). No other C library is asked.
    """
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def native_precision(device: torch.device, precision: Precision) -> Precision:
    """The precision that this device computes in. A CPU without the instructions would emulate it, 14 times slower or worse
    (benchmarks/precision.py), and takes float32; a GPU without bf16, such as a T4, takes fp16.
    """
    native = {"bf16": torch.cpu._is_avx512_bf16_supported, "fp16": torch.cpu._is_amx_fp16_supported}
    if device.type == "cpu" and precision in native and not native[precision]():
        return "fp32"
    if (
        precision == "bf16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        return "fp16"
    return precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, DTYPES[precision]) if precision in DTYPES else nullcontext()
