"""models/gguf -> models/ollama: the Modelfile and the model store, as `ollama create` would write them."""

from pathlib import Path

from antimatter import params
from antimatter.export import ollama
from antimatter.export.ollama import OllamaConfig
from antimatter.pipeline import stage


def main(gguf: Path, output: Path) -> None:
    config = params.read(OllamaConfig, "ollama")
    ollama.write(ollama.source_of(gguf, config.type), output, config)
    print(f"ollama: {output}/Modelfile, and the store of `{config.name}` in {output}/models")


if __name__ == "__main__":
    stage.run(main)
