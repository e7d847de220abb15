"""A training step on this CPU, for the benchmarks that change what is around it."""

from collections.abc import Callable
from dataclasses import asdict

import torch

from antimatter import params
from antimatter.data.batches import Batch
from antimatter.model.config import GPTConfig, ModelConfig
from antimatter.model.gpt import GPT
from antimatter.training import numerics
from antimatter.training import optimizer as optimizers
from antimatter.training.config import OptimizerConfig, Precision
from antimatter.training.step import Objective, accumulate_gradients, clip, update

# Sequences of a micro-batch
LARGEST = 16


def default_model() -> GPTConfig:
    """The shape in params.yaml."""
    return GPTConfig(**asdict(params.read(ModelConfig, "model")), vocab_size=4096)


def training_step(
    config: GPTConfig, settings: OptimizerConfig, batch_size: int, precision: Precision
) -> Callable[[], None]:
    """A function that makes a step of a random model on a random batch."""
    numerics.tune_malloc()
    model = GPT(config)
    objective, optimizer = Objective(model), optimizers.build(model, settings)
    shape, random = (batch_size, config.block_size + 1), torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, shape, generator=random)
    batch, micro_batch = Batch(ids[:, :-1], ids[:, 1:]), min(batch_size, LARGEST)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step() -> None:
        accumulate_gradients(objective, batch, micro_batch, precision, scaler)
        clip(model, optimizer, scaler, settings.grad_clip)
        update(optimizer, scaler)

    return step
