"""`antimatter verify` on a tiny pipeline that was really run: what it says, what it leaves, and how it ends."""

import hashlib
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

from antimatter import params
from antimatter.verify.environment import PROVENANCE
from antimatter.verify.run import Graph

FAKE_DVC = Path(__file__).parents[1] / "helpers/fake_dvc"
STAGES = list(params.load(Path("dvc.yaml"))["stages"])


def following(name: str) -> list[str]:
    """A stage and those behind it in dvc.yaml."""
    return STAGES[STAGES.index(name) :]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the temporary clone comes to lie."""
    folder = tmp_path / "a place with spaces"
    folder.mkdir()
    return folder


@pytest.fixture
def clone(made: Path, tmp_path: Path) -> Path:
    """A repository whose cache lies elsewhere: in the one in which the pipeline has run."""
    folder = tmp_path / "a clone"
    assert (
        tiny_pipeline.run(tmp_path, "git", "clone", "--quiet", str(made), str(folder)).returncode
        == 0
    )
    (folder / ".dvc/config.local").write_text(
        f"[cache]\n    dir = {made / '.dvc/cache'}\n"
    )  # `dvc cache dir --local`
    return folder


def left(place: Path) -> list[Path]:
    return list(
        place.glob("antimatter-verify-*")
    )  # torch leaves an empty folder of its own in TMPDIR


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "antimatter.cli", "verify", *arguments]


def verify(
    folder: Path, place: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    surroundings = {**tiny_pipeline.ENVIRONMENT, "TMPDIR": str(place), **environment}
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def refused(folder: Path, place: Path, *arguments: str) -> str:
    """The one line that says why it did not begin; nothing is left of it."""
    done = verify(folder, place, *arguments)
    assert (done.returncode, done.stdout) == (1, ""), done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (
        len(errors) == 1
        and done.stderr.splitlines()[-1] == errors[0]
        and "Running stage" not in done.stderr
    ), done.stderr
    assert left(place) == []
    return errors[0]


def test_a_run_on_the_same_machine_is_identical_and_leaves_nothing(made: Path, place: Path) -> None:
    """Whatever `runtime:` says."""
    before = (made / "dvc.lock").read_bytes()
    done = verify(made, place, "--exact", "-S", "runtime.workers=2")
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = sum(len(stage["outs"]) for stage in params.load(made / "dvc.lock")["stages"].values())
    said = done.stdout.splitlines()
    assert [line.split()[0] for line in said[1 : 1 + len(STAGES)]] == STAGES
    verdict, *why = said[1 + len(STAGES) :]
    assert re.fullmatch(
        rf"identical: all ({outputs}|{outputs - 1}) outputs of {len(STAGES)} stages", verdict
    )  # less one: the record of the machine
    assert why[:2] == [
        "although this differs in the environment:",
        "  parameter runtime.workers 1 -> 2, by -S",
    ]
    assert re.findall(r"Running stage '(\w+)'", done.stderr) == STAGES  # none was restored
    assert left(place) == []
    assert (made / "dvc.lock").read_bytes() == before
    assert tiny_pipeline.run(made, "git", "status", "--porcelain").stdout == ""


def test_another_machine_differs_first_in_checkpoints_within_the_tolerance(
    made: Path, clone: Path, place: Path, tmp_path: Path
) -> None:
    """One whose processor has no vector instructions: torch then takes other kernels, whose sums end in other bits."""
    report = tmp_path / "report.json"
    tiny_pipeline.keep_stages(clone, *STAGES[: STAGES.index("evaluation") + 1])
    done = verify(
        clone,
        place,
        "--from",
        "checkpoints",
        "--json",
        str(report),
        ATEN_CPU_CAPABILITY="default",
        PYTHONPATH="",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(report.read_text())
    assert (
        told["first"] == "checkpoints"
        and told["status"] == 0
        and list(told["stages"]) == ["checkpoints", "evaluation"]
    )
    assert re.search(
        r"differs first in checkpoints; within the tolerance of another machine: at most \d\.\d+% apart, 1% is allowed",
        told["verdict"],
    )
    kind = json.loads((made / PROVENANCE).read_text())["machine"]["kind"]
    assert any(f"machine.kind {kind} -> DEFAULT, " in line for line in done.stdout.splitlines())
    found = {output["path"]: output for output in told["stages"]["checkpoints"]}
    weights = r"final\.safetensors \(weights at most [0-9.e-]+ apart, \d+\.\d\d% of their norm\)"
    assert any(re.fullmatch(weights, note) for note in found["models/checkpoints"]["notes"])
    loss = next(
        number
        for number in found["metrics/checkpoints.json"]["numbers"]
        if number["name"] == "validation_loss"
    )
    assert (
        loss["old"]
        == json.loads((made / "metrics/checkpoints.json").read_text())["validation_loss"]
        != loss["new"]
    )
    assert (
        loss["apart"] == pytest.approx(abs(loss["new"] / loss["old"] - 1)) and loss["bound"] == 0.01
    )
    assert {number["name"] for number in found["plots/training.csv"]["numbers"]} == {
        "loss",
        "gradient_norm",
    }  # the rate is the same


@pytest.mark.parametrize("lock_too", [False, True])
def test_a_metric_that_was_changed_by_hand_is_found(
    made: Path, clone: Path, place: Path, lock_too: bool
) -> None:
    """In Git alone, or in dvc.lock as well. What evaluation computes is what it has computed before."""
    path, lock = clone / "metrics/evaluation.json", clone / "dvc.lock"
    honest, values = path.read_bytes(), json.loads(path.read_bytes())
    values["validation"]["perplexity"] = round(values["validation"]["perplexity"] * 0.5, 4)
    path.write_text(json.dumps(values, indent=2) + "\n")
    if lock_too:
        old, new = (hashlib.md5(content).hexdigest() for content in (honest, path.read_bytes()))
        lock.write_text(lock.read_text().replace(old, new))
    tiny_pipeline.commit(clone, "a better model")
    fake = {"PYTHONPATH": str(FAKE_DVC), "FAKE_DVC": json.dumps({"results": str(made)})}
    done = verify(clone, place, "--from", "evaluation", **fake)
    assert done.returncode == 1, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert any(
        re.fullmatch(
            r"    validation\.perplexity +[\d.]+ -> [\d.]+ +100\.0\d% apart, 1% allowed", line
        )
        for line in said
    )
    (verdict,) = (line for line in said if line.startswith("differs first in evaluation; BEYOND"))
    assert (
        verdict.endswith("of which dvc.lock and Git say different things at this commit")
        is not lock_too
    )
    assert any("does not tell of the machine" in line for line in said) is lock_too


def test_surrounding_git_and_dvc_settings_do_not_lead_out_of_the_clone(
    clone: Path, place: Path
) -> None:
    """As a Git hook and a DVC stage set them."""
    head = (clone / ".git/HEAD").read_text()
    leaks = {
        "GIT_DIR": str(clone / ".git"),
        "GIT_WORK_TREE": str(clone),
        "GIT_INDEX_FILE": str(clone / ".git/index"),
        "DVC_ROOT": "/nonexistent",
    }
    done = verify(clone, place, "--from", "ollama", **leaks)
    assert done.returncode == 0, done.stderr
    assert (clone / ".git/HEAD").read_text() == head and tiny_pipeline.run(
        clone, "git", "status", "--porcelain"
    ).stdout == ""


def test_a_stage_that_fails_is_named_and_the_clone_stays_if_asked(clone: Path, place: Path) -> None:
    done = verify(clone, place, "--from", "ollama", "-S", "ollama.type=f32", "--keep")
    assert done.returncode == 1
    assert re.search(
        r"^failed: ollama ended with status \d+, its error stands above$", done.stdout, re.MULTILINE
    )
    assert re.search(r"^error: .*f32", done.stderr, re.MULTILINE)
    (kept,) = left(place)
    assert f"verify: the clone stays in {kept}" in done.stderr
    assert json.loads((kept / "clone/params.yaml").read_text())["ollama"]["type"] == "f32"


def test_without_the_inputs_in_the_cache_it_says_how_to_get_them(
    made: Path, tmp_path: Path, place: Path
) -> None:
    """And which changes are no part of it."""
    folder = tmp_path / "bare of data"
    assert (
        tiny_pipeline.run(tmp_path, "git", "clone", "--quiet", str(made), str(folder)).returncode
        == 0
    )
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "Makefile"):
        (folder / name).write_text("changed\n")
    done = verify(folder, place, "--from", "gguf")
    assert (done.returncode, done.stdout, left(place)) == (1, "", [])
    said = done.stderr.splitlines()
    assert re.fullmatch(
        r"note: what is verified is the commit \w{12}, without your changes of CHANGELOG.md, LICENSE, Makefile and 1 more",
        said[0],
    )
    assert said[-1].startswith(
        "error: data/conversations, as dvc.lock records it, is not in the cache "
    )
    assert said[-1].endswith("run `dvc pull` or `dvc repro` first")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "training"), "there is no stage 'training': known are checked, raw, cleaned, "),
        (
            ("-S", "checkpoints.thread=1"),
            "-S checkpoints.thread=1: give section.key=value with a parameter of params.yaml",
        ),
        (
            ("-S", "checkpoints.threads"),
            "-S checkpoints.threads: give section.key=value with a parameter of params.yaml",
        ),
        (
            ("--from", "gguf", "-S", "checkpoints.threads=1"),
            "no stage of gguf, ollama reads `checkpoints`: choose another --from",
        ),
    ],
)
def test_a_bad_option_is_one_line(
    clone: Path, place: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert words in refused(clone, place, *arguments)


def test_outputs_that_do_not_fit_on_the_disk_are_told_before_any_is_made(
    clone: Path, place: Path
) -> None:
    lock = clone / "dvc.lock"
    text, count = re.subn(
        r"(path: data/raw\n(?: +.*\n)*? +size: )\d+",
        r"\g<1>100000000000000000",
        lock.read_text(),
        count=1,
    )
    assert count == 1
    lock.write_text(text)
    tiny_pipeline.commit(clone, "large")
    said = refused(clone, place)
    assert "MB of outputs do not fit into" in said and said.endswith("are free: set TMPDIR")


def test_where_there_is_nothing_to_verify_it_says_so(tmp_path: Path, place: Path) -> None:
    folder = tmp_path / "nothing"
    folder.mkdir()
    root = {"PYTHONPATH": str(Path.cwd())}
    assert (
        verify(folder, place, **root).stderr
        == "error: there is no commit to verify here: `git init`, then commit the results\n"
    )
    assert tiny_pipeline.run(folder, "git", "init", "--quiet").returncode == 0
    assert (
        verify(folder, place, **root).stderr
        == "error: there is no commit to verify here: `git init`, then commit the results\n"
    )
    shutil.copy("dvc.yaml", folder)
    tiny_pipeline.commit(folder, "no lock")
    assert (
        verify(folder, place, **root)
        .stderr.splitlines()[-1]
        .startswith("error: dvc.lock is not in the commit ")
    )
    assert left(place) == []


# A stage that tells its process id and does not end. DVC starts it, but no torch.
ENDLESS = "import os, pathlib, time; pathlib.Path('started').write_text(f'{os.getpid()}\\n'); time.sleep(600)"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_ended_in_the_middle_it_leaves_no_clone_and_no_process(
    clone: Path, place: Path, number: signal.Signals, status: int
) -> None:
    tiny_pipeline.keep_stages(clone, "raw")
    text = (clone / "dvc.yaml").read_text()
    (clone / "dvc.yaml").write_text(
        re.sub(r"cmd: .*", lambda _: f'cmd: python -c "{ENDLESS}"', text)
    )
    tiny_pipeline.commit(clone, "an endless stage")
    surroundings = {**tiny_pipeline.ENVIRONMENT, "TMPDIR": str(place)}
    with subprocess.Popen(
        command(), cwd=clone, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        deadline = time.monotonic() + 300
        while not any("\n" in path.read_text() for path in place.glob("*/clone/started")):
            assert running.poll() is None and time.monotonic() < deadline, "the stage did not begin"
            time.sleep(0.05)
        (started,) = place.glob("*/clone/started")
        group = os.getpgid(int(started.read_text()))
        assert group != os.getpgid(running.pid)
        running.send_signal(number)
        assert running.wait(120) == status
    assert left(place) == []
    with pytest.raises(
        ProcessLookupError
    ):  # not even a zombie: the stage's parents have waited, or init does
        for _ in range(100):
            os.killpg(group, 0)
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("start", "stages"),
    [
        ("", STAGES),
        ("gguf", ["gguf", "ollama"]),
        ("evaluation", ["evaluation"]),
        ("checkpoints", following("checkpoints")),
        ("tokenizer", following("tokenizer")),
    ],
)
def test_what_follows_from_a_stage(start: str, stages: list[str]) -> None:
    assert Graph(params.load(Path("dvc.yaml"))["stages"]).after(start) == stages
