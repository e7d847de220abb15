"""A ladder with DVC, at a tiny size, in copies of the tiny pipeline: two real rungs, stopped and continued, and many that a fake DVC makes."""

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
from helpers import tiny_pipeline
from helpers.tiny_pipeline import COLD, ENVIRONMENT

from antimatter import cli, files
from antimatter.ladder import configs
from antimatter.repository import dvc
from antimatter.repository.checkout import Repository

FAKE_DVC = Path(__file__).parents[1] / "helpers/fake_dvc"
WIDTHS = (0.5, 1.0)
BUDGETS = (0.4, 0.7)  # besides the whole one
# `antimatter ladder` with the longest rung of two widths alone; all else is as it is
SMALL = f"""
import sys
from antimatter import cli
from antimatter.ladder import configs
configs.WIDTHS, configs.BUDGETS, whole = {WIDTHS}, (), configs.family
configs.family = lambda base, limit: [rung for rung in whole(base, limit) if rung.kind == "rung"]
sys.exit(cli.main(["ladder", *sys.argv[1:]]))
"""


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True
    ).stdout


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A ladder of two real rungs, as a process; its stages are its own processes, so that none may
    outlive it.
    """
    command = [sys.executable, "-c", SMALL, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=COLD, text=True, stdout=pipe, stderr=pipe)


@pytest.fixture
def made(made: Path, tmp_path: Path) -> Path:
    """The tiny pipeline, with parameters for a ladder committed: its shards are up to date, its model is not.

    The rungs take long enough to be caught in the middle.
    """
    folder = shutil.copytree(made, tmp_path / "a folder with spaces" / "antimatter", symlinks=True)
    quick = {"evaluation.texts": [], "evaluation.seeds": [1], "evaluation.max_new_tokens": 4}
    tiny_pipeline.edit(folder, {"checkpoints.steps": 500, **quick})
    tiny_pipeline.commit(folder, "parameters of the ladder")
    return folder


class Ladder:
    """`antimatter ladder` in this process, of two widths."""

    def __init__(
        self,
        folder: Path,
        budgets: tuple[float, ...],
        patch: pytest.MonkeyPatch,
        capture: pytest.CaptureFixture[str],
    ) -> None:
        """`budgets` are those besides the whole one."""
        self.patch, self.capture = patch, capture
        whole = configs.family
        patch.setattr(configs, "WIDTHS", WIDTHS)
        patch.setattr(configs, "BUDGETS", budgets)
        patch.setattr(
            configs,
            "family",
            lambda base, limit: [rung for rung in whole(base, limit) if rung.kind == "rung"],
        )
        patch.chdir(folder)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)

    def fake(self, **plan: str) -> None:
        """Rungs are made by the fake DVC, as the plan says; the shards are up to date."""
        self.patch.setenv("PYTHONPATH", str(FAKE_DVC))
        self.patch.setenv("FAKE_DVC", json.dumps({"status": "{}", **plan}))

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        self.capture.readouterr()
        status = cli.main(["ladder", *arguments])
        return subprocess.CompletedProcess([], status, *self.capture.readouterr())


@pytest.fixture
def ladder(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ladder:
    """Of two rungs, with DVC."""
    return Ladder(made, (), monkeypatch, capsys)


@pytest.fixture
def faked(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ladder:
    """Of six rungs, with the fake DVC."""
    found = Ladder(made, BUDGETS, monkeypatch, capsys)
    found.fake()
    return found


def workspace(folder: Path) -> tuple[str, bytes]:
    return git(folder, "status", "--porcelain"), (folder / "params.yaml").read_bytes()


def references(folder: Path) -> dict[str, str]:
    """Git's references of the experiments, by name without the digest."""
    found = git(folder, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    return {name.rpartition("/")[2].rpartition("-")[0]: name for name in found}


def processes(folder: Path) -> list[str]:
    """Command lines of what else runs below the folder."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        if link.parent.name == str(os.getpid()):
            continue
        try:
            if Path(os.readlink(link)).is_relative_to(folder):
                found.append((link.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_a_ladder_that_is_stopped_goes_on_and_runs_nothing_twice(
    made: Path, ladder: Ladder
) -> None:
    before = workspace(made)
    first = start(made, "--jobs", "2")
    deadline = time.monotonic() + 200
    while not any(
        re.search(r"step-0*[1-9]\d*\.pt$", str(path))
        for path in made.glob(".state/checkpoints-*/*.pt")
    ):
        assert first.poll() is None and time.monotonic() < deadline, (
            "no rung came to its first saved state"
        )
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=100)
    assert first.returncode == 130 and out == ""
    assert "2 of 2 runs to go, 2 at a time" in err.splitlines()[0]
    assert re.search(r"^0/2 done  ", err, re.MULTILINE)
    assert re.search(
        r"stopped with \d of 2 runs done; `antimatter ladder` goes on", err.splitlines()[-1]
    ), err
    assert processes(made) == []
    assert workspace(made) == before
    saved = {path.parent.name for path in made.glob(".state/checkpoints-*/*.pt")}
    assert saved  # of the rungs that were at work

    second = ladder()
    assert second.returncode == 1
    assert (
        "2 rungs have run, and a law with a check needs 5 or more" in second.stderr.splitlines()[-1]
    )
    assert not list(made.glob(".state/checkpoints-*"))  # taken up, and done
    assert references(made).keys() == {"ladder-16x2-500", "ladder-32x2-500"}
    assert git(made, "status", "--porcelain", "--untracked-files=all") == ""
    assert not list(made.glob(".state/ladder/*.log"))

    # the experiment is what the message says, and its stages before the training did not run again
    reference = references(made)["ladder-16x2-500"]
    loss = json.loads(git(made, "show", f"{reference}:metrics/evaluation.json"))["validation"][
        "loss"
    ]
    assert re.search(
        rf"^16x2-500: loss {loss:.4f}, ",
        first.stderr if "16x2-500: loss" in err else second.stderr,
        re.MULTILINE,
    )
    assert (
        git(
            made,
            "diff",
            "--name-only",
            "HEAD",
            reference,
            "--",
            "metrics/raw.json",
            "metrics/shards.json",
        )
        == ""
    )


def test_a_ladder_is_fitted_and_reported_and_the_next_call_finds_all_of_it(
    made: Path, faked: Ladder
) -> None:
    first = faked()
    assert first.returncode == 0, first.stderr
    assert (
        f"6 of 6 runs to go, {min(6, len(os.sched_getaffinity(0)))} at a time"
        in first.stderr.splitlines()[0]
    )
    assert references(made).keys() == {
        f"ladder-{w}x2-{s}" for w in (16, 32) for s in (200, 350, 500)
    }
    assert re.search(r"^check +32x2-500 from the others: ", first.stdout, re.MULTILINE)
    assert re.search(r"^forecast +300m: N 353 M, 8\.70 B tokens", first.stdout, re.MULTILINE)
    assert "H100" in first.stdout
    rows = (made / "ladder/rungs.csv").read_text().splitlines()
    assert len(rows) == 7
    figures = json.loads((made / "ladder/ladder.json").read_text())
    assert figures["check"]["rung"] == "32x2-500" and abs(figures["check"]["error"]) < 0.1
    assert (made / "ladder/ladder.png").read_bytes().startswith(b"\x89PNG")
    changed = git(made, "status", "--porcelain", "--untracked-files=all").splitlines()
    assert sorted(line[3:] for line in changed) == [
        "ladder/ladder.json",
        "ladder/ladder.png",
        "ladder/rungs.csv",
    ]
    assert not list(made.glob(".state/ladder/*.log"))
    evaluation = json.loads(
        git(made, "show", f"{references(made)['ladder-16x2-200']}:metrics/evaluation.json")
    )
    (row,) = (row for row in rows if row.startswith("16x2-200,"))
    assert f"{evaluation['validation']['loss']:.6g}" in row

    # another call, under another commit, finds all of them, and writes the same bytes
    written = {path.name: path.read_bytes() for path in (made / "ladder").iterdir()}
    git(made, "add", "ladder")
    git(made, "commit", "--quiet", "--message", "the ladder")
    again = faked()
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")
    assert {path.name: path.read_bytes() for path in (made / "ladder").iterdir()} == written
    dry = faked("--dry-run")
    assert dry.returncode == 0 and len(re.findall(r" done$", dry.stdout, re.MULTILINE)) == 6


def test_a_workspace_with_changes_is_refused_and_left_alone(made: Path, faked: Ladder) -> None:
    params = made / "params.yaml"
    good = params.read_text()
    params.write_text(good.replace("beta2: 0.999", "beta2: 0.998"))
    done = faked()
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert (
        "params.yaml differs from the last commit, to which rungs belong: `git commit` or `git stash`"
        in done.stderr
    )
    assert "beta2: 0.998" in params.read_text()
    git(made, "checkout", "params.yaml")
    assert faked().returncode == 0
    params.write_text(good.replace("beta2: 0.999", "beta2: 0.998"))
    git(made, "commit", "--quiet", "--all", "--message", "another rate of decay")
    fit = faked("--fit")
    assert (
        fit.returncode == 1 and "0 rungs have run" in fit.stderr
    )  # those of before have another beta2
    params.write_text(good.replace("ngram: 13 # words", "ngram: 12 # words"))
    git(made, "commit", "--quiet", "--all", "--message", "other data")
    faked.patch.setenv("FAKE_DVC", "{}")  # DVC itself says whether the shards are up to date
    stale = faked()
    assert (
        stale.returncode == 1
        and "the stage cleaned has changed since data/shards was made: `dvc repro shards`"
        in stale.stderr
    )


def test_a_rung_that_fails_is_named_and_the_others_go_on(made: Path, faked: Ladder) -> None:
    faked.fake(fail="-16x2-200-")
    done = faked()
    assert done.returncode == 0, done.stderr
    (failed,) = (line for line in done.stderr.splitlines() if " failed: " in line)
    assert re.match(
        r"16x2-200 failed: it went wrong \(\.state/ladder/ladder-16x2-200-.*\.log\)$", failed
    )
    assert done.stdout.startswith("1 of 6 runs are missing; 16x2-200: it went wrong (")
    assert len(references(made)) == 5
    faked.fake()
    again = faked()
    assert (
        "1 of 6 runs to go, 1 at a time" in again.stderr.splitlines()[0] and again.returncode == 0
    )
    assert len(references(made)) == 6


def test_the_error_of_a_stage_comes_through_dvc(made: Path, ladder: Ladder) -> None:
    """A micro-batch that does not fit the batch: a stage says so before it computes anything."""
    text = (made / "params.yaml").read_text()
    (made / "params.yaml").write_text(re.sub(r"micro_batch: \d+", "micro_batch: 3", text))
    git(made, "commit", "--quiet", "--all", "--message", "three")
    done = ladder()
    assert done.returncode == 1
    failed = [line for line in done.stderr.splitlines() if " failed: " in line]
    assert len(failed) == 2
    for line in failed:
        assert re.match(
            r"\d+x2-500 failed: runtime\.micro_batch must divide .* \(\.state/ladder/ladder-.*\.log\)$",
            line,
        ), line
    assert "rungs have run, and a law with a check needs 5 or more" in done.stderr.splitlines()[-1]
    assert processes(made) == []


def test_outside_of_a_repository_and_before_a_commit_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="is no Git repository with DVC, and rungs are its experiments"
    ):
        Repository(tmp_path)
    (tmp_path / ".dvc").mkdir()
    git(tmp_path, "init", "--quiet")
    with pytest.raises(ValueError, match="there is no commit yet"):
        Repository(tmp_path)


def test_what_a_killed_ladder_has_left_running_is_named(made: Path, faked: Ladder) -> None:
    logs = made / ".state/ladder"
    logs.mkdir(parents=True)
    with (logs / "ladder-left.log").open("w") as log:
        log.write("process group 4711\n")
        log.flush()
        holder = subprocess.Popen(
            ["flock", "--exclusive", log.name, "sleep", "60"], start_new_session=True
        )
    try:
        deadline = time.monotonic() + 10
        while not files.is_locked(Path(log.name)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        done = faked()
        assert done.returncode == 1
        assert (
            "ladder-left still runs, left by a ladder that was killed: wait for it, or end it by `kill -INT -- -4711`"
            in done.stderr
        )
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            "step 3\rstep 4\nerror: training diverged: loss 9\nERROR: failed to reproduce 'checkpoints'\n",
            "training diverged: loss 9",
        ),
        ("Reproducing\nERROR: Unable to acquire lock\n", "Unable to acquire lock"),
        ("Killed\n", "Killed"),
        ("", "it said nothing"),
    ],
)
def test_the_words_of_a_log_that_tell_most(log: str, words: str) -> None:
    assert dvc.last_words(log) == words
