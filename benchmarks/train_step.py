"""A training step against nanoGPT's, and what each lever of ours is worth: tokens/s, share of the peak, memory. Steps interleaved in one run.

    python benchmarks/train_step.py --nanogpt path/to/nanoGPT/model.py                     # nano shape on this CPU
    python benchmarks/train_step.py --nanogpt path/to/nanoGPT/model.py --device cuda       # the 300M preset's shape on a GPU
    python benchmarks/train_step.py --levers                                               # each lever switched, against all as they are

Each contender has a process of its own, so that one's allocator and compiler are not another's, and only one computes at a time: a round is one step
of each. nanoGPT runs its recipe: on a CPU float32 and eager, on a GPU bf16, torch.compile and its fused AdamW; same shape, tied head, clip at 1.0.
The step is forward, backward, clip and AdamW on a batch that is at hand. Peak: on a CPU a product of two 2048 x 2048 matrices in the contender's own
type, measured beforehand in its process; on a GPU the data sheet's dense bf16. FLOPs as in antimatter/model/flops.py, for both.
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

COMMON = {"negative_slope": 0.01, "dropout": 0.0, "tied_embeddings": True, "seed": 1}
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


def ours(
    config: GPTConfig,
    batch: Batch,
    micro_batch: int,
    precision: numerics.Precision = "bf16",
    lever: str = "",
) -> Step:
    """A step as trainer.train() makes it, with one lever switched."""
    if lever != "memory given back":
        numerics.keep_memory()
    if lever != "without determinism":
        numerics.pin(torch.get_num_threads())
    if lever == "SDPA's attention":
        gpt.SHORT = 0
    if lever == "vocabulary not padded":
        loss.ALIGNED = 1
    device = batch[0].device
    model = GPT(config).to(device)
    optimizer = adamw.build(model, OPTIMIZER)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    objective = Objective(
        model, compile=(lever == "torch.compile") != (device.type == "cuda" and lever != "eager")
    )
    if lever == "whole logits":
        objective.forward = lambda inputs, targets, weights: plain_loss(objective, inputs, targets)  # type: ignore[method-assign]
    balance = RareTokenBalance(
        LossConfig(rare_token_power=0.5, rare_token_limit=3.0, rare_token_decay=0.99),
        torch.arange(1, config.vocab_size + 1),
    )

    def step() -> None:
        seen = accumulate_gradients(
            objective,
            batch,
            micro_batch,
            precision,
            scaler,
            balance if lever == "rare-token balance" else None,
        )
        norm = clip(model, optimizer, scaler, OPTIMIZER.grad_clip)
        torch.stack([seen.loss, norm]).tolist()  # the one wait for the device
        update(optimizer, scaler)

    return step


def plain_loss(
    objective: Objective, inputs: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = objective.model.head(objective.hidden(inputs))
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="none"
    ).view_as(targets)
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
        numerics.keep_memory()
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
    }
    raw = module.GPT(
        module.GPTConfig(
            **shape, vocab_size=-(-config.vocab_size // 64) * 64, dropout=0.0, bias=False
        )
    ).to(device)
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
    """A process that makes a step when it is told to, and answers with the seconds."""
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    config = SHAPES[shape]
    random = torch.Generator().manual_seed(0)
    both = torch.randint(config.vocab_size, (2, batch_size, config.block_size), generator=random)
    batch = Batch(*both.to(device))
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    pipe.send(
        peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else product(dtype)
    )
    step = make(config, (batch[0], batch[1]), micro_batch)
    while pipe.recv():
        wait()
        begin = time.perf_counter()
        step()
        wait()
        pipe.send(time.perf_counter() - begin)
    pipe.send(
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )


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
    given = parser.parse_args()
    shape, gpu = (
        given.shape or ("300m" if given.device == "cuda" else "nano"),
        given.device == "cuda",
    )
    bf16, fp32 = torch.bfloat16, torch.float32
    contenders: dict[str, tuple[Callable[..., Step], torch.dtype]] = {"antimatter": (ours, bf16)}
    if given.nanogpt:
        peer = partial(
            nanogpt, path=given.nanogpt, precision="bf16" if gpu else "fp32", compile=gpu
        )
        contenders["nanoGPT"] = (peer, bf16 if gpu else fp32)
        if not gpu:
            contenders["nanoGPT, memory kept"] = (partial(peer, keep=True), fp32)
    if given.levers:
        names = ["whole logits", "rare-token balance", "without determinism"]
        names += (
            ["eager", "vocabulary not padded"]
            if gpu
            else ["memory given back", "SDPA's attention", "torch.compile"]
        )
        contenders |= {name: (partial(ours, lever=name), bf16) for name in names}
        contenders["float32"] = (partial(ours, precision="fp32"), fp32)
        if gpu:  # most CPUs emulate it, a thousand times slower
            contenders["fp16"] = (partial(ours, precision="fp16"), torch.float16)
    if gpu and len(contenders) > 2:  # not all of them fit one GPU at a time
        for name in list(contenders)[1:]:
            race({"antimatter": contenders["antimatter"], name: contenders[name]}, shape, given)
    else:
        race(contenders, shape, given)


def race(
    contenders: dict[str, tuple[Callable[..., Step], torch.dtype]],
    shape: str,
    given: argparse.Namespace,
) -> None:
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    peaks: dict[str, float] = {}
    for name, (make, dtype) in contenders.items():
        pipes[name], theirs = context.Pipe()
        arguments = (
            theirs,
            make,
            shape,
            given.device,
            given.batch,
            given.micro_batch,
            given.threads,
            dtype,
        )
        context.Process(target=contender, args=arguments, daemon=True).start()
        theirs.close()
        peaks[name] = pipes[name].recv()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(WARM_UP + given.rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds[name].append(pipe.recv())
    config = SHAPES[shape]
    tokens = given.batch * config.block_size
    print(
        f"{'':24}{'ms a step':>10}{'tokens/s':>10}{'of peak':>9}{'peak GFLOP/s':>14}{'memory':>10}{'first':>8}   antimatter is faster by"
    )
    for name, pipe in pipes.items():
        pipe.send(False)
        memory = pipe.recv()
        median = statistics.median(seconds[name][WARM_UP:])
        ratio = statistics.median(
            theirs / mine
            for mine, theirs in zip(
                seconds["antimatter"][WARM_UP:], seconds[name][WARM_UP:], strict=True
            )
        )
        share = (
            tokens / median * flops_per_token(config) / peaks[name] if peaks[name] else float("nan")
        )
        print(
            f"{name:24}{1e3 * median:10.1f}{tokens / median:10,.0f}{share:9.0%}{(peaks[name] or 0) / 1e9:14,.0f}{memory / 1e9:7.2f} GB"
            f"{seconds[name][0]:7.1f}s{ratio:10.2f} x"
        )


if __name__ == "__main__":
    main()
