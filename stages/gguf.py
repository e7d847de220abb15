"""gguf: writes the model that `gguf.model` names as GGUF files, one for each type.

Each file is compared with torch in llama.cpp before it counts as done.
"""

from pathlib import Path
from typing import Any

from antimatter import files, params
from antimatter.data.shards.reader import Shards
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.export import facts, parity, tokenization
from antimatter.export import gguf as writer
from antimatter.export.config import GGUFConfig
from antimatter.export.source import open_checkpoint
from antimatter.model import weights
from antimatter.pipeline import stage


def main(
    model: Path,
    tokenizer: Path,
    shards: Path,
    conversations: Path,
    gguf: Path,
    metrics: Path,
    plots: Path,
) -> None:
    config = params.read(GGUFConfig, "gguf")
    source = open_checkpoint(model)
    if config.model == "tuned" and source.chat is None:
        config_json = model / weights.CONFIG
        raise UserError(f"{config_json} has no key chat: run `dvc repro -f tuned` to rewrite it")
    network = source.load()
    context = network.config.block_size
    tokens = Shards(shards)
    windows = parity.windows(tokens.split("validation"), context, config.windows)
    held_out = parity.held_out(conversations / "held_out_tokens.npy", context, config.windows)
    report: dict[str, Any] = {}
    speed: dict[str, Any] = {}
    with files.replacing(gguf) as partial:
        partial.mkdir()
        for file_type in config.types:
            path = writer.path_of(partial, config.name, file_type)
            words, names = tokenizer / "tokenizer.json", facts.data_sets(source, tokens)
            writer.write(source, words, path, file_type, config, names)
            limit = getattr(config.max_kl, file_type)
            figures = parity.check(network, path, windows, limit, held_out)
            report[file_type], speed[file_type] = figures, parity.speed(path, windows)
            rate = f"{speed[file_type]['answer']:,.0f} tokens/s"
            size = f"{figures['bytes'] / 1e6:.1f} MB"
            print(f"gguf: {path.name}, {size}, {rate}; {_in_words(figures)}", flush=True)
        report["tokenizer"] = tokenization.check(Tokenizer.load(tokenizer), path, windows)
    files.write_metrics(metrics / "summary.json", report)
    files.write_json(metrics / "throughput.json", speed)
    rows = [
        (name, report[name]["bytes"] / 1e6, f"{report[name]['perplexity']:.6g}", report[name]["kl"])
        for name in config.types
    ]
    files.write_csv(plots / "sizes.csv", ("type", "megabytes", "perplexity", "kl"), rows)


def _in_words(figures: dict[str, Any]) -> str:
    same, talk = figures["top1_agreement"], figures["conversations"]
    return (
        f"in llama.cpp KL {figures['kl']:g} from torch, {same:.2%} of first choices the same, "
        f"perplexity {figures['perplexity']:.2f}; on conversations KL {talk['kl']:g}"
    )


if __name__ == "__main__":
    stage.run(main)
