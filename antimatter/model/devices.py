"""The GPUs of this machine.

torch is imported only on a machine that has a driver for one: the import takes seconds, and
params.yaml is checked without it.
"""

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
    """Whether torch can find a GPU at all.

    On Linux by the library of NVIDIA's driver, or by the device file of AMD's.
    """
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def count(devices: int, device_type: str) -> int:
    """The number of processes that share the batch.

    Args:
        devices: as in params.yaml; 0 is one process for each GPU, or one on a CPU. torchrun
            overrides it.

    Raises:
        UserError: the machine has fewer GPUs.
    """
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if device_type != "cuda":
        return devices or 1
    import torch

    gpus = torch.cuda.device_count()
    if devices > gpus:
        raise UserError(
            f"runtime.devices is {devices}, but torch sees {gpus} GPUs here: lower it, or set it "
            "to 0 for all of them"
        )
    return devices or max(1, gpus)
