"""A training step relative to nanoGPT's, and the effect of each optimisation: tokens/s, share of
the peak, memory.

    # Nano shape on this CPU; the 300M preset's shape on a GPU; one change at a time
    python benchmarks/train_step.py --nanogpt path/to/nanoGPT/model.py
    python benchmarks/train_step.py --nanogpt path/to/nanoGPT/model.py --device cuda
    python benchmarks/train_step.py --levers
    # Where the time of a step on this CPU goes
    python benchmarks/train_step.py --profile
    # The shape, micro-batch and precision of a preset
    python benchmarks/train_step.py --preset presets/300m.yaml --device cuda

Each contender has its own process, so that allocators and compilers do not affect each other. Only
one computes at a time: a round is a few steps of each, of which the first does not count. nanoGPT
runs its recipe: on a CPU float32 and eager, on a GPU bf16, torch.compile and its fused AdamW; with
the same shape, a tied head, and clipping at 1.0.

The step is forward, backward, clip and AdamW on a batch in memory. The peak is on a CPU that of a
product of two 2048 x 2048 matrices in the contender's type, measured in its process beforehand; on
a GPU the dense bf16 of the data sheet. FLOPs are those of antimatter/model/flops.py.
"""

import argparse
import importlib.util
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.nn import functional as F

from antimatter import params, threads
from antimatter.data.batches import Batch
from antimatter.model import gpt, loss
from antimatter.model.config import GPTConfig, LossConfig, ModelConfig
from antimatter.model.flops import flops_per_token, peak_flops
from antimatter.model.gpt import GPT
from antimatter.model.loss import RareTokenBalance
from antimatter.training import numerics
from antimatter.training import optimizer as adamw
from antimatter.training.config import OptimizerConfig, Precision
from antimatter.training.step import Objective, accumulate_gradients, clip, update

TINY = GPTConfig(
    n_layer=2,
    n_head=2,
    n_embd=64,
    block_size=64,
    vocab_size=512,
    negative_slope=0.01,
    residual_scale=1.0,
    dropout=0.0,
    tied_embeddings=True,
    seed=1,
)
SHAPES = {
    "tiny": TINY,
    "nano": replace(TINY, n_layer=6, n_head=4, n_embd=256, block_size=256, vocab_size=8192),
    "300m": replace(TINY, n_layer=24, n_head=16, n_embd=1024, block_size=2048, vocab_size=50257),
}
OPTIMIZER = OptimizerConfig(
    kind="adamw",
    learning_rate=1e-3,
    embedding_rate=1.0,
    beta1=0.9,
    beta2=0.95,
    momentum=0.95,
    epsilon=1e-8,
    weight_decay=0.1,
    grad_clip=1.0,
)
# Rounds that do not count, and the steps in a row that count in a round
WARM_UP, STEPS = 2, 3
LEVERS = {
    "cpu": [
        *("memory given back", "small pages", "threads that spin"),
        *("SDPA's attention", "torch.compile"),
    ],
    "cuda": ["eager", "vocabulary not padded"],
}
# The kinds of operations in --profile, by the end of their name in PyTorch; copies are casts and
# changes of the layout
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
    "softmax": ("_softmax", "_softmax_backward_data", "amax"),
    "casts and copies": ("copy_", "cat", "stack"),
    "norms": ("native_layer_norm", "native_layer_norm_backward"),
    "Leaky ReLU": ("leaky_relu", "leaky_relu_", "leaky_relu_backward"),
    "sums of gradients, residuals": ("sum", "add", "add_", "mul"),
}
# Those whose threads wait as libgomp does by default
LIBGOMPS_WAITING = ("nanoGPT", "nanoGPT, malloc tuned", "threads that spin")
Step = Callable[[], None]
Contenders = dict[str, tuple[Callable[..., Step], torch.dtype]]


def ours(
    config: GPTConfig,
    batch: Batch,
    micro_batch: int,
    precision: Precision = "bf16",
    lever: str = "",
) -> Step:
    """A step as the Trainer makes it.

    Args:
        lever: the one thing to change; empty: nothing.
    """
    if lever != "memory given back":
        numerics.keep_freed_memory()
    if lever not in ("memory given back", "small pages"):
        numerics.use_huge_pages()
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
    precision: Precision,
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
    config: GPTConfig,
    device_name: str,
    batch_size: int,
    micro_batch: int,
    threads: int,
    dtype: torch.dtype,
) -> None:
    """The process of a contender. It makes some steps for each message and answers with the seconds
    of one.
    """
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    batch = random_batch(config, batch_size, device)
    is_gpu = device.type == "cuda"
    wait: Callable[[], None] = torch.cuda.synchronize if is_gpu else lambda: None
    pipe.send(peak_flops(torch.cuda.get_device_name(device)) if is_gpu else product(dtype))
    step = make(config, batch, micro_batch)
    while pipe.recv():
        # It finds the caches of another process
        step()
        wait()
        begin = time.perf_counter()
        for _ in range(STEPS):
            step()
        wait()
        pipe.send((time.perf_counter() - begin) / STEPS)
    if is_gpu:
        pipe.send(torch.cuda.max_memory_allocated())
    else:
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def random_batch(config: GPTConfig, size: int, device: torch.device) -> Batch:
    random = torch.Generator().manual_seed(0)
    both = torch.randint(config.vocab_size, (2, size, config.block_size), generator=random)
    return Batch(*both.to(device))


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
    parser.add_argument("--preset", type=Path, help="a params.yaml, in place of --shape")
    parser.add_argument("--batch", type=int, help="sequences in a step; default: 16")
    parser.add_argument("--micro-batch", type=int, help="default: 16")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--levers", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    device = arguments.device
    shape = arguments.shape or ("300m" if device == "cuda" else "nano")
    config, batch_size, micro_batch = SHAPES[shape], 16, 16
    contenders = choose(arguments.nanogpt, arguments.levers, device)
    if arguments.preset:
        config, batch_size, micro_batch, contenders = of_preset(arguments.preset, device)
    arguments.batch = arguments.batch or batch_size
    arguments.micro_batch = arguments.micro_batch or micro_batch
    if arguments.profile:
        profile(config, arguments)
    elif device == "cuda" and len(contenders) > 2:
        # One GPU does not hold all of them at a time
        for name in list(contenders)[1:]:
            pair = {"antimatter": contenders["antimatter"], name: contenders[name]}
            race(pair, config, arguments)
    else:
        race(contenders, config, arguments)


def of_preset(path: Path, device: str) -> tuple[GPTConfig, int, int, Contenders]:
    """Shape, batch, micro-batch and way to compute of a params.yaml.

    The batch is four micro-batches at most, so that a step takes seconds.
    """
    values = params.load(path)
    model = params.read(ModelConfig, "model", path)
    config = GPTConfig(**asdict(model), vocab_size=values["tokenizer"]["vocab_size"])
    training, micro_batch = values["checkpoints"], values["runtime"]["micro_batch"]
    precision = numerics.native_precision(torch.device(device), training["precision"])
    lever = ""
    if training["compile"] != (device == "cuda"):
        lever = "torch.compile" if training["compile"] else "eager"
    step = partial(ours, precision=precision, lever=lever)
    dtype = numerics.DTYPES.get(precision, torch.float32)
    batch_size = min(training["batch_size"], 4 * micro_batch)
    return config, batch_size, micro_batch, {"antimatter": (step, dtype)}


def choose(path: Path | None, levers: list[str] | None, device: str) -> Contenders:
    """The steps to compare, by name. Each with the type of its matrix products.

    Args:
        path: nanoGPT's model.py.
        levers: the names of those to measure; empty: all; None: none.
    """
    is_gpu = device == "cuda"
    bf16, fp32 = torch.bfloat16, torch.float32
    contenders: Contenders = {"antimatter": (ours, bf16)}
    if path:
        peer = partial(nanogpt, path=path, precision="bf16" if is_gpu else "fp32", compile=is_gpu)
        contenders["nanoGPT"] = (peer, bf16 if is_gpu else fp32)
        if not is_gpu:
            contenders["nanoGPT, malloc tuned"] = (partial(peer, keep=True), fp32)
    if levers is None:
        return contenders
    names = ["whole logits", "rare-token balance", "without determinism", *LEVERS[device]]
    known: Contenders = {name: (partial(ours, lever=name), bf16) for name in names}
    known["float32"] = (partial(ours, precision="fp32"), fp32)
    # Most CPUs emulate fp16, a thousand times slower
    if is_gpu:
        known["fp16"] = (partial(ours, precision="fp16"), torch.float16)
    if unknown := set(levers) - set(known):
        sys.exit(f"--levers: no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return contenders | {name: known[name] for name in levers or known}


def race(contenders: Contenders, config: GPTConfig, arguments: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    peaks: dict[str, float | None] = {}
    for name, (make, dtype) in contenders.items():
        pipes[name], theirs = context.Pipe()
        sizes = (arguments.batch, arguments.micro_batch, arguments.threads)
        values = (theirs, make, config, arguments.device, *sizes, dtype)
        # A stage sets how its threads wait before it imports torch
        if name in LIBGOMPS_WAITING:
            os.environ.pop(threads.VARIABLE, None)
        else:
            os.environ[threads.VARIABLE] = threads.SPINS
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
    report(config, arguments.batch, seconds, peaks, memory)


def report(
    config: GPTConfig,
    batch_size: int,
    seconds: dict[str, list[float]],
    peaks: dict[str, float | None],
    memory: dict[str, int],
) -> None:
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


def profile(config: GPTConfig, arguments: argparse.Namespace) -> None:
    """Prints the milliseconds of a step by kind of operation, on a CPU."""
    torch.set_num_threads(arguments.threads)
    peak, rounds = product(torch.bfloat16), arguments.rounds
    batch = random_batch(config, arguments.batch, torch.device("cpu"))
    step = ours(config, batch, arguments.micro_batch)
    for _ in range(WARM_UP):
        step()
    with torch.profiler.profile() as profiler:
        for _ in range(rounds):
            step()
    spent: Counter[str] = Counter()
    for event in profiler.events():
        spent[kind(event)] += event.self_cpu_time_total / 1e3 / rounds
    total = sum(spent.values())
    for name, milliseconds in spent.most_common():
        print(f"{name:40}{milliseconds:9.1f} ms{milliseconds / total:7.1%}")
    flops = batch.inputs.numel() * flops_per_token(config)
    products = sum(time for name, time in spent.items() if "matrix products" in name)
    print(f"{'total':40}{total:9.1f} ms, with the overhead of the profiler")
    print(
        f"matrix products {products / total:.0%} of it, at {flops / products / 1e6:,.0f} GFLOP/s; "
        f"a plain one {peak / 1e9:,.0f}"
    )


def kind(event: FunctionEvent) -> str:
    """What an operation belongs to."""
    names: list[str] = []
    outer: FunctionEvent | None = event
    while outer is not None:
        names.append(outer.name)
        outer = outer.cpu_parent
    if any("Optimizer" in name or "_foreach" in name for name in names):
        return "optimizer and clipping"
    operation = event.name.removeprefix("aten::")
    found = next((kind for kind, members in KINDS.items() if operation in members), "other")
    is_head = any("_HeadAndLoss" in name for name in names)
    return f"head and loss: {found}" if is_head else found


if __name__ == "__main__":
    main()
