"""models/checkpoints -> models/gguf: one file per type, each compared with torch in llama.cpp before it counts as made."""

from pathlib import Path
from typing import Any

from antimatter import files, params, stage
from antimatter.data.shards import Shards
from antimatter.data.tokenizer import Tokenizer
from antimatter.export import gguf, parity
from antimatter.export.gguf import GGUFConfig
from antimatter.model import weights


def main(checkpoints: Path, tokenizer: Path, shards: Path, output: Path, metrics: Path) -> None:
    config = params.read(GGUFConfig, "gguf")
    model = weights.load(checkpoints)
    windows = parity.windows(Shards(shards).split("validation"), model.config.block_size, config.windows)
    report: dict[str, Any] = {}
    with files.replacing(output) as partial:
        partial.mkdir()
        for file_type in config.types:
            path = gguf.path_of(partial, config.name, file_type)
            gguf.write(model, tokenizer / "tokenizer.json", path, file_type, config)
            report[file_type] = found = parity.check(model, path, windows, config.max_kl)
            same = f"KL {found['kl']:g} from torch, {found['top1_agreement']:.2%} of first choices the same"
            print(f"gguf: {path.name}, {found['bytes'] / 1e6:.1f} MB; in llama.cpp {same}")
        report["tokenizer"] = parity.check_tokenizer(Tokenizer.load(tokenizer), path, windows)
    files.write_metrics(metrics, report)


if __name__ == "__main__":
    stage.run(main)
