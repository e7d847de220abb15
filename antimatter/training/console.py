"""The observer of a training on the console: one progress line, samples, and a file with the
latest figures for `antimatter watch`.

Tokens per second count training alone. Validation, saving, samples and a process's first step,
which may compile, are left out.
"""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch

from antimatter import files
from antimatter.model.config import Sampling
from antimatter.model.flops import flops_per_token, peak_flops
from antimatter.model.gpt import GPT
from antimatter.model.sampling import generate
from antimatter.progress import StatusLine
from antimatter.text import clock
from antimatter.training.config import TrainerConfig
from antimatter.training.curves import CSVLogger
from antimatter.training.data import TextData
from antimatter.training.distributed import ProcessGroup
from antimatter.training.observer import Observer, Progress

SAMPLING = Sampling(temperature=0.8, top_k=40, top_p=1.0, max_new_tokens=48)
# Validations between two samples
SAMPLE_EVERY = 5
# Rows of throughput.csv: each is a mean over enough steps to average out the noise of single ones
ROWS = 200
# Seconds between two lines in a log, and between two writes of the live file
LOG_SECONDS, LIVE_SECONDS = 10.0, 2.0


class Console(Observer):
    """Reports the training of the main process; the other processes have no observer.

    Args:
        live: a JSON file that always has the latest figures.
        throughput: receives rows of (step, tokens per second since the previous row).
        stream: None is stderr.
    """

    def __init__(
        self,
        model: GPT,
        data: TextData,
        config: TrainerConfig,
        group: ProcessGroup,
        *,
        live: Path | None = None,
        throughput: CSVLogger | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self.model, self.data, self.live, self.throughput = model, data, live, throughput
        self.steps, self.seed = config.training.steps, config.training.seed
        self.sample_every = SAMPLE_EVERY * config.training.validate_every
        self.tokens_per_step = config.training.batch_size * model.config.block_size
        self.flops_per_token = flops_per_token(model.config)
        self.device = config.runtime.device_type()
        # Peak FLOP/s of all devices; None if unknown, and then no MFU is shown
        self.peak: float | None = None
        if self.device == "cuda" and (peak := peak_flops(torch.cuda.get_device_name())):
            self.peak = peak * group.size
        self.row_every = max(1, self.steps // ROWS)
        self.line = StatusLine(LOG_SECONDS, stream)
        self.live_written = -float("inf")
        self.figures: dict[str, Any] = {
            "state": "training",
            "step": 0,
            "steps": self.steps,
            "sample": None,
        }
        self.on_start(0)

    def on_start(self, step: int) -> None:
        # The first step of a process may compile, so time counts from its end
        self.is_first, self.first, self.paused = True, step, 0.0
        self.started = self.row_time = time.monotonic()
        self.row_step = step
        self.figures["step"] = step
        self._write_live(force=True)

    @contextmanager
    def pause(self) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.paused += time.monotonic() - begin

    def on_step(self, progress: Progress) -> None:
        step = progress.step
        self._measure(step)
        if not (self.line.is_due() or step == self.steps):
            return
        now = time.monotonic()
        speed, memory = self.tokens_per_second(step), self._peak_memory() / 1e9
        seconds_left = (self.steps - step) * (now - self.started) / max(step - self.first, 1)
        mfu = speed * self.flops_per_token / self.peak if self.peak else None
        self.figures |= {
            "step": step,
            "loss": progress.loss,
            "learning_rate": progress.learning_rate,
            "gradient_norm": progress.gradient_norm,
            "tokens_per_second": round(speed),
            "mfu": mfu,
            "memory_gb": round(memory, 3),
            "seconds_left": round(seconds_left),
        }
        self._write_live()
        utilisation = f"  MFU {mfu:.0%}" if mfu else ""
        text = (
            f"step {step:>6,}/{self.steps:,}  loss {progress.loss:6.3f}  "
            f"rate {progress.learning_rate:.2e}  norm {progress.gradient_norm:5.2f}  "
            f"{speed:>9,.0f} tokens/s{utilisation}  {memory:.1f} GB  {clock(seconds_left)} left"
        )
        if step == self.steps:
            self.line.log(text)
        else:
            self.line.show(text)

    def on_validation(self, step: int) -> None:
        if step and step < self.steps and step % self.sample_every == 0:
            with self.pause():
                self._sample(step)

    def on_end(self, outcome: str) -> None:
        self.line.close()
        self.figures["state"] = outcome
        self._write_live(force=True)

    def log(self, text: str) -> None:
        self.line.log(text)

    def tokens_per_second(self, step: int) -> float:
        """The mean since the first step after on_start(), without pauses."""
        seconds = time.monotonic() - self.started - self.paused
        return (step - self.first) * self.tokens_per_step / max(seconds, 1e-9)

    def _measure(self, step: int) -> None:
        now = time.monotonic()
        if self.is_first:
            self.is_first, self.first, self.started, self.paused = False, step, now, 0.0
            self.row_step, self.row_time = step, now
        elif self.throughput is not None and step % self.row_every == 0:
            # On a clock that stops in pauses
            trained = now - self.paused
            tokens = (step - self.row_step) * self.tokens_per_step
            self.throughput.add(step, tokens / max(trained - self.row_time, 1e-9))
            self.row_step, self.row_time = step, trained

    def _sample(self, step: int) -> None:
        prompt = self.data.prompt(self.model.config.block_size)
        generator = torch.Generator().manual_seed(self.seed)
        self.model.eval()
        ids = generate(self.model, prompt, 1, SAMPLING, self.data.end, generator)[0]
        self.model.train()
        text = f"{self.data.decode(prompt)} ... {self.data.decode(ids)}"
        self.figures["sample"] = text
        self.log(f"sample at step {step:,}: {' '.join(text.split())}")

    def _peak_memory(self) -> float:
        """The most bytes that this process has held: of GPU memory, or of main memory on a CPU."""
        if self.device == "cuda":
            return float(torch.cuda.max_memory_allocated())
        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit

    def _write_live(self, *, force: bool = False) -> None:
        now = time.monotonic()
        # The line of a terminal is rewritten more often
        if self.live is not None and (force or now - self.live_written >= LIVE_SECONDS):
            self.live_written = now
            files.write_json(self.live, {**self.figures, "updated": round(time.time())})
