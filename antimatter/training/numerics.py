"""How a process computes: deterministically, in a precision that the device has in hardware, and
without returning memory to the kernel in every step.
"""

import ctypes
import os
import platform
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch

from antimatter.errors import UserError
from antimatter.pipeline import portable
from antimatter.training.config import Precision

# What portable processes have in place of the vendor of their processor
PORTABLE = "x86-64 AVX2, portable"
# The part of the heap in huge pages, in bytes of address space, and their size
HEAP, HUGE_PAGE = 1 << 30, 1 << 21
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def set_deterministic(threads: int) -> None:
    """Makes the same program compute the same bits on the same kind of machine."""
    torch.set_num_threads(threads)
    # On a GPU the next line requires it
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # A debugging aid that costs a pass over every buffer
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def describe_hardware(device_type: str, precision: Precision) -> tuple[str, Precision]:
    """What of this machine decides the bits of a result.

    Returns:
        The name of the GPU, or the vector instructions and the vendor of the CPU, or PORTABLE; and
        the precision in which it computes when the configuration asks for `precision`.
    """
    native = native_precision(torch.device(device_type), precision)
    if device_type == "cuda":
        return torch.cuda.get_device_name(), native
    instructions = torch.backends.cpu.get_cpu_capability()
    if portable.in_effect() and instructions == "AVX2":
        return PORTABLE, native
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = [line for line in cpu.splitlines() if line.startswith("vendor_id")]
    vendor = lines[0].split(":")[1].strip() if lines else platform.machine()
    return f"{instructions}, {vendor}", native


def check_portable() -> None:
    """Raises UserError if this process does not compute as checkpoints.portable promises."""
    kind, _ = describe_hardware("cpu", "fp32")
    if kind != PORTABLE:
        raise UserError(
            f"checkpoints.portable is true, but torch was loaded without its settings ({kind}): "
            "start the stage by `dvc repro` or `python -m stages.checkpoints`"
        )


def tune_malloc() -> None:
    """Lets the process keep the memory that it frees, in huge pages. On Linux with glibc only.

    By default glibc returns large blocks to the kernel, which clears them again in each step: a
    fifth of its time on a CPU. Pages of 2 MB in place of 4 kB save another twentieth
    (benchmarks/train_step.py).
    """
    keep_freed_memory()
    use_huge_pages()


def keep_freed_memory() -> None:
    """Tells glibc not to return memory to the kernel. Does nothing with another C library."""
    # From malloc.h
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, HEAP)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


@cache
def use_huge_pages() -> None:
    """Asks for huge pages in the next HEAP bytes of glibc's heap, without using them yet: the
    address space grows, not the memory. Once in a process.

    After keep_freed_memory(), as a free block then stays in the heap. A kernel without huge pages
    refuses, and all goes on with small ones.
    """
    # From mman.h
    MADV_HUGEPAGE = 14
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.malloc.restype = ctypes.c_void_p
    block = libc.malloc(ctypes.c_size_t(HEAP - HUGE_PAGE))
    if block:
        first = -(-block // HUGE_PAGE) * HUGE_PAGE
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(HEAP - 2 * HUGE_PAGE), MADV_HUGEPAGE)
        libc.free(ctypes.c_void_p(block))


def native_precision(device: torch.device, precision: Precision) -> Precision:
    """The precision in which this device computes when the configuration asks for `precision`.

    A CPU without the instructions uses float32, as emulation is at least 14 times slower
    (benchmarks/precision.py). A GPU without bf16, such as a T4, uses fp16.
    """
    native = {"bf16": torch.cpu._is_avx512_bf16_supported, "fp16": torch.cpu._is_amx_fp16_supported}
    if device.type == "cpu":
        is_native = precision not in native or native[precision]()
        return precision if is_native else "fp32"
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "fp16"
    return precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """torch.autocast in this precision, which does nothing for fp32."""
    return torch.autocast(device.type, DTYPES[precision]) if precision in DTYPES else nullcontext()
