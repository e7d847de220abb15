"""report: draws every PNG from the CSV files of the other stages, and lists the figures of the run.

It is the last stage and nothing depends on it, so a change of a colour re-runs nothing else.
"""

from pathlib import Path

from antimatter import params
from antimatter.pipeline import stage
from antimatter.report import answers, data, figures, quantization, training


def main(metrics: Path, plots: Path, report: Path) -> None:
    cleaned, checkpoints = plots / "cleaned", plots / "checkpoints"
    data.draw(
        cleaned / "drops.csv",
        cleaned / "lengths.csv",
        plots / "shards" / "frequencies.csv",
        report / "data.png",
    )
    training.draw(
        checkpoints / "training.csv",
        checkpoints / "validation.csv",
        checkpoints / "backtracks.csv",
        plots / "evaluation" / "bins.csv",
        report / "loss.png",
        report / "training.png",
    )
    answers.draw(plots / "answers" / "shares.csv", report / "answers.png")
    quantization.draw(plots / "gguf" / "sizes.csv", report / "gguf.png")
    figures.write(metrics, params.load(), report / "figures.csv")
    print(f"report: five pictures in {report}")


if __name__ == "__main__":
    stage.run(main)
