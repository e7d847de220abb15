"""A whole deployment at a tiny size: a random GPT, a tokenizer, and the GGUF files of both.

The tokenizer is trained on one Python file. There is a GGUF file of a base model and one of a model
that was tuned to chat.
"""

import argparse
import inspect
from dataclasses import dataclass, replace
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from antimatter.data.special_tokens import SPECIAL
from antimatter.data.tokenizer import Tokenizer
from antimatter.export import gguf
from antimatter.export.config import GGUFConfig, MaxKL
from antimatter.export.source import Source
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT

VOCAB, CONTEXT = 400, 64
TEXT = inspect.getsource(argparse)
CONFIG = GGUFConfig(
    model="tuned",
    name="tiny",
    license="mit",
    description="",
    languages=("en",),
    url="",
    types=("f16",),
    relu_scale=1024,
    windows=4,
    max_kl=MaxKL(f32=1e-5, f16=1e-5, q8_0=1e-3, q4_k_m=5e-2),
)
CHAT = {
    "system": "Be kind.",
    "greeting": "Hello! Ask é me.",
    "starters": ["Who are you?", "What can you do?", "Thanks, bye!"],
}


@dataclass(frozen=True)
class Tiny:
    model: GPT
    tokenizer: Tokenizer
    tokenizer_folder: Path
    path: Path  # of the f16 file, of a base model
    chat_path: Path  # of the same model, with CHAT


def make(folder: Path) -> Tiny:
    save_tokenizer(folder / "tokenizer")
    model = gpt()
    source, tokenizer = of_model(model), folder / "tokenizer" / "tokenizer.json"
    path = gguf.path_of(folder, "tiny", "f16")
    gguf.write(source, tokenizer, path, "f16", CONFIG)
    # In another folder, because a folder must have one file of each type
    chat_path = gguf.path_of(folder / "chat", "tiny", "f16")
    gguf.write(replace(source, chat=CHAT), tokenizer, chat_path, "f16", CONFIG)
    words = Tokenizer.load(folder / "tokenizer")
    return Tiny(model, words, folder / "tokenizer", path, chat_path)


def of_model(model: GPT) -> Source:
    """A checkpoint that is in memory."""
    state = model.state_dict()
    return Source(model.config, lambda name: state[name].detach().float(), "the model")


def save_tokenizer(folder: Path, vocab_size: int = VOCAB, text: str = TEXT) -> None:
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator([text], trainer)
    folder.mkdir(parents=True)
    bpe.save(str(folder / "tokenizer.json"))


def gpt(
    gain: float = 3.0,
    tied: bool = True,
    slope: float = 0.1,
    seed: int = 1,
    n_embd: int = 64,
    n_layer: int = 2,
) -> GPT:
    """A model with random weights, `gain` times as large as the initial ones.

    Biases are not zero and norms not one, so that no error is hidden by a neutral value.
    """
    config = GPTConfig(
        n_layer=n_layer,
        n_head=2,
        n_embd=n_embd,
        block_size=CONTEXT,
        negative_slope=slope,
        residual_scale=1.0,
        dropout=0.0,
        tied_embeddings=tied,
        seed=seed,
        vocab_size=VOCAB,
    )
    model = GPT(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(gain)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.requires_grad_(False).eval()


def windows(tokenizer: Tokenizer, count: int = 4) -> torch.Tensor:
    ids = tokenizer.encode(TEXT)[: count * (CONTEXT + 1)]
    return torch.tensor(ids).view(count, CONTEXT + 1)
