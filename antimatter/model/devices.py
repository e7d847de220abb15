"""The GPUs of this machine. torch is asked only where it can find one: it takes seconds to import, and values are checked without it."""

import ctypes
import os
import sys
from pathlib import Path

from antimatter.errors import UserError


def has_gpu() -> bool:
    """Whether torch sees a GPU."""
    if not _has_driver():
        return False
    import torch

    return torch.cuda.is_available()


def _has_driver() -> bool:
    """Whether torch can find a GPU at all: on Linux by the library of NVIDIA's driver, or by the device of AMD's."""
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def count(devices: int, device_type: str) -> int:
    """How many processes are to share the batch: those of torchrun, or `devices`, or for 0 one for each GPU and a single one on a CPU.

    Raises:
        ValueError: more than the machine has GPUs.
    """
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if device_type != "cuda":
        return devices or 1
    import torch

    gpus = torch.cuda.device_count()
    if devices > gpus:
        raise UserError(
            f"runtime.devices is {devices}, but torch sees {gpus} GPUs here: lower it, or set it to 0 for all of them"
        )
    return devices or max(1, gpus)
