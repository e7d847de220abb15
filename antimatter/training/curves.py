"""The CSV curves of a training, for `dvc plots`."""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path


class CSVLogger:
    """A CSV file that grows by one row at a time and can be reset to an earlier content.

    Args:
        path: None writes nothing, for a process that is not the main one.
    """

    def __init__(self, path: Path | None, header: Sequence[str]) -> None:
        self.path, self.text = path, ""
        if path is not None:
            # Never write through a hard link into DVC's cache
            path.unlink(missing_ok=True)
            self._write(path, header)

    def add(self, *values: float) -> None:
        """Adds a row; floats have 6 significant digits."""
        if self.path is not None:
            row = [f"{value:.6g}" if isinstance(value, float) else value for value in values]
            self._write(self.path, row)

    def snapshot(self) -> str:
        return self.text

    def restore(self, snapshot: str) -> None:
        if self.path is not None:
            self.text = snapshot
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(snapshot, encoding="utf-8")

    def complete(self) -> None:
        """Writes the file again if it was deleted."""
        if self.path is not None and not self.path.exists():
            self.restore(self.text)

    def _write(self, path: Path, row: Sequence[object]) -> None:
        line = StringIO(newline="")
        csv.writer(line, lineterminator="\n").writerow(row)
        self.text += line.getvalue()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", newline="") as file:
            # `dvc repro` deletes it if it starts again while its job on a cluster still trains
            file.write(line.getvalue() if file.tell() else self.text)


class Curves:
    """training.csv, validation.csv, backtracks.csv and throughput.csv in one folder.

    Tokens per second differ from run to run, so throughput.csv is neither an output of the stage
    nor in Git (docs/decisions/0031).

    Args:
        folder: None writes nothing, for a process that is not the main one.
    """

    def __init__(self, folder: Path | None) -> None:
        def logger(name: str, *header: str) -> CSVLogger:
            return CSVLogger(None if folder is None else folder / f"{name}.csv", header)

        self.training = logger("training", "step", "loss", "learning_rate", "gradient_norm")
        self.validation = logger("validation", "step", "loss")
        self.backtracks = logger("backtracks", "step", "loss", "back_to", "rate_scale")
        self.throughput = logger("throughput", "step", "tokens_per_second")

    def complete(self) -> None:
        """Writes the files again that were deleted while the training ran."""
        for curve in vars(self).values():
            curve.complete()

    def snapshot(self) -> dict[str, str]:
        return {name: curve.snapshot() for name, curve in vars(self).items()}

    def restore(self, snapshot: dict[str, str]) -> None:
        for name, text in snapshot.items():
            getattr(self, name).restore(text)
