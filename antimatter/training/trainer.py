"""train(): the loop, from initial weights to trained ones. The same parameters give the same bytes, interrupted or not."""

import math
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from antimatter.data.batches import (
    Ahead,
    Batch,
    Batches,
    Emphasis,
    RowBatches,
    Steps,
    in_order,
    rows_in_order,
)
from antimatter.model.config import Sampling
from antimatter.model.flops import flops_per_token, peak_flops
from antimatter.model.gpt import GPT
from antimatter.model.loss import RareTokenBalance, sum_losses
from antimatter.model.sampling import generate
from antimatter.training import numerics
from antimatter.training import optimizer as adamw
from antimatter.training.checkpoint import Checkpoints
from antimatter.training.config import Precision, Recipe
from antimatter.training.distributed import ALONE, Ranks
from antimatter.training.log import Curves, Progress
from antimatter.training.numerics import autocast, native_precision
from antimatter.training.schedule import rate_factor
from antimatter.training.spikes import is_spike
from antimatter.training.step import Gradient, Objective, accumulate_gradients, clip, update

PROMPT = 16  # tokens of the validation split that a sample continues
SAMPLING = Sampling(temperature=0.8, top_k=40, top_p=1.0, max_new_tokens=48)
SAMPLE_EVERY = 5  # validations
# Of fp16. What overflows even there is no matter of scaling: the run has diverged (Megatron-LM
# stops
# there too)
LEAST_LOSS_SCALE = 1.0


@dataclass
class State:
    """Where a run stands. Together with weights, optimizer, scaler and curves, all that the next step depends on."""

    step: int = 0  # steps done
    rate_scale: float = 1.0  # falls at each backtrack
    backtracks: int = 0
    # Step of the state that the last backtrack took: stable, though few healthy steps may follow it
    # by now
    went_back_to: int = 0
    losses: list[float] = field(default_factory=list)  # the latest, oldest first


@dataclass(frozen=True)
class Result:
    """Of a run up to its latest validation."""

    steps: int
    tokens: int
    # Mean of the last spikes.window steps, nats per token; None before the first step
    train_loss: float | None
    validation_loss: float  # at the training precision, on the first validation_tokens
    backtracks: int


class TrainingDiverged(ValueError):
    """Spike after spike: the run cannot be saved by a lower rate."""


@dataclass(frozen=True)
class Data:
    """What is read, besides the parameters: documents one after the other."""

    train: Sequence[np.ndarray]  # token arrays, as Shards.split() gives them
    validation: Sequence[np.ndarray]
    counts: np.ndarray  # of each token in train, (V,)
    decode: Callable[[Sequence[int]], str]  # for samples
    end: int = field(default=-1, kw_only=True)  # the token that ends a sample; -1: none

    def batches(self, size: int, block_size: int, seed: int, ranks: Ranks) -> Steps:
        order = {"batch_size": size, "block_size": block_size, "seed": seed}
        return Batches(self.train, **order, rank=ranks.rank, world=ranks.world)

    def held_out(self, size: int, block_size: int, tokens: int) -> Iterator[Batch]:
        """About that many tokens to validate on, `size` windows at a time."""
        return in_order(self.validation, batch_size=size, block_size=block_size, tokens=tokens)

    def prompt(self, block_size: int) -> list[int]:
        """Token ids that a sample continues."""
        return self.validation[0][:PROMPT].astype(int).tolist()[: block_size - 1]


@dataclass(frozen=True)
class PackedData(Data):
    """Conversations packed in rows, with masks of the tokens that are learnt."""

    train: np.ndarray  # type: ignore[assignment]  # (R, T + 1)
    validation: np.ndarray  # type: ignore[assignment]
    train_marks: np.ndarray
    validation_marks: np.ndarray
    question: list[int]  # a prompt for samples
    emphasis: Emphasis

    def batches(self, size: int, block_size: int, seed: int, ranks: Ranks) -> Steps:
        return RowBatches(
            self.train,
            self.train_marks,
            batch_size=size,
            seed=seed,
            emphasis=self.emphasis,
            rank=ranks.rank,
            world=ranks.world,
        )

    def held_out(self, size: int, block_size: int, tokens: int) -> Iterator[Batch]:
        rows = max(1, tokens // block_size)
        return rows_in_order(self.validation[:rows], self.validation_marks[:rows], batch_size=size)

    def prompt(self, block_size: int) -> list[int]:
        return self.question[: block_size - 1]


@dataclass(frozen=True)
class Places:
    """Where a run writes while it goes on."""

    saved: Path  # the folder of the states to resume from
    curves: Curves
    live: Path | None = None  # the latest figures, for `antimatter watch`
    # Called at each validation: `dvc metrics show` works meanwhile
    report: Callable[[Result], None] = lambda result: None


def train(model: GPT, data: Data, recipe: Recipe, places: Places, ranks: Ranks = ALONE) -> Result:
    """Trains `model` in place, going on from the newest saved state if there is one. Each rank calls it with the same arguments.

    Raises:
        InterruptedError: SIGTERM or SIGINT came; the state is saved and the next call goes on from it.
        TrainingDiverged: more loss spikes than recipe.spikes.max_backtracks.
        ValueError, OSError: a recipe that cannot run here; a disk that is full.
    """
    config, micro_batch = recipe.training, recipe.micro_batch(ranks.world)
    device = (
        torch.device("cpu")
        if recipe.runtime.device_type() == "cpu"
        else torch.device("cuda", ranks.local)
    )
    precision = native_precision(device, config.precision)
    numerics.pin(config.threads)
    numerics.keep_memory()
    model.to(device).train().requires_grad_(True)
    optimizer = adamw.build(model, recipe.optimizer)
    scaler = _scaler(device, precision)
    balance = (
        RareTokenBalance(recipe.loss, torch.from_numpy(data.counts.astype(np.int64)))
        if recipe.loss.rare_token_power
        else None
    )
    checkpoints, curves = (
        Checkpoints(places.saved, config.save_every, recipe.runtime.keep_states),
        places.curves,
    )
    objective = Objective(model, config.compile)
    parallel = (
        DistributedDataParallel(objective, gradient_as_bucket_view=True)
        if ranks.world > 1
        else objective
    )
    state = State()
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    progress = Progress(
        total=config.steps,
        tokens_per_step=config.batch_size * model.config.block_size,
        live=places.live,
        speeds=curves.throughput,
        flops_per_token=flops_per_token(model.config),
        peak=peak and peak * ranks.world,
        memory=lambda: _peak_memory(device),
        quiet=not ranks.first,
    )

    def save() -> None:
        if ranks.first:
            parts = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
            }
            balances = None if balance is None else balance.averages
            checkpoints.save(
                state.step,
                {**parts, "balance": balances, "state": asdict(state), "curves": curves.snapshot()},
            )

    def restore(step: int) -> State:
        nonlocal scaler
        parts = checkpoints.load(step)
        model.load_state_dict(parts["model"])
        optimizer.load_state_dict(parts["optimizer"])
        # A new one: after a spike the old one still holds that this step's gradient was unscaled,
        # and load_state_dict() does not reset it
        scaler = _scaler(device, precision)
        if parts["scaler"]:  # none in a state of a device that computes in another precision
            scaler.load_state_dict(parts["scaler"])
        if balance is not None:
            balance.averages = parts["balance"].clone()
        curves.restore(parts["curves"])
        return State(**parts["state"])

    def new_batches() -> Ahead:
        """After a backtrack in another order: the same batches would bring the same spike."""
        seed = config.seed + state.backtracks
        return Ahead(data.batches(config.batch_size, model.config.block_size, seed, ranks), device)

    def validate() -> Result:
        windows = data.held_out(micro_batch, model.config.block_size, config.validation_tokens)
        with progress.pause(), autocast(device, precision):
            sums, counts = sum_losses(
                model, (pair for i, pair in enumerate(windows) if i % ranks.world == ranks.rank)
            )
            total, number = ranks.sum(torch.stack([sums.sum(), counts.sum()]).to(device)).tolist()
        curves.validation.add(state.step, total / number)
        recent = state.losses[-recipe.spikes.window :]
        result = Result(
            steps=state.step,
            tokens=state.step * config.batch_size * model.config.block_size,
            train_loss=sum(recent) / len(recent) if recent else None,
            validation_loss=total / number,
            backtracks=state.backtracks,
        )
        if ranks.first:
            places.report(result)
        return result

    def sample() -> None:
        prompt = data.prompt(model.config.block_size)
        with progress.pause():
            ids = generate(
                model.eval(),
                prompt,
                1,
                SAMPLING,
                end=data.end,
                generator=torch.Generator().manual_seed(config.seed),
            )[0]
            model.train()
            progress.sample(state.step, f"{data.decode(prompt)} ... {data.decode(ids)}")

    def backtrack(loss: float, rate: float) -> State:
        """The last stable state, from which the run goes on more slowly. What the failed run has learnt about itself survives the reload, or the next
        backtrack would halve nothing.
        """
        back_to = ranks.agree(
            lambda: checkpoints.newest_stable(state.step, recipe.spikes.window, state.went_back_to)
        )
        if state.backtracks == recipe.spikes.max_backtracks or back_to is None:
            progress.end("diverged")
            raise TrainingDiverged(
                f"training diverged: loss {loss:.4g} at step {state.step + 1} after {state.backtracks} backtracks, learning rate "
                f"{rate:.3g}; lower optimizer.learning_rate ({recipe.optimizer.learning_rate}) or lengthen schedule.warmup_steps"
            )
        slower = state.rate_scale * recipe.spikes.rate_factor
        curves.backtracks.add(state.step + 1, loss, back_to, slower)
        story = curves.backtracks.snapshot()
        progress.note(
            f"loss spike {loss:.3f} at step {state.step + 1}: back to step {back_to}, learning rate x {slower:g}"
        )
        optimizer.zero_grad(set_to_none=True)
        stable = restore(back_to)
        curves.backtracks.restore(story)
        ranks.wait()  # all have read what is about to change
        if ranks.first:
            checkpoints.drop_after(back_to)
        return replace(
            stable, rate_scale=slower, backtracks=state.backtracks + 1, went_back_to=back_to
        )

    found = ranks.agree(checkpoints.newest)
    if precision != config.precision:
        progress.note(
            f"this device has no {config.precision} arithmetic: computing in {precision}, the curve will agree to about 1%"
        )
    if found is not None:
        state = restore(found)
        progress.note(f"going on from step {state.step:,} of {config.steps:,}")
    else:
        validate()
        save()
    batches = new_batches()
    progress.begin(state.step)

    with _StopRequest() as stop:
        while state.step < config.steps:
            rate = (
                recipe.optimizer.learning_rate
                * state.rate_scale
                * rate_factor(state.step + 1, config.steps, recipe.schedule)
            )
            adamw.set_learning_rate(optimizer, rate)
            # Dropout, too, is a function of the step
            torch.manual_seed(config.seed + state.step + (ranks.rank << 32))
            gradient = accumulate_gradients(
                parallel, batches.at(state.step), micro_batch, precision, scaler, balance
            )
            norm = clip(model, optimizer, scaler, recipe.optimizer.grad_clip)
            seen = _agreed(ranks, gradient, norm, stop.requested)
            if is_spike(seen.loss, state.losses, recipe.spikes) or not (
                math.isfinite(seen.norm) or _can_rescale(scaler)
            ):
                state = backtrack(seen.loss, rate)
                save()
                ranks.wait()
                batches.close()
                batches = new_batches()
                progress.begin(state.step)
                continue
            update(optimizer, scaler)
            if balance is not None:
                balance.update(seen.bin_losses, seen.bin_counts)

            state.step += 1
            state.losses = [*state.losses, seen.loss][
                -max(recipe.spikes.window, config.log_every) :
            ]
            if state.step % config.log_every == 0:
                recent = state.losses[-config.log_every :]
                curves.training.add(state.step, sum(recent) / len(recent), rate, seen.norm)
            if state.step % config.validate_every == 0 and state.step < config.steps:
                validate()
                if ranks.first and state.step % (SAMPLE_EVERY * config.validate_every) == 0:
                    sample()
            progress.show(state.step, seen.loss, rate, seen.norm)
            if state.step % config.save_every == 0 or seen.stop:
                with progress.pause():
                    save()
                    if ranks.first:
                        checkpoints.rotate(state.step, recipe.spikes.window, state.went_back_to)
            if seen.stop and state.step < config.steps:
                progress.end("paused")
                ranks.wait()
                raise InterruptedError(
                    f"paused at step {state.step} of {config.steps}, nothing is lost: run again to go on"
                )

    batches.close()
    result = validate()
    progress.end("finished")
    return result


@dataclass(frozen=True)
class _Seen:
    """What all ranks know of a step before they make it."""

    loss: float  # mean over the global batch, nats per token
    norm: float  # of the gradient
    stop: bool  # somebody wants to pause
    bin_losses: torch.Tensor  # (F,) float64, on the CPU
    bin_counts: torch.Tensor


def _agreed(ranks: Ranks, gradient: Gradient, norm: torch.Tensor, stop: bool) -> _Seen:
    """One exchange between the ranks and one wait for the device a step: here."""
    head = torch.stack(
        [gradient.loss.double(), torch.tensor(float(stop), dtype=torch.float64, device=norm.device)]
    )
    own = torch.cat([head, gradient.bin_losses, gradient.bin_counts])
    # The norm is that of the mean gradient, the same on each rank
    values = torch.cat([ranks.sum(own), norm.double()[None]]).cpu()
    bins = (len(values) - 3) // 2
    return _Seen(
        float(values[0]) / ranks.world,
        float(values[-1]),
        float(values[1]) > 0,
        values[2 : 2 + bins],
        values[2 + bins : -1],
    )


def _scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def _can_rescale(scaler: torch.amp.GradScaler) -> bool:
    """Whether a gradient that is not finite may only be scaled too high: then the step is skipped,
    and the next has a lower scale.
    """
    return scaler.is_enabled() and scaler.get_scale() >= LEAST_LOSS_SCALE


def _peak_memory(device: torch.device) -> float:
    """The most that this process has held, in bytes: of the GPU's memory, or of main memory."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (
        1 if sys.platform == "darwin" else 1024
    )


class _StopRequest:
    """Turns SIGTERM and SIGINT into a wish: the step in hand is finished and saved. A second signal ends at once."""

    def __enter__(self) -> "_StopRequest":
        self.requested = False
        self._before = {}
        if threading.current_thread() is threading.main_thread():  # signals can be set nowhere else
            self._before = {
                number: signal.signal(number, self._request)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def _request(self, number: int, frame: object) -> None:
        self.requested = True
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
