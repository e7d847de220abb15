"""models/checkpoints -> models/gguf: one file per type, each compared with torch in llama.cpp before it counts as made."""

from pathlib import Path
from typing import Any

from antimatter import files, params, stage
from antimatter.data.shards import Shards
from antimatter.data.tokenizer import Tokenizer
from antimatter.export import gguf, parity, tradeoff
from antimatter.export.gguf import GGUFConfig
from antimatter.export.source import open_checkpoint


def main(checkpoints: Path, tokenizer: Path, shards: Path, output: Path, metrics: Path, sizes: Path, picture: Path, throughput: Path) -> None:
    config = params.read(GGUFConfig, "gguf")
    source = open_checkpoint(checkpoints)
    model = source.load()
    windows = parity.windows(Shards(shards).split("validation"), model.config.block_size, config.windows)
    report: dict[str, Any] = {}
    speed: dict[str, Any] = {}
    with files.replacing(output) as partial:
        partial.mkdir()
        for file_type in config.types:
            path = gguf.path_of(partial, config.name, file_type)
            gguf.write(source, tokenizer / "tokenizer.json", path, file_type, config)
            report[file_type] = found = parity.check(model, path, windows, getattr(config.max_kl, file_type))
            speed[file_type] = parity.speed(path, windows)
            figures = f"KL {found['kl']:g} from torch, {found['top1_agreement']:.2%} of first choices the same, perplexity {found['perplexity']:.2f}"
            print(f"gguf: {path.name}, {found['bytes'] / 1e6:.1f} MB, {speed[file_type]['answer']:,.0f} tokens/s; in llama.cpp {figures}", flush=True)
        report["tokenizer"] = parity.check_tokenizer(Tokenizer.load(tokenizer), path, windows)
    files.write_metrics(metrics, report)
    rows = [(name, report[name]["bytes"] / 1e6, f"{report[name]['perplexity']:.6g}", report[name]["kl"]) for name in config.types]
    files.write_csv(sizes, ("type", "megabytes", "perplexity", "kl"), rows)
    tradeoff.draw(sizes, picture)
    files.write_json(throughput, speed)


if __name__ == "__main__":
    stage.run(main)
