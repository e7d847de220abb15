"""verify() on a tiny pipeline that has really run: what it reports, and that nothing remains."""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.tiny_pipeline import ENVIRONMENT, commit, run

from antimatter import params
from antimatter.errors import UserError
from antimatter.verify import report as reports
from antimatter.verify.graph import Graph
from antimatter.verify.report import Report
from antimatter.verify.run import Request, verify

FAKE_DVC = Path(__file__).parents[1] / "helpers/fake_dvc"
STAGES = list(params.load(Path("dvc.yaml"))["stages"])
Verified = Callable[..., tuple[Report, list[str]]]


@pytest.fixture
def verified(place: Path, monkeypatch: pytest.MonkeyPatch) -> Verified:
    """Verifies a repository in this process. Returns the report and the lines of the progress."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", str(place))

    def call(folder: Path, start: str = "", *parameters: str, keep: bool = False):  # type: ignore[no-untyped-def]
        lines: list[str] = []
        report = verify(folder, Request(start, parameters, keep), lines.append)
        return report, lines

    return call


def clones(place: Path) -> list[Path]:
    """Not all that is in TMPDIR: torch leaves an empty folder there."""
    return list(place.glob("antimatter-verify-*"))


@pytest.mark.parametrize("lock_too", [False, True])
def test_a_metric_that_was_changed_by_hand_is_found(
    tiny_pipeline: Path,
    clone: Path,
    verified: Verified,
    monkeypatch: pytest.MonkeyPatch,
    lock_too: bool,
) -> None:
    """In Git alone, or in dvc.lock as well. The stage computes what it computed before."""
    path, lock = clone / "metrics/evaluation/summary.json", clone / "dvc.lock"
    original, values = path.read_bytes(), json.loads(path.read_bytes())
    values["perplexity"] = round(values["perplexity"] * 0.5, 4)
    path.write_text(json.dumps(values, indent=2) + "\n")
    if lock_too:
        old, new = (hashlib.md5(content).hexdigest() for content in (original, path.read_bytes()))
        lock.write_text(lock.read_text().replace(old, new))
    commit(clone, "a better model")
    monkeypatch.setenv("PYTHONPATH", str(FAKE_DVC))
    monkeypatch.setenv("FAKE_DVC", json.dumps({"results": str(tiny_pipeline)}))
    report, _ = verified(clone, "evaluation")
    assert report.status(exact=False) == 1
    lines = list(reports.lines(report))
    number = r"    perplexity +[\d.]+ -> [\d.]+ +100\.0\d% apart, 1% allowed"
    assert any(re.fullmatch(number, line) for line in lines)
    (verdict,) = (line for line in lines if line.startswith("differs first in evaluation; BEYOND"))
    assert ("dvc.lock and Git disagree" in verdict) is not lock_too
    assert any("was not compared" in line for line in lines) is lock_too


def test_settings_of_a_git_hook_or_a_stage_do_not_lead_out_of_the_clone(
    clone: Path, verified: Verified, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = (clone / ".git/HEAD").read_text()
    surroundings = {
        "GIT_DIR": str(clone / ".git"),
        "GIT_WORK_TREE": str(clone),
        "GIT_INDEX_FILE": str(clone / ".git/index"),
        "DVC_ROOT": "/nonexistent",
    }
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    report, _ = verified(clone, "ollama")
    assert report.status(exact=False) == 0
    for name in surroundings:
        monkeypatch.delenv(name)
    assert (clone / ".git/HEAD").read_text() == head
    assert run(clone, "git", "status", "--porcelain").stdout == ""


def test_a_stage_that_fails_is_named_and_the_clone_is_kept_on_request(
    clone: Path, place: Path, verified: Verified, capfd: pytest.CaptureFixture[str]
) -> None:
    report, progress = verified(clone, "ollama", "ollama.type=f32", keep=True)
    assert report.status(exact=False) == 1
    assert re.fullmatch(r"ollama ended with status \d+, see its error above", report.failed)
    assert re.search(r"^error: .*f32", capfd.readouterr().err, re.MULTILINE)
    (folder,) = clones(place)
    assert str(folder) in progress[-1]
    assert json.loads((folder / "clone/params.yaml").read_text())["ollama"]["type"] == "f32"


def test_without_the_inputs_in_the_cache_it_says_how_to_get_them(
    tiny_pipeline: Path, tmp_path: Path, place: Path, verified: Verified
) -> None:
    """And it names the changes that are not part of the commit."""
    folder = tmp_path / "a clone without data"
    done = run(tmp_path, "git", "clone", "--quiet", str(tiny_pipeline), str(folder))
    assert done.returncode == 0
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "Makefile"):
        (folder / name).write_text("changed\n")
    lines: list[str] = []
    with pytest.raises(UserError, match=r"^data/conversations, .* run `dvc pull` or `dvc repro`"):
        verify(folder, Request("gguf"), lines.append)
    assert lines[0].startswith("note: ")
    assert lines[0].endswith("your changes of CHANGELOG.md, LICENSE, Makefile and 1 more")
    assert clones(place) == []


@pytest.mark.parametrize(
    ("start", "parameters", "words"),
    [
        ("training", (), ["'training'", "checked, raw, cleaned, "]),
        ("", ("checkpoints.thread=1",), ["-S checkpoints.thread=1", "section.key=value"]),
        ("", ("checkpoints.threads",), ["-S checkpoints.threads", "section.key=value"]),
        ("gguf", ("checkpoints.threads=1",), ["gguf, ollama, report", "`checkpoints`", "--from"]),
    ],
)
def test_a_bad_option_is_an_error_before_anything_runs(
    clone: Path,
    place: Path,
    verified: Verified,
    start: str,
    parameters: tuple[str, ...],
    words: list[str],
) -> None:
    with pytest.raises(UserError) as caught:
        verified(clone, start, *parameters)
    assert all(word in str(caught.value) for word in words), caught.value
    assert clones(place) == []


def test_outputs_that_do_not_fit_on_the_disk_are_an_error_before_anything_runs(
    clone: Path, place: Path, verified: Verified
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
    commit(clone, "large")
    with pytest.raises(UserError, match=r"^100,000,\d{3}\.\d GB .* set TMPDIR$") as caught:
        verified(clone)
    assert str(place) in str(caught.value) and clones(place) == []


def test_where_there_is_nothing_to_verify_it_says_so(
    tmp_path: Path, place: Path, verified: Verified
) -> None:
    folder = tmp_path / "nothing"
    folder.mkdir()
    # No repository, and one without a commit
    for command in ([], ["git", "init", "--quiet"]):
        if command:
            assert run(folder, *command).returncode == 0
        with pytest.raises(UserError, match="there is no commit to verify here: `git init`"):
            verified(folder)
    shutil.copy("dvc.yaml", folder)
    commit(folder, "no lock")
    with pytest.raises(UserError, match=r"^dvc\.lock is not in the commit "):
        verified(folder)
    assert clones(place) == []


@pytest.mark.parametrize(
    ("start", "stages"),
    [
        ("", STAGES),
        ("gguf", ["gguf", "ollama", "report"]),
        ("evaluation", ["evaluation", "report"]),
        ("checkpoints", STAGES[STAGES.index("checkpoints") :]),
        ("tokenizer", STAGES[STAGES.index("tokenizer") :]),
    ],
)
def test_which_stages_follow_from_one(start: str, stages: list[str]) -> None:
    assert Graph.read(Path(".")).following(start) == stages


def test_paths_with_parameters_are_resolved() -> None:
    stages = {
        "base": {"outs": ["models/base"]},
        "tuned": {"outs": [{"models/tuned": {"cache": False}}]},
        "gguf": {"deps": ["models/${gguf.model}", "code.py"], "outs": ["models/gguf"]},
    }
    for model in ("base", "tuned"):
        graph = Graph(stages, {"gguf": {"model": model}})
        assert graph.inputs("gguf") == [f"models/{model}"]
        assert graph.following(model) == [model, "gguf"]
    with pytest.raises(UserError, match=r"\$\{gguf\.model\}"):
        Graph(stages, {"gguf": {}}).inputs("gguf")
