"""Which backend `antimatter chat` uses."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from antimatter.errors import UserError
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.client import BackendError
from antimatter.serve.backend import Backend
from antimatter.serve.embedded import EmbeddedBackend
from antimatter.serve.ollama.backend import STORE, WrongModelError, running_ollama

Choice = Literal["auto", "ollama", "embedded"]


def choose(
    choice: Choice,
    config: OllamaConfig,
    model: Callable[[], Path],
    log: Callable[[str], None],
    store: Path = STORE,
    environ: Mapping[str, str] = os.environ,
) -> Backend:
    """The backend that was asked for. `auto`: an Ollama that `running_ollama` accepts, else
    llama.cpp.

    Args:
        model: finds the GGUF file, if it is needed.

    Raises:
        UserError: the backend is not available.
    """
    if choice != "embedded":
        try:
            return running_ollama(config, log, store, environ, named=choice == "ollama")
        except UserError as error:
            if choice == "ollama":
                raise _with_fix(error, config, store) from None
            log(f"{error}: using the embedded llama.cpp")
    return EmbeddedBackend(model(), config.num_ctx)


def _with_fix(error: UserError, config: OllamaConfig, store: Path) -> UserError:
    if isinstance(error, WrongModelError):
        fix = f"run `ollama create {config.name} -f {store.parent}/Modelfile`"
    elif isinstance(error, BackendError):
        fix = "start it, correct OLLAMA_HOST"
    else:
        return error
    return UserError(f"{error}: {fix}, or use `--engine embedded`")
