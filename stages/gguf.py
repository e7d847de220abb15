"""models/tuned, or models/checkpoints, as `gguf.model` says -> models/gguf: one file per type, each
compared with torch in llama.cpp before it counts as made.
"""

from pathlib import Path
from typing import Any

from antimatter import files, params
from antimatter.data.shards.reader import Shards
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.export import gguf, parity
from antimatter.export.config import GGUFConfig
from antimatter.export.source import open_checkpoint
from antimatter.model import weights
from antimatter.pipeline import stage
from antimatter.report import quantization


def main(
    checkpoints: Path,
    tuned: Path,
    tokenizer: Path,
    shards: Path,
    conversations: Path,
    output: Path,
    metrics: Path,
    sizes: Path,
    picture: Path,
    throughput: Path,
) -> None:
    config = params.read(GGUFConfig, "gguf")
    source = open_checkpoint(tuned if config.model == "tuned" else checkpoints)
    if config.model == "tuned" and source.chat is None:
        config_json = tuned / weights.CONFIG
        raise UserError(f"{config_json} has no key chat: run `dvc repro tuned` to make it anew")
    model = source.load()
    context = model.config.block_size
    windows = parity.windows(Shards(shards).split("validation"), context, config.windows)
    held_out = parity.held_out(conversations / "held_out_tokens.npy", context, config.windows)
    report: dict[str, Any] = {}
    speed: dict[str, Any] = {}
    with files.replacing(output) as partial:
        partial.mkdir()
        for file_type in config.types:
            path = gguf.path_of(partial, config.name, file_type)
            gguf.write(source, tokenizer / "tokenizer.json", path, file_type, config)
            most = getattr(config.max_kl, file_type)
            report[file_type] = found = parity.check(model, path, windows, most, held_out)
            speed[file_type] = parity.speed(path, windows)
            rate = f"{speed[file_type]['answer']:,.0f} tokens/s"
            size = f"{found['bytes'] / 1e6:.1f} MB"
            print(f"gguf: {path.name}, {size}, {rate}; {_figures(found)}", flush=True)
        report["tokenizer"] = parity.check_tokenizer(Tokenizer.load(tokenizer), path, windows)
    files.write_metrics(metrics, report)
    rows = []
    for name in config.types:
        found = report[name]
        rows.append((name, found["bytes"] / 1e6, f"{found['perplexity']:.6g}", found["kl"]))
    files.write_csv(sizes, ("type", "megabytes", "perplexity", "kl"), rows)
    quantization.draw(sizes, picture)
    files.write_json(throughput, speed)


def _figures(found: dict[str, Any]) -> str:
    same, talk = found["top1_agreement"], found["conversations"]
    return (
        f"in llama.cpp KL {found['kl']:g} from torch, {same:.2%} of first choices the same, "
        f"perplexity {found['perplexity']:.2f}; on conversations KL {talk['kl']:g}"
    )


if __name__ == "__main__":
    stage.run(main)
