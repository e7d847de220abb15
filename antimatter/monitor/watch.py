"""Shows the running training in a terminal: the curve of its loss, and the trainer's last status.

It only reads files, and needs the standard library alone.
"""

import json
import locale
import os
import shutil
import textwrap
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from antimatter.errors import UserError
from antimatter.monitor.chart import ASCII, UNICODE, Glyphs, Rows, chart, paint

TRAINING, VALIDATION, BACKTRACKS = (
    Path("plots/checkpoints") / name
    for name in ("training.csv", "validation.csv", "backtracks.csv")
)
THROUGHPUT = Path("metrics/checkpoints/throughput.json")
SILENCE = 120.0  # seconds without a status; the trainer writes one every 10
LARGEST = 1e12  # that a step or a time may be; a larger one is damage
# Of THROUGHPUT, by what the picture does with them
PLACES = ("step", "steps", "seconds_left", "updated")
FIGURES = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "mfu", "memory_gb")
TEXTS = ("state", "sample")
ENDS = {
    "finished": "finished",
    "paused": "paused: `dvc repro` resumes it",
    "diverged": "diverged: the output of `dvc repro` says why",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """The content of a run's files at one moment."""

    training: Rows = field(default_factory=list)  # step, loss, learning rate, gradient norm
    validation: Rows = field(default_factory=list)  # step, loss
    backtracks: Rows = field(default_factory=list)  # step, loss, back to, rate scale
    live: dict[str, Any] = field(default_factory=dict)  # THROUGHPUT
    elsewhere: Path | None = None  # a folder of `dvc exp run --temp` with newer curves


def watch(folder: Path, once: bool, every: float, stream: TextIO) -> None:
    """Redraws the picture until the training ends.

    Args:
        once: draw a single picture, as is done anyway if `stream` is not a terminal.
        every: seconds between two looks at the files.

    Raises:
        UserError: there is no curve in the folder.
    """
    if not 0.1 <= every <= 3600:
        raise UserError(f"--every must lie in [0.1, 3600] seconds, got {every:g}")
    is_terminal, terminal_type = stream.isatty(), os.environ.get("TERM")
    once = once or not is_terminal or terminal_type == "dumb"
    # The font of the Linux console has no braille
    has_braille = "utf" in locale.getpreferredencoding(False).lower() and terminal_type != "linux"
    glyphs = UNICODE if has_braille else ASCII
    is_colored = is_terminal and not os.environ.get("NO_COLOR")
    run, shown = read(folder, Run()), ""
    if not any((folder / path).exists() for path in (TRAINING, VALIDATION)):
        example = f"`antimatter watch {run.elsewhere or 'FOLDER'}`"
        fix = f"start `dvc repro`, or name the folder of a run, as in {example}"
        raise UserError(f"{folder / TRAINING} is missing: {fix}")
    try:
        while True:
            text = picture(run, time.time(), shutil.get_terminal_size(), glyphs)
            if text != shown:
                # The cursor is never hidden, so it cannot stay hidden after a crash
                clear = "" if once else "\033[H\033[J"
                stream.write(clear + (paint(text) if is_colored else text))
                stream.flush()
            if once or run.live.get("state") in ENDS:
                return
            time.sleep(every)
            run, shown = read(folder, run), text
    except KeyboardInterrupt:
        # The terminal has printed ^C
        stream.write("\n")
        raise


def read(folder: Path, before: Run, stage: str = "checkpoints") -> Run:
    """The files of a training; of a file that is incomplete at this moment, the content `before`.

    Args:
        stage: `tuned` is a training too.
    """
    training, validation, backtracks, throughput = (
        folder / path.parent.with_name(stage) / path.name
        for path in (TRAINING, VALIDATION, BACKTRACKS, THROUGHPUT)
    )
    try:
        # Before the curves: if the run has ended by now, they are complete
        live = _live(json.loads(_text(throughput)))
    except (ValueError, RecursionError):
        live = before.live
    elsewhere = _newer_experiment() if folder == Path(".") else None
    return Run(
        training=_rows(training, 4, before.training),
        validation=_rows(validation, 2, before.validation),
        backtracks=_rows(backtracks, 4, before.backtracks),
        live=live,
        elsewhere=elsewhere,
    )


def _live(values: Any) -> dict[str, Any]:
    """The entries of THROUGHPUT that can be shown. Raises ValueError if it is not an object."""
    if not isinstance(values, dict):
        raise ValueError(f"must be an object, got {values!r}")
    known: dict[str, Any] = {}
    for key, value in values.items():
        is_number = isinstance(value, int | float)
        # A figure of a training that diverged may be inf or nan
        if (
            (key in TEXTS and isinstance(value, str))
            or (key in PLACES and is_number and _is_place(value))
            or (key in FIGURES and is_number and (isinstance(value, float) or _is_place(value)))
        ):
            known[key] = value
    return known


def _is_place(value: float) -> bool:
    # False for nan
    return -LARGEST <= value <= LARGEST


def _newer_experiment() -> Path | None:
    """The `dvc exp run --temp` with the newest curve, if that is newer than the one here."""
    folders = Path(".dvc/tmp/exps").glob("*/")
    newest = max(folders, key=lambda folder: _modified(folder / TRAINING), default=None)
    if newest and _modified(newest / TRAINING) > _modified(TRAINING):
        return newest
    return None


def picture(run: Run, now: float, size: tuple[int, int], glyphs: Glyphs) -> str:
    """The chart and the status below it. The cursor needs the last line of the terminal."""
    width, height = max(60, size[0]), max(20, size[1])
    below = status(run, now, width)
    rows = height - 1 - len(below)
    drawn = chart(run.training, run.validation, run.backtracks, width, rows, glyphs)
    text = "".join(f"{line}\n" for line in [*drawn, *below])
    return text.encode("ascii", "replace").decode() if glyphs is ASCII else text


def status(run: Run, now: float, width: int) -> list[str]:
    """The lines below the chart."""
    # textwrap breaks lines at ASCII spaces only, so only between parts
    texts = ["  ".join(part.replace(" ", "\xa0") for part in _parts(run))]
    if run.backtracks:
        step, loss, back_to, scale = run.backtracks[-1]
        last = f"step {step:,.0f} (loss {loss:.3f}) to {back_to:,.0f}, rate x {scale:g}"
        texts.append(f"backtracks: {len(run.backtracks)}, the last from {last}")
    texts += _warning(run.live, now)
    if run.elsewhere:
        texts.append(f"newer curves: antimatter watch {run.elsewhere}")
    wrapped = [textwrap.wrap(text, width, break_on_hyphens=False) for text in texts]
    lines = [line.replace("\xa0", " ") for lines in wrapped for line in lines]
    return lines + _sample(run.live.get("sample") or "", width)


def _warning(live: dict[str, Any], now: float) -> Iterator[str]:
    if live.get("state") != "training" or not live.get("updated"):
        return
    silence = now - live["updated"]
    # A single step can take minutes
    steps_left = live.get("steps", 0) - live.get("step", 0)
    step_seconds = (live.get("seconds_left") or 0) / max(1, steps_left)
    if silence > max(SILENCE, 3 * step_seconds):
        reason = f"no status for {silence / 60:,.0f} min, the training seems to have stopped"
        yield f"warning: {reason}; `dvc repro` resumes from the last saved state"


def _sample(text: str, width: int) -> list[str]:
    """Up to three lines of the model's text, without control characters."""
    words = "".join(letter if letter.isprintable() else " " for letter in text).split()
    if not words:
        return []
    sample = " ".join(words)
    # Such letters take two columns
    is_wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in sample)
    columns = width // 2 if is_wide else width
    return textwrap.wrap(f"sample: {sample}", columns, max_lines=3, placeholder=" ...")


def _parts(run: Run) -> Iterator[str]:
    """The parts of the status line.

    The trainer's status is newer than the curves; without one, the last row of the curve is used.
    """
    names = ("step", "loss", "learning_rate", "gradient_norm")
    known: dict[str, Any] = {}
    if run.training:
        known = dict(zip(names, run.training[-1], strict=True))
    known |= {key: value for key, value in run.live.items() if value is not None}
    if known.get("steps") and "step" in known:
        percent = 100 * known["step"] // known["steps"]
        yield f"step {known['step']:,.0f}/{known['steps']:,}  {percent:.0f}%"
    elif "step" in known:
        yield f"step {known['step']:,.0f}"
    if "loss" in known:
        yield f"loss {known['loss']:.3f}"
    if run.validation:
        step, best = min(run.validation, key=lambda row: row[1])
        yield f"validation {run.validation[-1][1]:.3f} (best {best:.3f} at {step:,.0f})"
    formats = {
        "learning_rate": "rate {:.1e}",
        "gradient_norm": "norm {:.2f}",
        "tokens_per_second": "{:,.0f} tokens/s",
        "mfu": "MFU {:.0%}",
        "memory_gb": "{:.1f} GB",
    }
    yield from (text.format(known[key]) for key, text in formats.items() if key in known)
    if known.get("state") in ENDS:
        yield ENDS[known["state"]]
    elif "seconds_left" in known:
        yield f"{timedelta(seconds=int(known['seconds_left']))} left"


def _rows(path: Path, columns: int, before: Rows) -> Rows:
    lines = _text(path).split("\n")
    if len(lines) == 1:  # not even a header
        return before
    rows: Rows = []
    # The text after the last line break is an incomplete row
    for line in lines[1:-1]:
        try:
            rows.append(tuple(map(float, line.split(","))))
        except ValueError:
            continue
    return [row for row in rows if len(row) == columns and _is_place(row[0])]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
