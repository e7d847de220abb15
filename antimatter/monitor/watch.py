"""The running training in a terminal: the curve of its loss, and what the trainer said last. It only reads, with the standard library alone."""

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

SILENCE = 120.0  # seconds without a word from a trainer that speaks every 10
ENDS = {
    "finished": "finished",
    "paused": "paused: `dvc repro` goes on",
    "diverged": "diverged: `dvc repro` has told why",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the files of a run say at one moment."""

    training: Rows = field(default_factory=list)  # step, loss, learning rate, gradient norm
    validation: Rows = field(default_factory=list)  # step, loss
    backtracks: Rows = field(default_factory=list)  # step, loss, back to, rate scale
    live: dict[str, Any] = field(default_factory=dict)  # metrics/throughput.json
    elsewhere: Path | None = None  # a folder of `dvc exp run --temp` with newer curves


def watch(folder: Path, once: bool, every: float, stream: TextIO) -> None:
    """Draws until the training ends; a single time where nobody would see the second picture. FileNotFoundError: there is no curve."""
    if not 0.1 <= every <= 3600:
        raise UserError(f"--every must lie in [0.1, 3600] seconds, got {every:g}")
    terminal, kind = stream.isatty(), os.environ.get("TERM")
    once = once or not terminal or kind == "dumb"
    # The console's font has no braille
    glyphs = (
        UNICODE
        if "utf" in locale.getpreferredencoding(False).lower() and kind != "linux"
        else ASCII
    )
    run, shown = read(folder, Run()), ""
    if not any((folder / "plots" / name).exists() for name in ("training.csv", "validation.csv")):
        way_out = f"start `dvc repro`, or name the folder of a run, as in `antimatter watch {run.elsewhere or 'FOLDER'}`"
        raise FileNotFoundError(f"{folder / 'plots/training.csv'} is missing: {way_out}")
    try:
        while True:
            text = picture(run, time.time(), shutil.get_terminal_size(), glyphs)
            if text != shown:
                # The cursor is never hidden, so no kind of end can lose it
                clear = "" if once else "\033[H\033[J"
                stream.write(
                    clear + (paint(text) if terminal and not os.environ.get("NO_COLOR") else text)
                )
                stream.flush()
            if once or run.live.get("state") in ENDS:
                return
            time.sleep(every)
            run, shown = read(folder, run), text
    except KeyboardInterrupt:
        stream.write("\n")  # the terminal has echoed ^C
        raise


def read(folder: Path, before: Run) -> Run:
    """A file that is not whole at this moment stays as it was before."""
    try:
        # Before the curves: those of a run that has ended are whole
        live = json.loads(_text(folder / "metrics/throughput.json"))
    except ValueError:
        live = before.live
    rivals = Path(".dvc/tmp/exps").glob("*/plots/training.csv") if folder == Path(".") else ()
    newest = max(rivals, key=_modified, default=None)
    return Run(
        training=_rows(folder / "plots/training.csv", 4, before.training),
        validation=_rows(folder / "plots/validation.csv", 2, before.validation),
        backtracks=_rows(folder / "plots/backtracks.csv", 4, before.backtracks),
        live=live,
        elsewhere=newest.parents[1]
        if newest and _modified(newest) > _modified(folder / "plots/training.csv")
        else None,
    )


def picture(run: Run, now: float, size: tuple[int, int], glyphs: Glyphs) -> str:
    """All of it, a line of the terminal less than its height: the cursor needs that one."""
    width, height = max(60, size[0]), max(20, size[1])
    below = status(run, now, width)
    drawn = chart(
        run.training, run.validation, run.backtracks, width, height - 1 - len(below), glyphs
    )
    text = "".join(f"{line}\n" for line in [*drawn, *below])
    return text.encode("ascii", "replace").decode() if glyphs is ASCII else text


def status(run: Run, now: float, width: int) -> list[str]:
    """What stands below the chart."""
    # Textwrap breaks a line at ASCII spaces only, so between parts
    texts = ["  ".join(part.replace(" ", "\xa0") for part in _parts(run))]
    if run.backtracks:
        step, loss, back_to, scale = run.backtracks[-1]
        texts.append(
            f"backtracks: {len(run.backtracks)}, the last from step {step:,.0f} (loss {loss:.3f}) to {back_to:,.0f}, rate x {scale:g}"
        )
    live = run.live
    if live.get("state") == "training" and live.get("updated"):
        silence, step_seconds = (
            now - live["updated"],
            (live.get("seconds_left") or 0) / max(1, live["steps"] - live["step"]),
        )
        if silence > max(SILENCE, 3 * step_seconds):  # a single step can take minutes
            stopped = f"no word for {silence / 60:,.0f} min, the training seems to have stopped"
            texts.append(f"warning: {stopped}; `dvc repro` goes on from the last saved state")
    if run.elsewhere:
        texts.append(f"newer curves: antimatter watch {run.elsewhere}")
    lines = [
        line.replace("\xa0", " ")
        for text in texts
        for line in textwrap.wrap(text, width, break_on_hyphens=False)
    ]
    sample = " ".join(
        "".join(
            letter if letter.isprintable() else " " for letter in live.get("sample") or ""
        ).split()
    )
    # Such letters take two columns
    wide = any(unicodedata.east_asian_width(letter) in "WF" for letter in sample)
    return lines + (
        textwrap.wrap(f"sample: {sample}", width // (1 + wide), max_lines=3, placeholder=" ...")
        if sample
        else []
    )


def _parts(run: Run) -> Iterator[str]:
    """Of the status line. The trainer's word is newer than the curves; without it they have to do."""
    known: dict[str, Any] = (
        dict(zip(("step", "loss", "learning_rate", "gradient_norm"), run.training[-1], strict=True))
        if run.training
        else {}
    )
    known |= {key: value for key, value in run.live.items() if value is not None}
    if known.get("steps"):
        yield "step {step:,.0f}/{steps:,}  {percent:.0f}%".format(
            **known, percent=100 * known["step"] // known["steps"]
        )
    elif "step" in known:
        yield f"step {known['step']:,.0f}"
    if "loss" in known:
        yield f"loss {known['loss']:.3f}"
    if run.validation:
        step, best = min(run.validation, key=lambda row: row[1])
        yield f"validation {run.validation[-1][1]:.3f} (best {best:.3f} at {step:,.0f})"
    forms = (
        "rate {learning_rate:.1e}",
        "norm {gradient_norm:.2f}",
        "{tokens_per_second:,.0f} tokens/s",
        "MFU {mfu:.0%}",
        "{memory_gb:.1f} GB",
    )
    for form in forms:
        if form[form.index("{") + 1 : form.index(":")] in known:
            yield form.format(**known)
    if known.get("state") in ENDS:
        yield ENDS[known["state"]]
    elif "seconds_left" in known:
        yield f"{timedelta(seconds=int(known['seconds_left']))} left"


def _rows(path: Path, columns: int, before: Rows) -> Rows:
    lines = _text(path).split("\n")
    if len(lines) == 1:  # not even a header
        return before
    rows: Rows = []
    for line in lines[1:-1]:  # what follows the last line end is half a row
        try:
            rows.append(tuple(map(float, line.split(","))))
        except ValueError:
            continue
    return [row for row in rows if len(row) == columns]


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
