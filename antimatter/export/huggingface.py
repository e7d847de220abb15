"""The model as a folder that Hugging Face's transformers load without code of this project.

They load it as their GPT-2 (antimatter/model/gpt2.py). Every command that takes a checkpoint folder
takes this one too.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import Tokenizer, processors

from antimatter import files, outputs
from antimatter.chat import template
from antimatter.data.special_tokens import BOS, EOS, PAD, SPECIAL, USER, check_ids
from antimatter.errors import UserError
from antimatter.export.source import Source
from antimatter.model import gpt2, weights
from antimatter.model.config import GPTConfig

# Of what write() writes
NAMES = (
    *("config.json", gpt2.WEIGHTS, "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json"),
)


def path_of(folder: Path, name: str) -> Path:
    return folder / f"{name}-hf"


def check_output(folder: Path, option: str = "--output") -> None:
    """Checks that write() would replace nothing but what it wrote.

    Args:
        option: what named the folder, for messages.

    Raises:
        UserError: the folder holds something else, or was saved by transformers, perhaps after
            more training.
    """
    outputs.check_folder(folder, option, NAMES)
    config = folder / "config.json"
    if config.exists() and "transformers_version" in files.read_json(config):
        raise UserError(f"{folder} was saved by transformers: name another folder, or move it")


def write(source: Source, tokenizer: Path, folder: Path) -> None:
    """Writes the folder, in float32, or nothing if there is an error.

    It has the files NAMES. `AutoModelForCausalLM.from_pretrained(folder)` and
    `AutoTokenizer.from_pretrained(folder)` read them, and `apply_chat_template` works if the model
    was tuned to chat. Equal weights give equal bytes. The whole model is in memory at once.

    Raises:
        UserError: the tokenizer does not fit the model.
    """
    shape = source.config
    bpe = _tokenizer(tokenizer, shape)
    tensors = gpt2.to_state(source.read, shape)
    own = {
        weights.PROVENANCE: source.provenance,
        weights.CHAT: source.chat,
        weights.RESULT: source.result,
    }
    config = gpt2.to_config(shape, {key: value for key, value in own.items() if value})
    config |= {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    with files.replacing(folder) as partial:
        partial.mkdir()
        # Transformers need this key. A second one would make the order of the bytes random
        save_file(tensors, partial / gpt2.WEIGHTS, {"format": "pt"})
        files.write_json(partial / "config.json", config)
        files.write_json(partial / "generation_config.json", _generation_config(source))
        files.write_json(partial / "tokenizer.json", json.loads(bpe.to_str()))
        files.write_json(partial / "tokenizer_config.json", _tokenizer_config(source))


def _tokenizer(path: Path, shape: GPTConfig) -> Tokenizer:
    """The same tokenizer, which also adds [BOS] before a text, as llama.cpp does.

    Every document of the training begins with it.
    """
    content = json.dumps(files.read_json(path))
    try:
        bpe = Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing narrower
        fix = "run `dvc repro tokenizer` to rebuild it"
        raise UserError(f"{path} is not a tokenizer ({error}): {fix}") from None
    if bpe.get_vocab_size() != shape.vocab_size:
        sizes = f"{bpe.get_vocab_size()} tokens, the checkpoint was trained with {shape.vocab_size}"
        raise UserError(f"{path} has {sizes}: run `dvc repro checkpoints`")
    check_ids({name: bpe.token_to_id(name) for name in SPECIAL}, path)
    special = [("[BOS]", BOS)]
    bpe.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=special)
    return bpe


def _generation_config(source: Source) -> dict[str, Any]:
    """A model that was tuned to chat and begins the user's turn has ended its own."""
    ends = EOS if source.chat is None else [EOS, USER]
    return {"bos_token_id": BOS, "eos_token_id": ends, "pad_token_id": PAD}


def _tokenizer_config(source: Source) -> dict[str, Any]:
    """With the chat template, if the model was tuned to chat.

    A template writes special tokens by name, so for a chat model a literal [EOS] is the token, and
    the template changes such texts of users. For a base model a literal [EOS] is plain text.
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": source.config.block_size,
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
        "pad_token": "[PAD]",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": source.chat is None,
    }
    if source.chat is not None:
        config["chat_template"] = template.HUGGING_FACE
    return config
