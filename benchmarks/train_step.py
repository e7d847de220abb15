"""A training step relative to nanoGPT's, and the effect of each optimisation: tokens/s, share of
the peak, memory.

    # Nano shape on this CPU; the 300M preset's shape on a GPU; one change at a time
    python benchmarks/train_step.py --nanogpt path/to/nanoGPT/model.py
    python benchmarks/train_step.py --nanogpt path/to/nanoGPT/model.py --device cuda
    python benchmarks/train_step.py --levers

Each contender has its own process, so that allocators and compilers do not affect each other. Only
one computes at a time: a round is one step of each. nanoGPT runs its recipe: on a CPU float32 and
eager, on a GPU bf16, torch.compile and its fused AdamW; with the same shape, a tied head, and
clipping at 1.0.

The step is forward, backward, clip and AdamW on a batch in memory. The peak is on a CPU that of a
product of two 2048 x 2048 matrices in the contender's type, measured in its process beforehand; on
a GPU the dense bf16 of the data sheet. FLOPs are those of antimatter/model/flops.py for both.
"""

import argparse
import importlib.util
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.nn import functional as F

from antimatter.data.batches import Batch
from antimatter.model import gpt, loss
from antimatter.model.config import GPTConfig, LossConfig
from antimatter.model.flops import flops_per_token, peak_flops
from antimatter.model.gpt import GPT
from antimatter.model.loss import RareTokenBalance
from antimatter.training import numerics
from antimatter.training import optimizer as adamw
from antimatter.training.config import OptimizerConfig
from antimatter.training.step import Objective, accumulate_gradients, clip, update

COMMON = {
    "negative_slope": 0.01,
    "residual_scale": 1.0,
    "dropout": 0.0,
    "tied_embeddings": True,
    "seed": 1,
}
SHAPES = {
    "tiny": GPTConfig(n_layer=2, n_head=2, n_embd=64, block_size=64, vocab_size=512, **COMMON),
    "nano": GPTConfig(n_layer=6, n_head=4, n_embd=256, block_size=256, vocab_size=8192, **COMMON),
    "300m": GPTConfig(
        n_layer=24, n_head=16, n_embd=1024, block_size=2048, vocab_size=50257, **COMMON
    ),
}
OPTIMIZER = OptimizerConfig(
    learning_rate=1e-3,
    embedding_rate=1.0,
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.1,
    grad_clip=1.0,
)
WARM_UP = 6
Step = Callable[[], None]
Contenders = dict[str, tuple[Callable[..., Step], torch.dtype]]


def ours(
    config: GPTConfig,
    batch: Batch,
    micro_batch: int,
    precision: numerics.Precision = "bf16",
    lever: str = "",
) -> Step:
    """A step as the Trainer makes it.

    Args:
        lever: the one thing to change; empty: nothing.
    """
    if lever != "memory given back":
        numerics.tune_malloc()
    if lever != "without determinism":
        numerics.set_deterministic(torch.get_num_threads())
    if lever == "SDPA's attention":
        gpt.SHORT = 0
    if lever == "vocabulary not padded":
        loss.ALIGNED = 1
    device = batch[0].device
    model = GPT(config).to(device)
    optimizer = adamw.build(model, OPTIMIZER)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    # The Trainer compiles on a GPU
    compile = lever != "eager" if device.type == "cuda" else lever == "torch.compile"
    objective = Objective(model, compile=compile)
    if lever == "whole logits":
        objective.forward = lambda inputs, targets, *_: plain_loss(objective, inputs, targets)  # type: ignore[method-assign]
    balance = None
    if lever == "rare-token balance":
        settings = LossConfig(rare_token_power=0.5, rare_token_limit=3.0, rare_token_decay=0.99)
        balance = RareTokenBalance(settings, torch.arange(1, config.vocab_size + 1))

    def step() -> None:
        gradient = accumulate_gradients(objective, batch, micro_batch, precision, scaler, balance)
        norm = clip(model, optimizer, scaler, OPTIMIZER.grad_clip)
        torch.stack([gradient.loss, norm]).tolist()  # the only wait for the device
        update(optimizer, scaler)

    return step


def plain_loss(
    objective: Objective, inputs: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = objective.model.head(objective.hidden(inputs)).flatten(0, 1).float()
    losses = F.cross_entropy(logits, targets.flatten(), reduction="none").view_as(targets)
    return losses.mean(), losses.detach()


def nanogpt(
    config: GPTConfig,
    batch: Batch,
    micro_batch: int,
    path: Path,
    precision: numerics.Precision,
    compile: bool,
    keep: bool = False,
) -> Step:
    """A step of nanoGPT's train.py around its own model."""
    if keep:
        numerics.tune_malloc()
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec and spec.loader, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    device = batch[0].device
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    shape = {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "block_size": config.block_size,
        "vocab_size": -(-config.vocab_size // 64) * 64,
    }
    raw = module.GPT(module.GPTConfig(**shape, dropout=0.0, bias=False)).to(device)
    optimizer = raw.configure_optimizers(0.1, 1e-3, (0.9, 0.95), device.type)
    model = torch.compile(raw) if compile else raw
    parts = list(zip(batch[0].split(micro_batch), batch[1].split(micro_batch), strict=True))

    def step() -> None:
        for inputs, targets in parts:
            with numerics.autocast(device, precision):
                _, mean = model(inputs, targets)
            (mean / len(parts)).backward()
        torch.nn.utils.clip_grad_norm_(raw.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean.item()

    return step


def contender(
    pipe: Connection,
    make: Callable[..., Step],
    shape: str,
    device_name: str,
    batch_size: int,
    micro_batch: int,
    threads: int,
    dtype: torch.dtype,
) -> None:
    """The process of a contender. It makes a step for each message and answers with its seconds."""
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    config = SHAPES[shape]
    random = torch.Generator().manual_seed(0)
    both = torch.randint(config.vocab_size, (2, batch_size, config.block_size), generator=random)
    batch = Batch(*both.to(device))
    is_gpu = device.type == "cuda"
    wait = torch.cuda.synchronize if is_gpu else lambda: None
    pipe.send(peak_flops(torch.cuda.get_device_name(device)) if is_gpu else product(dtype))
    step = make(config, batch, micro_batch)
    while pipe.recv():
        wait()
        begin = time.perf_counter()
        step()
        wait()
        pipe.send(time.perf_counter() - begin)
    if is_gpu:
        pipe.send(torch.cuda.max_memory_allocated())
    else:
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def product(dtype: torch.dtype, n: int = 2048) -> float:
    """FLOP/s of a plain matrix product: the best of ten."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - begin)
    return 2 * n**3 / min(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--nanogpt", type=Path, help="nanoGPT's model.py, from https://github.com/karpathy/nanoGPT"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=SHAPES, help="default: nano on a CPU, 300m on a GPU")
    parser.add_argument("--batch", type=int, default=16, help="sequences in a step")
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--levers", action="store_true")
    arguments = parser.parse_args()
    is_gpu = arguments.device == "cuda"
    shape = arguments.shape or ("300m" if is_gpu else "nano")
    contenders = choose(arguments.nanogpt, arguments.levers, is_gpu)
    if is_gpu and len(contenders) > 2:
        # One GPU does not hold all of them at a time
        for name in list(contenders)[1:]:
            pair = {"antimatter": contenders["antimatter"], name: contenders[name]}
            race(pair, shape, arguments)
    else:
        race(contenders, shape, arguments)


def choose(path: Path | None, levers: bool, is_gpu: bool) -> Contenders:
    """The steps to compare, by name. Each with the type of its matrix products.

    Args:
        path: nanoGPT's model.py.
    """
    bf16, fp32 = torch.bfloat16, torch.float32
    contenders: Contenders = {"antimatter": (ours, bf16)}
    if path:
        peer = partial(nanogpt, path=path, precision="bf16" if is_gpu else "fp32", compile=is_gpu)
        contenders["nanoGPT"] = (peer, bf16 if is_gpu else fp32)
        if not is_gpu:
            contenders["nanoGPT, malloc tuned"] = (partial(peer, keep=True), fp32)
    if levers:
        names = ["whole logits", "rare-token balance", "without determinism"]
        if is_gpu:
            names += ["eager", "vocabulary not padded"]
        else:
            names += ["memory given back", "SDPA's attention", "torch.compile"]
        contenders |= {name: (partial(ours, lever=name), bf16) for name in names}
        contenders["float32"] = (partial(ours, precision="fp32"), fp32)
        # Most CPUs emulate fp16, a thousand times slower
        if is_gpu:
            contenders["fp16"] = (partial(ours, precision="fp16"), torch.float16)
    return contenders


def race(contenders: Contenders, shape: str, arguments: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    peaks: dict[str, float | None] = {}
    for name, (make, dtype) in contenders.items():
        pipes[name], theirs = context.Pipe()
        sizes = (arguments.batch, arguments.micro_batch, arguments.threads)
        values = (theirs, make, shape, arguments.device, *sizes, dtype)
        context.Process(target=contender, args=values, daemon=True).start()
        theirs.close()
        peaks[name] = pipes[name].recv()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(WARM_UP + arguments.rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds[name].append(pipe.recv())
    memory = {}
    for name, pipe in pipes.items():
        pipe.send(False)
        memory[name] = pipe.recv()
    report(shape, arguments.batch, seconds, peaks, memory)


def report(
    shape: str,
    batch_size: int,
    seconds: dict[str, list[float]],
    peaks: dict[str, float | None],
    memory: dict[str, int],
) -> None:
    config = SHAPES[shape]
    tokens = batch_size * config.block_size
    print(
        f"{'':24}{'ms a step':>10}{'tokens/s':>10}{'of peak':>9}{'peak GFLOP/s':>14}{'memory':>10}"
        f"{'first':>8}   antimatter is faster by"
    )
    ours = seconds["antimatter"][WARM_UP:]
    for name, times in seconds.items():
        theirs, peak = times[WARM_UP:], peaks[name]
        median = statistics.median(theirs)
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        share = tokens / median * flops_per_token(config) / peak if peak else float("nan")
        print(
            f"{name:24}{1e3 * median:10.1f}{tokens / median:10,.0f}{share:9.0%}"
            f"{(peak or 0) / 1e9:14,.0f}{memory[name] / 1e9:7.2f} GB{times[0]:7.1f}s{ratio:10.2f} x"
        )


if __name__ == "__main__":
    main()
