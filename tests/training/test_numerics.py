"""What a training process does with its memory."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
PROGRAM = """
import ctypes
from antimatter.training import numerics
def address_space():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if "VmSize" in line)
numerics.tune_malloc()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
first, second = (libc.malloc(ctypes.c_size_t(64 << 20)) for _ in range(2))
before = address_space()
numerics.tune_malloc()
print(address_space() - before < 100_000)
libc.free(ctypes.c_void_p(first))
again = libc.malloc(ctypes.c_size_t(64 << 20))
inside = False
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        inside = begin <= second < end
    elif inside and line.startswith("VmFlags"):
        print(first == again, "hg" in line.split())
    elif inside and line.startswith("Rss"):
        print(int(line.split()[1]) < 8 << 10)
"""


@pytest.mark.skipif(not HUGE.exists(), reason="this kernel has no huge pages")
@pytest.mark.skipif(
    platform.libc_ver() < ("glibc", "2.35"),
    reason="this C library maps large blocks by themselves, whatever it is told",
)
def test_freed_memory_stays_in_the_process_in_huge_pages_and_none_is_used_in_advance() -> None:
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True"] * 4
