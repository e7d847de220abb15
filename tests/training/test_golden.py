"""Golden losses, which make refactoring safe: a change of code that must not change results leaves
them as they are, to the bit.

They belong to one kind of machine. On another kind float32 sums have another order, which 30 steps
at a high learning rate amplify, so there the losses must agree within 2%. Those of portable
arithmetic belong to every x86-64 processor with AVX2. After a change that must change results, or
to add a kind of machine: PYTHONPATH=.:tests python -m helpers.golden, with `--device cuda` for a
GPU, and again with `--portable`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.golden import GOLDEN, golden, is_comparable, machine, variants

from antimatter.model import devices
from antimatter.pipeline import portable
from antimatter.training import numerics


@pytest.mark.usefixtures("torch_as_before")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", variants())
def test_the_losses_are_golden(tmp_path: Path, name: str, device: str) -> None:
    if device == "cuda" and not devices.has_gpu():
        pytest.skip("no GPU")
    recorded, result = json.loads(GOLDEN.read_text()), golden(name, tmp_path, device)
    assert len(recorded) > 0
    for kind, runs in recorded.items():
        for curve in ("losses", "validation") if is_comparable(name, kind, device) else ():
            assert result[curve] == pytest.approx(runs[name][curve], rel=0.02), kind
    if machine(device) in recorded:
        assert result == recorded[machine(device)][name]


def test_portable_losses_are_golden_on_every_processor() -> None:
    if not portable.has_avx2():
        pytest.skip("portable needs AVX2")
    version = torch.__version__.split("+")[0]
    kind = f"torch {version}, {numerics.PORTABLE}"
    recorded = json.loads(GOLDEN.read_text())
    if kind not in recorded:
        pytest.skip(f"no portable losses are recorded for torch {version}")
    # In a process that has the variables before it imports torch
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", "tests"])}
    command = [sys.executable, "-m", "helpers.golden", "--portable", "--print"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {kind: recorded[kind]}
