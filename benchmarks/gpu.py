"""Everything that only a GPU can tell, in one call of at most ten minutes.

    python benchmarks/gpu.py --nanogpt path/to/nanoGPT/model.py | tee gpu.md

It needs torch 2.9 or newer, numpy, safetensors and PyYAML, and runs the other benchmarks:

1. Golden losses: the small trainings of tests/training/test_golden.py, recorded in
   tests/golden/losses.json under the name of this GPU. Commit that file.
2. Determinism: two trainings, one of them killed by SIGKILL, of a tiny model and of layers as in
   the 300M preset, compiled, in bf16. Are the bytes the same?
3. MFU of the 300M preset beside nanoGPT compiled, and the price of determinism.
4. Tokens/s and memory of each file in presets/. If its micro-batch does not fit, half of it.

Without a GPU, `--device cpu --shape tiny --presets presets/nano.yaml` tries the script itself.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from antimatter import params

# Seconds that a part gets in any case
LEAST = 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nanogpt", type=Path, help="nanoGPT's model.py")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--shape", default="300m", help="of part 3, as in train_step.py")
    parser.add_argument(
        "--presets", type=Path, nargs="*", default=sorted(Path("presets").glob("*"))
    )
    parser.add_argument("--parts", nargs="*", default=["golden", "resume", "speed", "presets"])
    parser.add_argument("--minutes", type=float, default=10, help="after which it stops")
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here: `--device cpu --shape tiny` tries the script itself")
    name = torch.cuda.get_device_name() if device == "cuda" else "a CPU"
    print(f"# {name}, torch {torch.__version__}, {torch.cuda.device_count()} GPUs")
    end = time.monotonic() + 60 * arguments.minutes
    if "golden" in arguments.parts:
        run(["-m", "helpers.golden", "--device", device], end)
    if "resume" in arguments.parts:
        run(["benchmarks/resume.py", "--kills", "2"], end)
        if device == "cuda":
            run(["benchmarks/resume.py", "--kills", "1", "--large"], end)
    step = ["benchmarks/train_step.py", "--device", device]
    if "speed" in arguments.parts:
        peer = ["--nanogpt", str(arguments.nanogpt)] if arguments.nanogpt else []
        levers = ["--levers", "without determinism", "--rounds", "10"]
        run([*step, "--shape", arguments.shape, *peer, *levers], end)
    for preset in arguments.presets if "presets" in arguments.parts else []:
        micro_batch = params.load(preset)["runtime"]["micro_batch"]
        sizes = [micro_batch, micro_batch // 2, micro_batch // 4]
        one = [*step, "--preset", str(preset), "--rounds", "5"]
        any(run([*one, "--micro-batch", str(size)], end) for size in sizes if size)


def run(command: list[str], end: float) -> bool:
    """Runs Python, prints what it says, and returns whether it succeeded.

    Args:
        end: of the whole script, by time.monotonic().
    """
    print(f"\n## {' '.join(command)}\n", flush=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", "tests"])}
    begin = time.monotonic()
    try:
        code = subprocess.run(
            [sys.executable, *command],
            env=environment,
            stderr=subprocess.STDOUT,
            timeout=max(LEAST, end - begin),
        ).returncode
    except subprocess.TimeoutExpired:
        print("\ncut off: the time is over")
        return True
    print(f"\n{time.monotonic() - begin:.0f} s, {'passed' if code == 0 else 'FAILED'}", flush=True)
    return code == 0


if __name__ == "__main__":
    main()
