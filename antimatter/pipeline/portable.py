"""`checkpoints.portable`: the same arithmetic on every x86-64 processor with AVX2.

The libraries below torch and NumPy choose their instructions by the processor, some by its vendor,
and read these variables only while they are loaded. So stages/__init__.py sets them before it
imports anything else (docs/decisions/0050).
"""

import os
import platform
from pathlib import Path

from antimatter import params
from antimatter.errors import UserError

SETTINGS = {
    # PyTorch's own loops
    "ATEN_CPU_CAPABILITY": "avx2",
    # The only branch of MKL that promises equal results on processors of all vendors, for equal
    # numbers of threads, which MKL would otherwise lower on its own
    "MKL_CBWR": "COMPATIBLE",
    "MKL_DYNAMIC": "FALSE",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    # What NumPy has beyond AVX2: other algorithms for exp and log
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
CPU_INFO = Path("/proc/cpuinfo")


def apply(path: Path = params.PARAMS) -> None:
    """Sets the variables of this process and its children if params.yaml asks for it.

    A file that cannot be read changes nothing: the stage reports it (check.check_once).
    """
    try:
        section = params.load(path).get("checkpoints")
    except (UserError, OSError):
        return
    if isinstance(section, dict) and section.get("portable") is True:
        # Sums are split by the number of threads, so stages that set none must not take that of
        # the machine
        os.environ.update(SETTINGS, OMP_NUM_THREADS=str(section.get("threads", 1)))


def in_effect() -> bool:
    """Whether this process has the variables. It must have had them before torch was imported."""
    return all(os.environ.get(name) == value for name, value in SETTINGS.items())


def has_avx2() -> bool:
    """Whether this is an x86-64 processor with AVX2, as far as the system says."""
    known = CPU_INFO.read_text().split() if CPU_INFO.is_file() else ["avx2"]
    return platform.machine() in ("x86_64", "AMD64") and "avx2" in known


def check(device_type: str) -> None:
    """Raises UserError if the machine cannot compute portably."""
    fix = "set checkpoints.portable to false"
    if device_type != "cpu":
        raise UserError(
            f"checkpoints.portable is for a CPU, but this training runs on {device_type}: set "
            f"runtime.device to cpu, or {fix}"
        )
    if not has_avx2():
        raise UserError(
            "checkpoints.portable needs an x86-64 processor with AVX2, which this "
            f"{platform.machine()} machine lacks: {fix}"
        )
