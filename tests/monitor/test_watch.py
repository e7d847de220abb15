import json
import math
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from antimatter.cli import main as cli
from antimatter.monitor import watch
from antimatter.monitor.chart import ASCII, MARGIN, UNICODE, Glyphs, chart

ROOT = Path(__file__).parents[2]
LIVE = {
    "step": 1370,
    "steps": 5200,
    "loss": 4.905,
    "learning_rate": 2.2e-3,
    "gradient_norm": 0.9,
    "tokens_per_second": 19919,
    "mfu": 0.41,
    "memory_gb": 3.1,
    "seconds_left": 196,
    "updated": 1000.0,
    "state": "training",
    "sample": None,
}
HEADER = "step,loss,learning_rate,gradient_norm\n"
RUN = watch.Run(
    training=[(step, 8 * math.exp(-step / 2000), 1e-3, 1.0) for step in range(10, 1371, 10)],
    validation=[(1200, 4.6), (1300, 4.61)],
    live=LIVE,
)


def dots(lines: list[str]) -> dict[int, list[int]]:
    """The heights of the dots in each column of dots of a chart in braille."""
    # (x, y) of each bit of a character, from the Unicode standard
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]
    heights: dict[int, list[int]] = {}
    for row, line in enumerate(lines[1:-2]):
        for column, letter in enumerate(line[MARGIN:]):
            bits = ord(letter) - 0x2800 if "\u2800" <= letter <= "\u28ff" else 0
            for bit, (x, y) in enumerate(places):
                if bits >> bit & 1:
                    heights.setdefault(2 * column + x, []).append(4 * row + y)
    return heights


@pytest.mark.parametrize("count", [2, 50, 10_000])
def test_exponential_decay_is_a_straight_diagonal(count: int) -> None:
    curve = [
        (float(step), 9 * math.exp(-3 * step / (count - 1)), 1.0, 1.0) for step in range(count)
    ]
    heights = dots(chart(curve, [], [], 100, 30, UNICODE))
    width, height = 2 * (100 - MARGIN), 4 * 27
    assert sorted(heights) == list(range(width))
    assert 0 in heights[0] and height - 1 in heights[width - 1]
    for x, column in heights.items():
        assert all(abs(y - x * (height - 1) / (width - 1)) <= 1.5 for y in column), x


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_the_lowest_loss_sits_on_the_lowest_row_and_the_highest_on_the_first(
    glyphs: Glyphs,
) -> None:
    # Lowest at a third of the steps
    curve = [(float(step), 2 + abs(step - 30) / 50, 1.0, 1.0) for step in range(92)]
    lines = chart(curve, [], [], 100, 30, glyphs)
    assert lines[1].rstrip()[-1] in glyphs.cells[1:] and len(lines[1]) == 100
    (lowest,) = re.finditer(r"\S+", lines[-3][MARGIN:])
    assert 27 <= lowest.start() <= 30 <= lowest.end() <= 33
    numbers = [float(line.split()[0]) for line in lines[1:-2] if line[: MARGIN - 2].strip()]
    assert numbers == sorted(numbers, reverse=True)
    assert (numbers[0], numbers[-1]) == pytest.approx((2 + 61 / 50, 2), abs=0.02)


def test_ten_thousand_noisy_rows_are_one_thin_line_of_their_means() -> None:
    noise = random.Random(0)
    curve = [
        (float(step), 8 * math.exp(-step / 5000 + noise.gauss(0, 0.1)), 1.0, 1.0)
        for step in range(10_000)
    ]
    heights = dots(chart(curve, [], [], 100, 30, UNICODE))
    assert len(heights) == 182
    assert sum(map(len, heights.values())) < 3 * len(heights)


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_validation_and_backtracks_are_at_their_steps(glyphs: Glyphs) -> None:
    curve = [(float(step), 4.0, 1.0, 1.0) for step in range(92)]
    validation = [(0, 8.0), (45, 4.0), (91, 2.0)]
    lines = chart(curve, validation, [(60, math.nan, 40, 0.5)], 101, 33, glyphs)
    marks = [
        (row, match.start() - MARGIN)
        for row, line in enumerate(lines[1:-2])
        for match in re.finditer(glyphs.validation, line)
    ]
    # 4 is the geometric mean of 2 and 8
    assert marks == [(0, 0), (pytest.approx(14.5, abs=0.5), 45), (29, 91)]
    assert lines[-2].index(glyphs.backtrack) - MARGIN == 60
    assert f"{glyphs.backtrack} backtrack" in lines[0]
    assert lines[-1].split() == ["step", "0", "20", "40", "60", "80"]
    for number in ("20", "40", "80"):
        assert lines[-2][lines[-1].index(number) + 1] == glyphs.axes[-1]


def test_marks_sit_on_a_curve_of_the_same_losses() -> None:
    curve = [(float(step), 9 * math.exp(-step / 40), 1.0, 1.0) for step in range(0, 92, 7)]
    plain = chart(curve, [], [], 200, 12, UNICODE)[1:-2]
    marked = chart(curve, [row[:2] for row in curve], [], 200, 12, UNICODE)[1:-2]
    on_the_curve = [
        plain[row][match.start()]
        for row, line in enumerate(marked)
        for match in re.finditer("●", line)
    ]
    assert len(on_the_curve) == len(curve) and " " not in on_the_curve


@pytest.mark.parametrize(
    "rows",
    [
        [(5, 8.0, 1.0, 1.0)],
        [(5, 8.0, 1.0, 1.0), (10, 8.0, 1.0, 1.0)],
        [(5, 1.0, 1.0, 1.0), (10, math.nan, 1.0, 1.0)],
    ],
)
def test_a_chart_of_very_few_rows_is_drawn(rows: watch.Rows) -> None:
    assert len(chart(rows, [], [], 60, 12, UNICODE)) == 12
    assert chart([], [], [(3, 9.0, 0, 0.5)], 60, 12, UNICODE)[0].startswith("no loss yet")


@pytest.mark.parametrize("size", [(60, 20), (100, 30), (237, 61), (20, 5)])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_no_line_is_wrapped_and_one_is_free_for_the_cursor(
    size: tuple[int, int], glyphs: Glyphs
) -> None:
    full = replace(
        RUN,
        backtracks=[(700, 9.123, 600, 0.5), (800, 1234.5, 700, 0.25)],
        live={**LIVE, "sample": "a word\r\n\x1b[31m\x07 " * 99},
        elsewhere=Path(".dvc/tmp/exps/tmp12345678"),
    )
    text = watch.picture(full, 9000.0, size, glyphs)
    assert text.count("\n") == max(20, size[1]) - 1
    assert max(map(len, text.split("\n"))) <= max(60, size[0])
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert glyphs is UNICODE or text.isascii()
    assert "2, the last from step 800 (loss 1234.500) to 700, rate x 0.25" in " ".join(text.split())
    assert "newer curves: antimatter watch .dvc/tmp/exps/tmp12345678\n" in text


def test_the_status_has_all_figures_of_the_trainer() -> None:
    assert watch.status(RUN, 1100.0, 200) == [
        "step 1,370/5,200  26%  loss 4.905  validation 4.610 (best 4.600 at 1,200)  "
        "rate 2.2e-03  norm 0.90  19,919 tokens/s  MFU 41%  3.1 GB  0:03:16 left"
    ]


@pytest.mark.parametrize(
    "live",
    [
        {},
        {"tokens_per_second": 20000},
        {**LIVE, "mfu": None, "loss": None, "state": "finished", "seconds_left": 0},
    ],
)
def test_unknown_figures_are_left_out(live: dict[str, Any]) -> None:
    (line,) = watch.status(replace(RUN, live=live), 1e9, 200)
    # From the last row of the curve
    assert line.startswith("step 1,370") and "loss 4.033  validation" in line
    assert "None" not in line and "MFU" not in line
    assert line.endswith("finished") == ("state" in live)


def test_a_sample_has_three_lines_at_most() -> None:
    def sample(text: str) -> list[str]:
        return watch.status(replace(RUN, live={**LIVE, "sample": text}), 1000.0, 60)[3:]

    assert sample("One\n  two") == ["sample: One two"]
    assert sample(" \n\x00") == []
    assert len(sample("word " * 99)) == 3 and sample("word " * 99)[-1].endswith("...")
    assert max(map(len, sample("字" * 99))) <= 30  # each takes two columns


@pytest.mark.parametrize(
    ("changed", "now", "warned"),
    [
        ({}, 1119, False),
        ({}, 1121, True),
        ({"state": "paused"}, 9999, False),
        ({"seconds_left": 3830 * 100}, 1299, False),  # a step takes 100 s
        ({"seconds_left": 3830 * 100}, 1301, True),
        ({"seconds_left": None, "step": 5200}, 1121, True),
    ],
)
def test_silence_is_a_warning_with_a_fix(changed: dict[str, Any], now: float, warned: bool) -> None:
    lines = watch.status(replace(RUN, live={**LIVE, **changed}), now, 200)
    warnings = [line for line in lines if line.startswith("warning: no status for")]
    assert len(warnings) == warned
    assert all("`dvc repro`" in line for line in warnings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    contents = {
        watch.TRAINING: f"{HEADER}5,8.3,5e-05,1.9\n10,8.2,0.0001,1.6\n",
        watch.VALIDATION: "step,loss\n0,8.35\n",
        watch.BACKTRACKS: "step,loss,back_to,rate_scale\n",
        watch.THROUGHPUT: json.dumps(LIVE),
    }
    for name, text in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "torn", ["1", "15,", "15,8.1", "15,8.1,0.0002,1", "15,8.1,0.0", "15,8.1,\n", "15,8.1,abc,1\n"]
)
def test_an_incomplete_row_is_ignored(folder: Path, torn: str) -> None:
    with (folder / watch.TRAINING).open("a") as file:
        file.write(torn)
    assert [row[0] for row in watch.read(folder, watch.Run()).training] == [5, 10]


def test_an_incomplete_file_keeps_its_content_from_before(folder: Path) -> None:
    before = watch.read(folder, watch.Run())
    # As while the trainer restores its curves
    (folder / watch.TRAINING).write_text("")
    (folder / watch.VALIDATION).unlink()
    (folder / watch.THROUGHPUT).write_text('{"step": 13')
    assert watch.read(folder, before) == before
    # A new run
    (folder / watch.TRAINING).write_text(HEADER)
    assert watch.read(folder, before).training == []


@pytest.mark.parametrize("status", ["null", "[]", "7", '"x"', "[" * 100_000, "\xff"])
def test_a_status_that_is_no_object_is_ignored(folder: Path, status: str) -> None:
    (folder / watch.THROUGHPUT).write_text(status)
    run = watch.read(folder, watch.Run())
    assert run.live == {} and len(run.training) == 2
    assert watch.picture(run, 1000.0, (80, 24), UNICODE)


@pytest.mark.parametrize("key", LIVE)
@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-1e300", "1" + "0" * 400, "null", "[]", "{}", '"x"', "true", "0"]
)
def test_no_value_of_the_status_stops_it(folder: Path, key: str, value: str) -> None:
    live = {**LIVE, key: None}
    text = json.dumps(live).replace(f'"{key}": null', f'"{key}": {value}', 1)
    for status in (text, f'{{"{key}": {value}}}'):
        (folder / watch.THROUGHPUT).write_text(status)
        run = watch.read(folder, watch.Run())
        for now in (0.0, 1e9):
            assert watch.picture(run, now, (80, 24), UNICODE)


@pytest.mark.parametrize("step", ["nan", "inf", "-inf", "1e300"])
@pytest.mark.parametrize(
    "path", [watch.TRAINING, watch.VALIDATION, watch.BACKTRACKS], ids=lambda path: path.stem
)
def test_a_row_whose_step_is_no_place_is_ignored(folder: Path, path: Path, step: str) -> None:
    columns = 2 if path == watch.VALIDATION else 4
    (folder / path).write_text("header\n" + ",".join([step] * columns) + "\n")
    run = watch.read(folder, watch.Run())
    assert getattr(run, path.stem) == []
    assert watch.picture(run, 1000.0, (80, 24), UNICODE)


@pytest.mark.parametrize("loss", ["nan", "inf", "0", "-1", "1.7976931348623157e308", "5e-324"])
def test_no_loss_stops_it(folder: Path, loss: str) -> None:
    with (folder / watch.TRAINING).open("a") as file:
        file.write(f"15,{loss},{loss},{loss}\n")
    (folder / watch.VALIDATION).write_text(f"step,loss\n15,{loss}\n")
    run = watch.read(folder, watch.Run())
    assert len(run.training) == 3
    assert watch.picture(run, 1000.0, (80, 24), UNICODE)


def test_a_temporary_experiment_with_newer_curves_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for name, age in (("tmpold", -20), ("tmpnew", 20), ("tmpnext", 10)):
        path = folder / ".dvc/tmp/exps" / name / watch.TRAINING
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (time.time() + age, time.time() + age))
    assert watch.read(Path("."), watch.Run()).elsewhere == Path(".dvc/tmp/exps/tmpnew")
    assert watch.read(folder, watch.Run()).elsewhere is None
    os.utime(folder / watch.TRAINING, (time.time() + 30, time.time() + 30))
    assert watch.read(Path("."), watch.Run()).elsewhere is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["absent"], "absent/plots/checkpoints/training.csv is missing: start `dvc repro`"),
        ([".", "--every", "0"], "--every must"),
    ],
)
def test_no_curves_or_a_bad_option_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    error: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["watch", *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith(f"error: {error}")
    assert output.err.count("\n") == 1


def command(*arguments: str) -> list[str]:
    # -S: without the installed packages
    return [sys.executable, "-S", "-m", "antimatter.cli", "watch", *arguments]


@pytest.mark.parametrize("utf8", [True, False])
def test_a_pipe_gets_one_picture_without_codes_from_the_standard_library_alone(
    folder: Path, utf8: bool
) -> None:
    environment = {
        "PYTHONPATH": str(ROOT),
        "LC_ALL": "C",
        "PYTHONUTF8": str(int(utf8)),
        "COLUMNS": "70",
        "LINES": "25",
    }
    done = subprocess.run(command(str(folder)), capture_output=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"\xe2\x97\x8f" in done.stdout) == utf8 and done.stdout.isascii() != utf8
    assert done.stdout.count(b"\n") == 24 and b"\033" not in done.stdout


@contextmanager
def terminal(
    *arguments: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[str], str]]]:
    """`antimatter watch` in a terminal of 80 columns and 24 lines.

    Yields the process, and a function that reads the terminal until a text has come or the process
    has ended, and returns all text so far.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    shown = ""

    def until(text: str) -> str:
        nonlocal shown
        while text not in shown and select.select([ours], [], [], 30)[0]:
            try:
                shown += os.read(ours, 65536).decode(errors="replace")
            # On Linux the end of the process
            except OSError:
                break
        return shown

    variables = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "TERM": "xterm", **environment}
    with subprocess.Popen(
        command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=variables
    ) as process:
        os.close(theirs)
        try:
            yield process, until
        finally:
            process.kill()
            os.close(ours)


def is_clean(shown: str) -> bool:
    """The cursor is visible, and no color is on at the end."""
    return "\033[?25l" not in shown and re.findall(r"\033\[(\d+)m", shown)[-1:] in ([], ["0"])


WRITER = """
import json, os, sys, time
live = {"steps": 55, "loss": 7.0, "seconds_left": 1}
for step in range(15, 60, 5):
    for half in (f"{step},{8 - step / 100},", "0.001,1.5\\n"):
        with open("plots/checkpoints/training.csv", "a") as file:
            file.write(half)
        time.sleep(0.06)
    live |= {"step": step, "updated": time.time()}
    live["state"] = "finished" if step == 55 else "training"
    with open("partial", "w") as file:
        json.dump(live, file)
    os.replace("partial", "metrics/checkpoints/throughput.json")
"""


def test_it_follows_a_training_in_a_terminal_and_ends_with_it(folder: Path) -> None:
    with terminal(str(folder), "--every", "0.1") as (process, until):
        until("step 1,370/5,200")
        # Long enough for several looks at files that do not change
        time.sleep(0.5)
        writer = subprocess.Popen([sys.executable, "-S", "-c", WRITER], cwd=folder)
        shown = until("its end")
        assert (process.wait(30), writer.wait(30)) == (0, 0)
    pictures = shown.split("\033[H\033[J")[1:]
    # None is drawn twice
    assert len(pictures) > 3 and len(set(pictures)) == len(pictures)
    assert "step 55/55  100%" in pictures[-1]
    assert all(picture.count("\r\n") == 23 for picture in pictures)
    assert "\033[33m●\033[0m" in shown and is_clean(shown)


def test_ctrl_c_leaves_a_clean_terminal_and_130(folder: Path) -> None:
    with terminal(str(folder), NO_COLOR="1") as (process, until):
        until("left")
        process.send_signal(signal.SIGINT)
        shown = until("its end")
        assert process.wait(30) == 130
    assert "Traceback" not in shown and shown.endswith("\r\n") and is_clean(shown)
    assert re.findall(r"\033\[[0-9;]*m", shown) == []
