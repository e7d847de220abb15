"""A whole ladder with DVC, at a tiny size, in a copy of this checkout; stopped in the middle and continued."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from a_pipeline import ENVIRONMENT, TINY, copy, dvc

from antimatter import files
from antimatter.experiments import repository
from antimatter.experiments.repository import Repository

# `antimatter ladder` with two widths and three budgets, and without the six neighbours, for the sake of the clock; all else is as it is
SMALL = """
import sys
from antimatter import cli
from antimatter.experiments import family
family.WIDTHS, family.BUDGETS, whole = (0.5, 1.0), (OTHERS), family.family
family.family = lambda base, limit: [rung for rung in whole(base, limit) if rung.kind == "rung"]
sys.exit(cli.main(["ladder", *sys.argv[1:]]))
"""


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout


def start(folder: Path, *arguments: str, budgets: tuple[float, ...] = (0.4, 0.7)) -> "subprocess.Popen[str]":
    """`budgets` are those besides the whole one."""
    script = SMALL.replace("(OTHERS)", str(budgets))
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ladder(folder: Path, *arguments: str, budgets: tuple[float, ...] = (0.4, 0.7)) -> "subprocess.CompletedProcess[str]":
    with start(folder, *arguments, budgets=budgets) as process:
        out, err = process.communicate(timeout=400)
    return subprocess.CompletedProcess([], process.returncode, out, err)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose shards are made and committed. The longest rungs take long enough to be caught in the middle."""
    folder = copy(
        tmp_path_factory.mktemp("a folder with spaces") / "antimatter",
        {**TINY, "checkpoints.steps": 500, "evaluation.texts": [], "evaluation.seeds": [1], "evaluation.max_new_tokens": 4},
    )
    dvc(folder, "repro", "shards")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "shards")
    return folder


def workspace(folder: Path) -> tuple[str, bytes]:
    return git(folder, "status", "--porcelain"), (folder / "params.yaml").read_bytes()


def processes(folder: Path) -> list[str]:
    """Command lines of what runs below the folder."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if Path(os.readlink(link)).is_relative_to(folder):
                found.append((link.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_a_ladder_that_is_stopped_goes_on_and_runs_nothing_twice(made: Path) -> None:
    before = workspace(made)
    first = start(made)
    deadline = time.monotonic() + 200
    while not any(re.search(r"step-0*[1-9]\d*\.pt$", str(path)) for path in made.glob(".state/checkpoints-*/*.pt")):
        assert first.poll() is None and time.monotonic() < deadline, "no rung came to its first saved state"
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=100)
    assert first.returncode == 130 and out == ""
    assert "6 of 6 runs to go, 2 at a time" in err.splitlines()[0] or os.cpu_count() != 2
    assert re.search(r"^0/6 done  ", err, re.MULTILINE)
    assert re.search(r"stopped with \d of 6 runs done; `antimatter ladder` goes on", err.splitlines()[-1]), err
    assert processes(made) == []
    assert workspace(made) == before
    saved = {path.parent.name for path in made.glob(".state/checkpoints-*/*.pt")}
    assert saved  # of the rungs that were at work

    second = ladder(made)
    assert second.returncode == 0, second.stderr
    assert not list(made.glob(".state/checkpoints-*"))  # taken up, and done
    assert re.search(r"^check +32x2-500 from the others: ", second.stdout, re.MULTILINE)
    assert re.search(r"^forecast +300m: N 353 M, 8\.70 B tokens", second.stdout, re.MULTILINE)
    assert "H100" in second.stdout
    names = git(made, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps").split()
    assert sorted(name.rpartition("-")[0] for name in names) == sorted(f"ladder-{w}x2-{s}" for w in (16, 32) for s in (200, 350, 500))
    rows = (made / "ladder/rungs.csv").read_text().splitlines()
    assert len(rows) == 7
    figures = json.loads((made / "ladder/ladder.json").read_text())
    assert figures["check"]["rung"] == "32x2-500" and abs(figures["check"]["error"]) < 0.1
    assert (made / "ladder/ladder.png").read_bytes().startswith(b"\x89PNG")
    changed = git(made, "status", "--porcelain", "--untracked-files=all").splitlines()
    assert sorted(line[3:] for line in changed) == ["ladder/ladder.json", "ladder/ladder.png", "ladder/rungs.csv"]
    assert not list(made.glob(".state/ladder/*.log"))

    # the experiment is what the row says, and its stages before the training did not run again
    reference = next(name for name in git(made, "for-each-ref", "--format=%(refname)", "refs/exps").split() if "/ladder-16x2-200-" in name)
    evaluation = json.loads(git(made, "show", f"{reference}:metrics/evaluation.json"))
    assert any(row.startswith("16x2-200,") and str(evaluation["validation"]["loss"]) in row for row in rows)
    assert git(made, "diff", "--name-only", "HEAD", reference, "--", "metrics/raw.json", "metrics/shards.json") == ""

    # a third call, under another commit, finds all of them, and writes the same bytes
    pictures = {path.name: path.read_bytes() for path in (made / "ladder").iterdir()}
    git(made, "add", "ladder")
    git(made, "commit", "--quiet", "--message", "the ladder")
    third = ladder(made)
    assert (third.returncode, third.stdout, third.stderr) == (0, second.stdout, "")
    assert {path.name: path.read_bytes() for path in (made / "ladder").iterdir()} == pictures
    dry = ladder(made, "--dry-run")
    assert dry.returncode == 0 and len(re.findall(r" done$", dry.stdout, re.MULTILINE)) == 6


def test_a_workspace_with_changes_is_refused_and_left_alone(made: Path) -> None:
    params = made / "params.yaml"
    good = params.read_text()
    try:
        params.write_text(good.replace("beta2: 0.95", "beta2: 0.96"))
        done = ladder(made)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert "params.yaml differs from the last commit, to which rungs belong: `git commit` or `git stash`" in done.stderr
        assert "beta2: 0.96" in params.read_text()
        git(made, "commit", "--quiet", "--all", "--message", "another rate of decay")
        fit = ladder(made, "--fit")
        assert fit.returncode == 1 and "0 rungs have run" in fit.stderr  # those of before have another beta2
        params.write_text(good.replace("ngram: 13 # words", "ngram: 12 # words"))
        git(made, "commit", "--quiet", "--all", "--message", "other data")
        stale = ladder(made)
        assert stale.returncode == 1 and "the stage cleaned has changed since data/shards was made: `dvc repro shards`" in stale.stderr
    finally:
        params.write_text(good)
        git(made, "commit", "--quiet", "--all", "--allow-empty", "--message", "as before")


def test_a_rung_that_fails_is_named_and_the_others_go_on(made: Path, tmp_path: Path) -> None:
    """With a rate that no model survives."""
    folder = tmp_path / "failing"
    shutil.copytree(made, folder, symlinks=True)
    text = (folder / "params.yaml").read_text()
    text = text.replace("steps: 500", "steps: 20").replace("factor: 3.0", "factor: 1.0001").replace("window: 100", "window: 2")
    (folder / "params.yaml").write_text(text.replace("max_backtracks: 4", "max_backtracks: 0"))
    git(folder, "commit", "--quiet", "--all", "--message", "spikes are deadly")
    done = ladder(folder, budgets=())
    assert done.returncode == 1
    failed = [line for line in done.stderr.splitlines() if " failed: " in line]
    assert len(failed) == 2 and all(
        re.match(r"\d+x2-\d+ failed: training diverged: loss .* \(\.state/ladder/ladder-.*\.log\)$", line) for line in failed
    )
    assert "rungs have run, and a law with a check needs 5 or more" in done.stderr.splitlines()[-1]
    assert processes(folder) == []


def test_outside_of_a_repository_and_before_a_commit_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no Git repository with DVC, and rungs are its experiments"):
        Repository(tmp_path)
    (tmp_path / ".dvc").mkdir()
    git(tmp_path, "init", "--quiet")
    with pytest.raises(ValueError, match="there is no commit yet"):
        Repository(tmp_path)


def test_what_a_killed_ladder_has_left_running_is_named(made: Path) -> None:
    logs = made / ".state/ladder"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "ladder-left.log").open("w") as log:
        log.write("process group 4711\n")
        log.flush()
        holder = subprocess.Popen(["flock", "--exclusive", log.name, "sleep", "60"], start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while not files.is_locked(Path(log.name)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for name in git(made, "for-each-ref", "--format=%(refname)", "refs/exps").split()[:1]:
            git(made, "update-ref", "-d", name)  # so that there is something to do
        done = ladder(made)
        assert done.returncode == 1
        assert "ladder-left still runs, left by a ladder that was killed: wait for it, or end it by `kill -INT -- -4711`" in done.stderr
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        Path(log.name).unlink()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("step 3\rstep 4\nerror: training diverged: loss 9\nERROR: failed to reproduce 'checkpoints'\n", "training diverged: loss 9"),
        ("Reproducing\nERROR: Unable to acquire lock\n", "Unable to acquire lock"),
        ("Killed\n", "Killed"),
        ("", "it said nothing"),
    ],
)
def test_the_words_of_a_log_that_tell_most(log: str, words: str) -> None:
    assert repository.last_words(log) == words
