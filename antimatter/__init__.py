"""From raw text to a language model in a chat window.

Three lines of Python talk to a trained model::

    import antimatter

    model = antimatter.load("models/tuned")
    print(model.chat([{"role": "user", "content": "Who are you?"}]))
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from antimatter.inference.model import Model


def load(
    path: "str | Path",
    *,
    tokenizer: "str | Path | None" = None,
    config: "str | Path | None" = None,
    device: str = "auto",
) -> "Model":
    """A trained model in torch, to continue text, to chat and to measure text.

    Args:
        path: a checkpoint folder (models/tuned, models/checkpoints), a folder for Hugging Face's
            transformers (`antimatter export --type hf`), a .safetensors file, or a .pt file with a
            state dict. No code in it is executed.
        tokenizer: the tokenizer.json that it was trained with, or the folder of that. By default
            the one in the folder of the checkpoint, or else data/tokenizer of the nearest folder
            above the checkpoint, or else of the current folder.
        config: a config.json; by default the one beside the weights.
        device: cpu, cuda, or auto: the GPU if there is one.

    Raises:
        antimatter.errors.UserError: a file is missing, damaged or of another network, or the
            tokenizer is not the one of the model. It is a ValueError with one line for people.
    """
    # torch takes seconds to import, and most commands do without
    from antimatter.inference import model

    return model.load(path, tokenizer=tokenizer, config=config, device=device)
