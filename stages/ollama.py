"""ollama: writes the Modelfile and the model store, as `ollama create` would write them."""

from pathlib import Path

from antimatter import params
from antimatter.export import ollama as store
from antimatter.export.ollama import OllamaConfig
from antimatter.pipeline import stage


def main(gguf: Path, ollama: Path) -> None:
    config = params.read(OllamaConfig, "ollama")
    store.write(store.source_of(gguf, config.type), ollama, config)
    print(f"ollama: {ollama}/Modelfile, and the store of `{config.name}` in {ollama}/models")


if __name__ == "__main__":
    stage.run(main)
