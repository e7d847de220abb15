"""`antimatter ladder` with a fake DVC: what runs, what it reports, how it stops and resumes."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.ladder import Ladder, experiments, git, processes, start

from antimatter import files
from antimatter.repository import dvc
from antimatter.repository.checkout import Repository

NAMES = {f"ladder-{width}x2-{steps}" for width in (16, 32) for steps in (200, 350, 500)}


def logs(folder: Path) -> list[Path]:
    return list(folder.glob(".state/ladder/*.log"))


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def test_a_ladder_is_fitted_and_reported_and_the_next_call_finds_all_of_it(
    project: Path, ladder: Ladder
) -> None:
    first = ladder("--jobs", "6")
    assert first.returncode == 0, first.stderr
    assert first.stderr.startswith("6 of 6 runs to go, 6 at a time")
    assert experiments(project).keys() == NAMES
    assert re.search(r"^check +32x2-500 from the others: ", first.stdout, re.MULTILINE)
    assert re.search(r"^forecast +300m: N 353 M, 33\.97 B tokens", first.stdout, re.MULTILINE)
    assert "4.0 passes over its text, as good as 3.7 times as much new text" in first.stdout
    assert "H100" in first.stdout
    rows = (project / "ladder/rungs.csv").read_text().splitlines()
    assert len(rows) == 7
    figures = json.loads((project / "ladder/ladder.json").read_text())
    assert figures["check"]["rung"] == "32x2-500" and abs(figures["check"]["error"]) < 0.1
    assert (project / "ladder/ladder.png").read_bytes().startswith(b"\x89PNG")
    changed = git(project, "status", "--porcelain", "--untracked-files=all").splitlines()
    expected = ["ladder/ladder.json", "ladder/ladder.png", "ladder/rungs.csv"]
    assert sorted(line[3:] for line in changed) == expected
    assert logs(project) == []
    reference = experiments(project)["ladder-16x2-200"]
    evaluation = json.loads(git(project, "show", f"{reference}:metrics/evaluation/summary.json"))
    (row,) = (row for row in rows if row.startswith("16x2-200,"))
    assert f"{evaluation['loss']:.6g}" in row

    # Another call, under another commit, finds all runs and writes the same bytes
    written = {path.name: path.read_bytes() for path in (project / "ladder").iterdir()}
    git(project, "add", "ladder")
    git(project, "commit", "--quiet", "--message", "the ladder")
    again = ladder()
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")
    assert {path.name: path.read_bytes() for path in (project / "ladder").iterdir()} == written
    dry = ladder("--dry-run")
    assert dry.returncode == 0 and len(re.findall(r" done$", dry.stdout, re.MULTILINE)) == 6


def test_a_stopped_ladder_leaves_nothing_behind_and_runs_nothing_twice(
    project: Path, ladder: Ladder
) -> None:
    before = git(project, "status", "--porcelain"), (project / "params.yaml").read_bytes()
    process = start(project, ladder.plan(wait="x2-500-"), (0.4, 0.7), "--jobs", "2")

    def both_wait() -> bool:
        return len([line for line in processes(project) if "time.sleep(600)" in line]) == 2

    wait_for(both_wait, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    lines, finished = err.splitlines(), experiments(project)
    assert lines[0].startswith("6 of 6 runs to go, 2 at a time")
    assert lines[1].startswith("0/6 done  ")
    assert lines[-1].startswith(f"stopped with {len(finished)} of 6 runs done")
    assert finished.keys() < NAMES and processes(project) == []
    after = git(project, "status", "--porcelain"), (project / "params.yaml").read_bytes()
    assert after == before

    again = ladder("--jobs", "2")
    assert again.returncode == 0, again.stderr
    assert again.stderr.startswith(f"{6 - len(finished)} of 6 runs to go")
    assert experiments(project).keys() == NAMES and logs(project) == []
    attempts = {
        path.name.rpartition("-")[0]: len(path.read_text())
        for path in project.glob(".state/*.attempts")
    }
    assert attempts == {name: 1 + name.endswith("-500") for name in NAMES}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_a_closed_terminal_stop_a_ladder_too(
    project: Path, ladder: Ladder, number: signal.Signals
) -> None:
    process = start(project, ladder.plan(wait="x2-500-"), (), "--jobs", "1")
    wait_for(lambda: any("time.sleep(600)" in line for line in processes(project)), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped with 0 of 2 runs done" in err
    assert processes(project) == []


def test_a_run_that_fails_is_reported_and_the_others_continue(
    project: Path, ladder: Ladder
) -> None:
    ladder.plan(fail="-16x2-200-")
    done = ladder()
    assert done.returncode == 0, done.stderr
    (failed,) = (line for line in done.stderr.splitlines() if " failed: " in line)
    error = r"16x2-200 failed: it went wrong \(\.state/ladder/ladder-16x2-200-.*\.log\)$"
    assert re.match(error, failed)
    assert done.stdout.startswith("1 of 6 runs are missing; 16x2-200: it went wrong (")
    assert experiments(project).keys() == NAMES - {"ladder-16x2-200"}
    ladder.plan()
    again = ladder()
    assert again.stderr.startswith("1 of 6 runs to go, 1 at a time") and again.returncode == 0
    assert experiments(project).keys() == NAMES


def test_a_run_that_cannot_begin_is_tried_again(project: Path, ladder: Ladder) -> None:
    ladder.plan(busy="-16x2-200-")
    done = ladder()
    assert done.returncode == 0 and " failed: " not in done.stderr
    assert experiments(project).keys() == NAMES
    (attempts,) = project.glob(".state/ladder-16x2-200-*.attempts")
    assert len(attempts.read_text()) == 3


def test_a_workspace_with_changes_is_refused_and_left_alone(project: Path, ladder: Ladder) -> None:
    parameters = project / "params.yaml"
    original = parameters.read_text()
    parameters.write_text(original.replace("beta2: 0.999", "beta2: 0.998"))
    done = ladder()
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "params.yaml" in done.stderr and "`git commit`" in done.stderr
    assert "beta2: 0.998" in parameters.read_text()
    git(project, "checkout", "params.yaml")
    assert ladder().returncode == 0
    # The runs of before have another beta2
    parameters.write_text(original.replace("beta2: 0.999", "beta2: 0.998"))
    git(project, "commit", "--quiet", "--all", "--message", "another rate of decay")
    fit = ladder("--fit")
    assert fit.returncode == 1 and "0 rungs have run" in fit.stderr
    ladder.plan(status='{"cleaned": []}')
    stale = ladder()
    assert stale.returncode == 1
    assert "cleaned" in stale.stderr and "`dvc repro shards`" in stale.stderr


def test_a_change_while_it_runs_stops_further_runs(project: Path, ladder: Ladder) -> None:
    process = start(project, ladder.plan(wait="-32x2-500-"), (0.4, 0.7), "--jobs", "1")
    # The longest run is the first
    wait_for(lambda: any("time.sleep(600)" in line for line in processes(project)), process)
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("beta2: 0.999", "beta2: 0.998"))
    (group,) = (log.read_text().split()[2] for log in logs(project))
    os.killpg(int(group), signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.splitlines()[-1].startswith("error: params.yaml ")
    assert experiments(project) == {}


def test_what_a_killed_ladder_has_left_running_is_named(project: Path, ladder: Ladder) -> None:
    folder = project / ".state/ladder"
    folder.mkdir(parents=True)
    with (folder / "ladder-left.log").open("w") as log:
        log.write("process group 4711\n")
        log.flush()
        holder = subprocess.Popen(
            ["flock", "--exclusive", log.name, "sleep", "60"], start_new_session=True, text=True
        )
    try:
        wait_for(lambda: files.is_locked(Path(log.name)), holder)
        done = ladder()
        assert done.returncode == 1
        assert "ladder-left" in done.stderr and "`kill -INT -- -4711`" in done.stderr
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()


def test_outside_of_a_repository_and_before_a_commit_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a Git repository with DVC"):
        Repository(tmp_path)
    (tmp_path / ".dvc").mkdir()
    git(tmp_path, "init", "--quiet")
    with pytest.raises(ValueError, match="no commit yet"):
        Repository(tmp_path)


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (
            "step 3\rstep 4\nerror: training diverged: loss 9\n"
            "ERROR: failed to reproduce 'checkpoints'\n",
            "training diverged: loss 9",
        ),
        ("Reproducing\nERROR: Unable to acquire lock\n", "Unable to acquire lock"),
        ("Killed\n", "Killed"),
        ("", "no output"),
    ],
)
def test_the_last_error_of_a_log(log: str, error: str) -> None:
    assert dvc.last_error(log) == error
