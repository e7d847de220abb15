"""Short trainings of small models that compare values of params.yaml, paired by seed.

    # The first setting is the baseline. Commas inside of a setting make one of each combination.
    python benchmarks/recipe.py --shards data/shards --set model.n_embd=96 \\
        "" "schedule.decay=linear schedule.final_fraction=0,0.1" "optimizer.learning_rate=1e-3,4e-3"

A run is the project's own Trainer on one thread, from random weights. Its seed is that of the
weights and of the order of the text. A run that is in the CSV file is not repeated, so a grid can
be stopped and resumed, and grids may share runs.

Besides the keys of params.yaml there are:

- `text.tokens`: reads only that many tokens of train, so a long run reads them several times;
- `warmup`: the warm-up as a share of the steps, in place of schedule.warmup_steps.

With `--law presets/300m.yaml` the best setting of each shape and budget is a rung of a ladder, and
the law through them forecasts that run (antimatter/ladder).

The interval of a difference is Student's t over the seeds, 90%, with the deviation pooled over all
settings of the table: two seeds alone know nothing about their own spread.
"""

import argparse
import csv
import hashlib
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from antimatter import params
from antimatter.data.shards.reader import Shards
from antimatter.data.sources.config import RawConfig
from antimatter.errors import UserError
from antimatter.ladder import scaling
from antimatter.model.config import GPTConfig, LossConfig, ModelConfig
from antimatter.model.flops import matmul_weights
from antimatter.model.gpt import GPT
from antimatter.planning import plan
from antimatter.planning.reads import BYTES_PER_TOKEN, KEPT
from antimatter.training.config import OptimizerConfig, TrainConfig, TrainerConfig, TrainRuntime
from antimatter.training.curves import Curves
from antimatter.training.data import TextData
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig
from antimatter.training.trainer import Trainer

COLUMNS = (
    "id",
    "settings",
    "seed",
    "validation_loss",
    "train_loss",
    "tokens",
    "parameters",
    "weights",
    "backtracks",
    "seconds",
)
SECTIONS = ("model", "loss", "optimizer", "schedule", "spikes", "checkpoints")
# For every run, before --set: no saved states in between, and one thread
COMMON = {"checkpoints.threads": 1, "runtime.device": "cpu", "runtime.devices": 1}
Values = dict[str, Any]


def expand(setting: str) -> Iterator[Values]:
    """`a=1,2 b=3` as {a: 1, b: 3} and {a: 2, b: 3}."""
    pairs = [pair.split("=", 1) for pair in setting.split()]
    choices = [[(key, _value(text)) for text in values.split(",")] for key, values in pairs]
    return (dict(combination) for combination in itertools.product(*choices))


def _value(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return yaml.safe_load(text)


def describe(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(values.items()))


class Bench:
    """Runs settings on one folder of shards and keeps their results in a CSV file."""

    def __init__(self, shards: Path, base: Path, file: Path) -> None:
        self.shards, self.base, self.file = Shards(shards), base, file
        self.rows: dict[str, dict[str, str]] = {}
        if file.exists():
            with file.open(newline="", encoding="utf-8") as text:
                self.rows = {row["id"]: row for row in csv.DictReader(text)}

    def result(self, values: Mapping[str, Any], seed: int) -> dict[str, str]:
        """The row of a run, which runs first if it is not in the file."""
        tree, tokens = self.tree(values, seed)
        decisive = [{name: tree[name] for name in SECTIONS}, tokens, self.shards.digests()]
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]
        if digest not in self.rows:
            row = {"id": digest, "settings": describe(values), "seed": seed}
            row |= self.train(tree, tokens)
            self.add({name: str(row[name]) for name in COLUMNS})
        return self.rows[digest]

    def tree(self, values: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], int]:
        """The parameters of a run, and the tokens of train that it reads; 0 is all."""
        tree = params.load(self.base)
        changes: Values = {**COMMON, **values} | {"model.seed": seed, "checkpoints.seed": seed}
        tokens, warmup = int(changes.pop("text.tokens", 0)), changes.pop("warmup", None)
        for key, value in changes.items():
            section, _, name = key.partition(".")
            if name not in tree.get(section, {}):
                raise UserError(f"{key} is no parameter of {self.base}: correct it")
            tree[section][name] = value
        training = tree["checkpoints"]
        if warmup is not None:
            tree["schedule"]["warmup_steps"] = round(warmup * training["steps"])
        training["save_every"] = training["validate_every"] = training["steps"]
        tree["runtime"]["micro_batch"] = training["batch_size"]
        return tree, tokens

    def train(self, tree: Mapping[str, Any], tokens: int) -> dict[str, Any]:
        def read(config: type[Any], section: str) -> Any:
            return params.build(config, tree[section], section, part=section == "runtime")

        model = read(ModelConfig, "model")
        config = TrainerConfig(
            training=read(TrainConfig, "checkpoints"),
            loss=read(LossConfig, "loss"),
            optimizer=read(OptimizerConfig, "optimizer"),
            schedule=read(ScheduleConfig, "schedule"),
            spikes=read(SpikeConfig, "spikes"),
            runtime=read(TrainRuntime, "runtime"),
        )
        gpt = GPT(GPTConfig(**asdict(model), vocab_size=self.shards.vocab_size))
        split = self.shards.split("train")
        train = _first(split, tokens) if tokens else split
        counts = self.shards.token_counts()
        data = TextData(train, self.shards.split("validation"), counts, self.shards.decode)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(gpt, data, config, Path(folder), Curves(None))
            try:
                result = trainer.run()
                losses, backtracks = (result.validation_loss, result.train_loss), result.backtracks
            # A rate that is too high is a result too
            except UserError as error:
                if "diverged" not in str(error):
                    raise
                losses, backtracks = (math.inf, math.inf), config.spikes.max_backtracks
        return {
            "validation_loss": f"{losses[0]:.5f}",
            "train_loss": f"{losses[1]:.5f}",
            "tokens": config.training.steps * config.training.batch_size * model.block_size,
            "parameters": gpt.n_parameters(),
            "weights": matmul_weights(gpt.config),
            "backtracks": backtracks,
            "seconds": f"{time.perf_counter() - start:.1f}",
        }

    def add(self, row: dict[str, str]) -> None:
        is_new = not self.file.exists()
        self.rows[row["id"]] = row
        with self.file.open("a", newline="", encoding="utf-8") as text:
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def _first(arrays: Sequence[np.ndarray], tokens: int) -> list[np.ndarray]:
    """The first tokens of several arrays, as arrays."""
    parts = []
    for array in arrays:
        parts.append(array[:tokens])
        tokens -= len(parts[-1])
    return [part for part in parts if len(part)]


def table(losses: Mapping[str, Sequence[float]]) -> list[str]:
    """One line for each setting: the mean loss, and the difference from the first setting.

    Args:
        losses: by setting, one for each seed, in the same order of seeds.
    """
    base = next(iter(losses.values()))
    differences = {
        name: [loss - other for loss, other in zip(values, base, strict=True)]
        for name, values in losses.items()
    }
    spreads = [
        statistics.variance(values)
        for values in list(differences.values())[1:]
        if len(values) > 1 and all(map(math.isfinite, values))
    ]
    half = math.nan
    if spreads:
        freedom = len(spreads) * (len(base) - 1)
        error = math.sqrt(statistics.mean(spreads) / len(base))
        draws = np.random.default_rng(0).standard_t(freedom, 200_000)
        half = float(np.quantile(np.abs(draws), 0.9)) * error
    width = max(map(len, losses))
    lines = [f"{'setting':{width}}  {'loss':>7}  {'difference (90%)':>18}  by seed"]
    for name, values in losses.items():
        mean = statistics.mean(values)
        difference = ""
        if values is not base:
            difference = f"{statistics.mean(differences[name]):+.4f} ± {half:.4f}"
        seeds = " ".join(f"{value:.4f}" for value in values)
        lines.append(f"{name:{width}}  {mean:7.4f}  {difference:>18}  {seeds}")
    return lines


def law(rows: Sequence[Mapping[str, str]], bench: Bench, file: Path) -> list[str]:
    """The scaling law through the lowest loss of each size and budget, and its forecast."""
    lowest: dict[tuple[int, int], float] = {}
    for row in rows:
        rung = int(row["weights"]), int(row["tokens"])
        lowest[rung] = min(lowest.get(rung, math.inf), float(row["validation_loss"]))
    bytes_per_token = bench.shards.bytes("train") / bench.shards.tokens("train")
    weights = [weight for weight, _ in lowest]
    data = [tokens * bytes_per_token for _, tokens in lowest]
    fitted = scaling.fit(weights, data, [loss / bytes_per_token for loss in lowest.values()])
    lines = [f"{len(lowest)} rungs; the law in nats per byte"]
    for name in ("E", "alpha", "beta"):
        lines.append(f"{name:6} {scaling.Interval.of(getattr(fitted, name)).text()}")
    planned = plan.read(file, devices=1, mfu=0.4)
    raw = params.read(RawConfig, "raw", file)
    target_bytes = BYTES_PER_TOKEN[planned.model.vocab_size]
    new = scaling.worth(planned.tokens * target_bytes, raw.hub.total_mb * 1e6 * KEPT)
    losses = fitted.losses(matmul_weights(planned.model), new) * target_bytes
    perplexity = scaling.Interval.of(np.exp(losses))
    below = float((np.exp(losses) < 20).mean())
    return [*lines, f"{file.stem}: perplexity {perplexity.text('.1f')}, below 20 with {below:.0%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="+", help="the values that differ, space-separated")
    parser.add_argument("--shards", type=Path, default=Path("data/shards"))
    parser.add_argument("--params", type=Path, default=params.PARAMS)
    parser.add_argument("--set", action="append", default=[], help="values of all settings")
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--csv", type=Path, default=Path("recipe.csv"))
    parser.add_argument("--law", type=Path, help="the parameters of a run to forecast")
    arguments = parser.parse_args()
    bench = Bench(arguments.shards, arguments.params, arguments.csv)
    common = next(expand(" ".join(arguments.set)))
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    settings = [values for setting in arguments.settings for values in expand(setting)]
    names = {describe(values) or "baseline": {**common, **values} for values in settings}
    losses: dict[str, list[float]] = {name: [] for name in names}
    rows = []
    for seed in seeds:
        for name, values in names.items():
            row = bench.result(values, seed)
            rows.append(row)
            losses[name].append(float(row["validation_loss"]))
            print(
                f"seed {seed}: {row['validation_loss']} in {row['seconds']} s: {name}", flush=True
            )
    print(f"\n{describe(common)}\n" + "\n".join(table(losses)))

    if arguments.law:
        print("\n" + "\n".join(law(rows, bench, arguments.law)))


if __name__ == "__main__":
    main()
