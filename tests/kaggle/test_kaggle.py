"""The kernel folder, and its script run as Kaggle would: one writable folder, a read-only HOME, no root, no network."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import fake_program, fake_release, tiny_pipeline
from ruamel.yaml import YAML

from antimatter import files

NOBODY = 65534
ROOTED = os.geteuid() == 0
SETPRIV = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=+dac_read_search",
)
# For root: a network with loopback alone (SIOCSIFFLAGS, IFF_UP), disks that are read-only but for
# the folder argv[1], and the rights of nobody, who
# may read all the same, since the interpreter may lie in root's home
CONFINE = (
    "import fcntl, os, socket, struct, subprocess, sys\n"
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH22x', b'lo', 0x49))\n"
    "for words in (['--bind', '/tmp', '/tmp'], ['--bind', sys.argv[1], sys.argv[1]], *(['-o', 'remount,bind,ro', disk] for disk in ('/tmp', '/'))):\n"
    "    subprocess.run(['mount', *words], check=True)\n"
    "os.chdir(sys.argv[1])\n"
    f"os.execvp('setpriv', [*{SETPRIV!r}, *sys.argv[2:]])"
)
# All that the client's documentation lists for kernel-metadata.json, and enable_tpu, which the
# client reads too
DOCUMENTED = {
    "id", "id_no", "title", "code_file", "language", "kernel_type", "is_private", "enable_gpu", "enable_tpu", "enable_internet", "machine_shape",
    "dataset_sources", "competition_sources", "kernel_sources", "model_sources",
}  # fmt: skip


def kaggle(
    repository: Path, folder: Path, *options: str, user: str = "ann"
) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "antimatter.cli",
        "kaggle",
        str(folder),
        "--user",
        user,
        *options,
    ]
    return subprocess.run(
        command,
        cwd=repository,
        env={**tiny_pipeline.ENVIRONMENT, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=60,
    )


def git(repository: Path, *arguments: str) -> None:
    done = tiny_pipeline.run(repository, "git", *arguments)
    assert done.returncode == 0, done.stderr


class Machine:
    """A fake Kaggle: input/ and working/ in a folder, and a way to run a kernel in it."""

    def __init__(self, root: Path) -> None:
        self.root, self.input, self.working = root, root / "input", root / "working"
        self.home = root / "home"
        for folder in (self.input, self.working, self.home):
            folder.mkdir(parents=True)
        if ROOTED:
            os.chown(self.working, NOBODY, NOBODY)
        for folder in (self.home, root):
            folder.chmod(0o555)

    def attach(self, source: Path, name: str, ignore: str = "") -> Path:
        place = self.input / name
        shutil.copytree(source, place, ignore=shutil.ignore_patterns(ignore))
        return place

    def start(self, folder: Path, **environment: str) -> "subprocess.Popen[str]":
        confined = (
            ["unshare", "--net", "--mount", sys.executable, "-c", CONFINE, str(self.working)]
            if ROOTED
            else []
        )
        nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
        variables = {
            "PATH": tiny_pipeline.ENVIRONMENT["PATH"],
            "HOME": str(self.home),
            "ANTIMATTER_KAGGLE_ROOT": str(self.root),
            **nowhere,
            **environment,
        }
        command = [*confined, sys.executable, str(folder / "run.py")]
        for path in (path for path in self.input.rglob("*") if path.is_file()):
            path.chmod(0o444)
        return subprocess.Popen(
            command,
            cwd=self.working,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, folder: Path, status: int = 0, **environment: str) -> str:
        with self.start(folder, **environment) as process:
            said, _ = process.communicate(timeout=300)
        assert process.returncode == status, said
        return said

    def remains(self) -> list[str]:
        """Processes that the kernel has left behind."""
        here = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"ANTIMATTER_KAGGLE_ROOT={self.root}".encode() in path.read_bytes().split(b"\0"):
                    here.append((path.parent / "cmdline").read_text())
            except OSError:  # it has ended, or belongs to somebody else
                continue
        return here


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[[str], Machine]]:
    if (
        ROOTED
        and subprocess.run(
            ["unshare", "--net", "--mount", *SETPRIV, "true"], capture_output=True
        ).returncode
    ):
        pytest.skip("root may not confine itself here: run the tests as another user")
    made: list[Machine] = []

    def make(name: str) -> Machine:
        made.append(Machine(tmp_path / name))
        return made[-1]

    yield make
    for each in made:
        assert list(each.home.iterdir()) == [] and each.remains() == []
        assert sorted(path.name for path in each.root.iterdir()) == ["home", "input", "working"]
        each.root.chmod(0o755)  # or it cannot be removed


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with tiny parameters, in which nothing has run."""
    return tiny_pipeline.copy(tmp_path_factory.mktemp("kaggle") / "antimatter")


@pytest.fixture(scope="module")
def trained(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkout, in which `dvc repro` has run undisturbed."""
    return shutil.copytree(made, tmp_path_factory.mktemp("trained") / "antimatter", symlinks=True)


def output_before_the_training(made: Path, folder: Path) -> Path:
    """What a session leaves that was cut off after the stage shards, taken from a run that has gone on."""
    yaml = YAML()
    lock = yaml.load(made / "dvc.lock")
    stages = list(lock["stages"])
    lock["stages"] = {name: lock["stages"][name] for name in stages[: stages.index("checkpoints")]}
    shutil.copytree(made / ".dvc/cache/files", folder / "kept/cache/files")
    (folder / "kept/state").mkdir()
    shutil.copy(made / ".state/checked", folder / "kept/state")
    (folder / "kept/run.json").write_text('{"begun": 1}')
    yaml.dump(lock, folder / "kept/dvc.lock")
    for stage in lock["stages"].values():
        for out in stage["outs"]:
            if out["path"].startswith(("metrics/", "plots/")):
                (folder / out["path"]).parent.mkdir(exist_ok=True)
                shutil.copy(made / out["path"], folder / out["path"])
    return folder


def test_a_run_that_its_session_cuts_off_goes_on_in_the_next_and_ends_in_the_same_lock(
    repository: Path, trained: Path, tmp_path: Path, machine: Callable[[str], Machine]
) -> None:
    assert kaggle(repository, tmp_path / "kernel").returncode == 0
    before = output_before_the_training(trained, tmp_path / "before")
    first = machine("first")
    first.attach(tmp_path / "kernel" / "dataset", "datasets/ann/antimatter-pipeline-files")
    first.attach(before, "notebooks/ann/antimatter-pipeline")
    with first.start(tmp_path / "kernel") as process:
        deadline = time.monotonic() + 200
        while not list(first.working.glob("kept/state/*/step-00000020.pt")):
            assert process.poll() is None and time.monotonic() < deadline, "no state of step 20"
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert re.findall(r"Running stage '(\w+)'", said) == ["checkpoints"]
    assert (
        re.search(r"paused at step \d+ of 200, nothing is lost", said)
        and "paused: the session was ended. Attach" in said
    )
    assert sorted(path.name for path in first.working.iterdir()) == ["kept", "metrics", "plots"]

    second = machine("second")
    second.attach(
        tmp_path / "kernel" / "dataset", "antimatter-pipeline-files"
    )  # where Kaggle mounted data sets before 2026
    older = second.attach(before, "notebooks/ann/antimatter-older")
    attached = second.attach(first.working, "notebooks/ann/antimatter-pipeline")
    newest = max(attached.glob("kept/state/*/step-*.pt"))
    os.truncate(newest, newest.stat().st_size // 2)  # a damaged copy
    shards = max(attached.glob("kept/cache/files/md5/*/*"), key=lambda path: path.stat().st_size)
    shards.chmod(0o644)
    os.truncate(shards, 1000)
    said = second.run(tmp_path / "kernel")
    assert (
        f"2 outputs are attached, the newest counts: {attached}, {older}" in said
        and f"going on from {attached}" in said
    )
    assert f"{newest.name} is damaged" in said and re.search(r"going on from step \d+ of 200", said)
    assert re.findall(r"Stage '(\w+)' didn't change", said) == [
        "checked",
        "raw",
        "cleaned",
        "tokenizer",
        "conversations",
    ]
    assert re.search(r"done: perplexity \d+\.\d\d, \d\.\d{3} bits per byte", said)
    assert (second.working / "kept/dvc.lock").read_bytes() == (trained / "dvc.lock").read_bytes()
    for name in (
        "models/gguf/antimatter-f16.gguf",
        "models/ollama/Modelfile",
        "metrics/evaluation.json",
        "plots/training.csv",
    ):
        assert (second.working / name).read_bytes() == (trained / name).read_bytes(), name
    # What was checked is all that the next session has to know
    assert [path.name for path in (second.working / "kept/state").iterdir()] == ["checked"]


def test_when_the_hours_are_up_the_run_ends_well_and_says_how_to_go_on(
    repository: Path, tmp_path: Path, machine: Callable[[str], Machine]
) -> None:
    assert kaggle(repository, tmp_path / "kernel", "--hours", "0.001").returncode == 0
    one = machine("one")
    one.attach(tmp_path / "kernel" / "dataset", "files")
    said = one.run(tmp_path / "kernel")
    assert "paused: 0.001 hours are up. Attach this kernel's output to its next run" in said


def test_with_shards_of_home_the_run_begins_with_the_training_however_kaggle_unpacks_them(
    trained: Path, tmp_path: Path, machine: Callable[[str], Machine]
) -> None:
    assert kaggle(trained, tmp_path / "kernel", "--data", "--offline").returncode == 0
    assert not json.loads((tmp_path / "kernel/kernel-metadata.json").read_text())["enable_internet"]
    one = machine("one")
    for archive in (tmp_path / "kernel" / "dataset").glob("*.tar"):
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(one.input / "datasets/ann/files" / archive.stem)
    for hidden in one.input.rglob(".dvc"):  # may get lost on the way
        shutil.rmtree(hidden)
    with one.start(tmp_path / "kernel") as process:
        assert process.stdout is not None
        begun = next(
            found[1]
            for line in iter(process.stdout.readline, "")
            if (found := re.search(r"Running stage '(\w+)'", line))
        )
        process.send_signal(
            signal.SIGTERM
        )  # this is how it begins; the test above goes on to the end
        said, _ = process.communicate(timeout=100)
    assert begun == "checkpoints" and process.returncode == 0
    assert "paused: the session was ended" in said


def test_a_stage_that_fails_is_a_failure_with_one_line_and_what_was_done_is_kept(
    repository: Path, tmp_path: Path, machine: Callable[[str], Machine]
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(repository, folder)
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace(" min_words: 50", " min_words: 99999"))
    git(folder, "commit", "--quiet", "--all", "--message", "only very long documents")
    assert kaggle(folder, tmp_path / "kernel").returncode == 0
    one = machine("one")
    one.attach(tmp_path / "kernel" / "dataset", "files")
    said = one.run(tmp_path / "kernel", status=1)
    assert said.count("Traceback") == 0
    assert (
        said.splitlines()[-1]
        == f"error: `dvc repro` ended with status 255, the lines above say why; what is finished is kept in {one.working}"
    )
    assert re.search(r"^error: cleaned: nothing is left of [\d,]+ documents", said, re.MULTILINE)
    assert "raw:" in (one.working / "kept/dvc.lock").read_text() and any(
        (one.working / "kept/cache/files").iterdir()
    )


def test_without_its_data_set_the_kernel_says_so(
    repository: Path, tmp_path: Path, machine: Callable[[str], Machine]
) -> None:
    assert kaggle(repository, tmp_path / "kernel").returncode == 0
    said = machine("one").run(tmp_path / "kernel", status=1)
    assert re.search(
        r"^error: .* holds no source\.tar: attach the data set ann/antimatter-pipeline-files",
        said,
        re.MULTILINE,
    )


def answered(working: Path) -> None:
    text = (working / "answers.md").read_text()
    prompts = [
        line
        for line in Path("prompts/coherence.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert prompts and re.findall(r"^\*\*(.+)\*\* ", text, re.MULTILINE) == prompts
    assert re.search(r"^By .+\.$", text, re.MULTILINE)


def test_a_server_takes_the_model_of_the_data_set_and_leaves_its_answers(
    trained: Path, tmp_path: Path, machine: Callable[[str], Machine]
) -> None:
    assert kaggle(trained, tmp_path / "kernel", "--mode", "serve", "--offline").returncode == 0
    one = machine("one")
    one.attach(tmp_path / "kernel" / "dataset", "datasets/ann/antimatter-serve-files")
    assert re.search(
        r"^serving antimatter by .+ at http://127\.0\.0\.1:\d+/$",
        one.run(tmp_path / "kernel"),
        re.MULTILINE,
    )
    answered(one.working)
    assert [path.name for path in one.working.iterdir()] == ["answers.md"]


def test_a_server_installs_the_ollama_that_is_attached(
    trained: Path, tmp_path: Path, machine: Callable[[str], Machine]
) -> None:
    program = fake_program.install_to(tmp_path / "program").read_bytes()
    members = [
        fake_release.member("bin/ollama", program, mode=0o755),
        fake_release.member("lib/ollama/libggml-base.so", fake_release.CPU),
    ]
    archive = tmp_path / fake_release.NAME
    archive.write_bytes(fake_release.archive(members))
    (tmp_path / "sha256sum.txt").write_text(f"{files.sha256(archive)}  ./{archive.name}\n")
    assert (
        kaggle(
            trained, tmp_path / "kernel", "--mode", "serve", "--offline", "--ollama", str(archive)
        ).returncode
        == 0
    )
    one = machine("one")
    one.attach(tmp_path / "kernel" / "dataset", "datasets/ann/antimatter-serve-files")
    said = one.run(tmp_path / "kernel")
    assert "for CPUs only" in said and re.search(
        r"^serving antimatter by Ollama at http://127\.0\.0\.1:\d+, .*$", said, re.MULTILINE
    ), said
    answered(one.working)


def test_a_server_takes_the_model_of_a_pipeline_and_stays_until_the_session_ends(
    trained: Path, tmp_path: Path, machine: Callable[[str], Machine]
) -> None:
    assert (
        kaggle(
            trained,
            tmp_path / "kernel",
            "--mode",
            "serve",
            "--offline",
            "--after",
            "antimatter-pipeline",
            "--hours",
            "0.05",
        ).returncode
        == 0
    )
    assert json.loads((tmp_path / "kernel/kernel-metadata.json").read_text())["kernel_sources"] == [
        "ann/antimatter-pipeline"
    ]
    assert not (tmp_path / "kernel/dataset/models.tar").exists()
    one = machine("one")
    one.attach(tmp_path / "kernel" / "dataset", "files")
    output = one.input / "notebooks/ann/antimatter-pipeline"
    (output / "kept").mkdir(parents=True)
    (output / "kept/run.json").write_text('{"begun": 1}')
    shutil.copytree(trained / "models", output / "models")
    with one.start(tmp_path / "kernel", KAGGLE_KERNEL_RUN_TYPE="Interactive") as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        address = next(
            found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+/", line))
        )
        assert any(re.match(r"\d+ answers are in ", line) for line in lines)
        assert process.poll() is None and address
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    answered(one.working)


def test_without_a_model_a_server_says_so(
    repository: Path, tmp_path: Path, machine: Callable[[str], Machine]
) -> None:
    done = kaggle(repository, tmp_path / "kernel", "--mode", "serve")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert (
        "error: models/gguf is missing: run `dvc repro` first, or name the kernel that makes them with --after"
        in done.stderr
    )
    assert (
        kaggle(
            repository, tmp_path / "kernel", "--mode", "serve", "--after", "bob/antimatter-pipeline"
        ).returncode
        == 0
    )
    one = machine("one")
    one.attach(tmp_path / "kernel" / "dataset", "files")
    assert "holds no model" in one.run(tmp_path / "kernel", status=1)


@pytest.mark.parametrize(
    ("options", "gpu", "shape"),
    [((), False, None), (("--accelerator", "t4"), True, "NvidiaTeslaT4")],
)
def test_metadata_has_documented_keys_and_an_address_that_follows_from_the_title(
    repository: Path, tmp_path: Path, options: tuple[str, ...], gpu: bool, shape: str | None
) -> None:
    done = kaggle(
        repository, tmp_path / "kernel", "--title", "Antimatter 3 nano", *options, user="Ann"
    )
    assert done.returncode == 0 and f"kaggle kernels push -p {tmp_path / 'kernel'}" in done.stdout
    kernel = json.loads((tmp_path / "kernel/kernel-metadata.json").read_text())
    assert set(kernel) <= DOCUMENTED
    assert kernel["id"] == "ann/antimatter-3-nano" and kernel["is_private"] is True
    assert (kernel["language"], kernel["kernel_type"]) == ("python", "script")
    assert (kernel["enable_gpu"], kernel.get("machine_shape")) == (gpu, shape)
    assert (tmp_path / "kernel" / kernel["code_file"]).stat().st_size < 1_000_000
    data_set = json.loads((tmp_path / "kernel/dataset/dataset-metadata.json").read_text())
    assert kernel["dataset_sources"] == [data_set["id"]] == ["ann/antimatter-3-nano-files"]
    assert 6 <= len(data_set["title"]) <= 50 and len(data_set["licenses"]) == 1
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert commit in (tmp_path / "kernel/run.py").read_text() and commit in data_set["description"]
    with tarfile.open(tmp_path / "kernel/dataset/source.tar") as tar:
        assert {"dvc.yaml", "requirements.lock", "antimatter/cli.py"} <= set(tar.getnames())
    assert kaggle(repository, tmp_path / "kernel").returncode == 0  # our own folder is replaced


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--user", "ann!"), "--user must be your Kaggle user name"),
        (("--title", "abc"), "--title must have 5 to 44 letters"),
        (("--title", "What? A title"), "--title must have 5 to 44 letters"),
        (("--after", "a b"), "--after must be the address of a kernel"),
        (("--hours", "13"), r"--hours must lie in \(0, 12\]"),
        (("--minutes", "-1"), "--minutes must not be negative"),
        (("--wheels", "docs"), r"docs holds no \.whl file"),
        (("--ollama", "README.md"), "README.md is not an Ollama archive"),
        (("--ollama", "ollama-linux-amd64.tar.zst"), "No such file"),
        (("--data",), "data/shards is missing: run `dvc repro shards` first"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    repository: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    done = kaggle(repository, tmp_path / "kernel", *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert re.match(f"error: .*{words}", done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_stays_as_it_is(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = kaggle(repository, tmp_path / "mine")
    assert (
        done.returncode == 1
        and "holds something that `antimatter kaggle` did not write" in done.stderr
    )
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_what_is_not_committed_would_not_run_and_is_refused(
    repository: Path, tmp_path: Path
) -> None:
    path = repository / "params.yaml"
    before = path.read_text()
    try:
        path.write_text(before + "\n# changed\n")
        done = kaggle(repository, tmp_path / "kernel")
    finally:
        path.write_text(before)
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: params.yaml has changes that are not committed, and Kaggle would get the last commit: commit them first\n"
    )


def test_shards_that_params_yaml_would_make_anew_are_refused(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(trained, folder)
    text = (folder / "params.yaml").read_text()
    # A value of a later stage changes nothing in them
    (folder / "params.yaml").write_text(text.replace("beta2: 0.999", "beta2: 0.998"))
    git(folder, "commit", "--quiet", "--message", "another rate of decay", "params.yaml")
    assert kaggle(folder, tmp_path / "kernel", "--data").returncode == 0
    (folder / "params.yaml").write_text(text.replace("vocab_size: 400", "vocab_size: 401"))
    git(folder, "commit", "--quiet", "--message", "one more", "params.yaml")
    done = kaggle(folder, tmp_path / "kernel", "--data")
    assert (
        done.returncode == 1
        and "has changed since data/shards was made: run `dvc repro shards` first" in done.stderr
    )


def test_outside_of_a_repository_the_error_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("")
    environment = {
        **tiny_pipeline.ENVIRONMENT,
        "PYTHONPATH": str(Path.cwd()),
        "GIT_CEILING_DIRECTORIES": str(tmp_path.parent),
    }
    command = [sys.executable, "-m", "antimatter.cli", "kaggle", "kernel", "--user", "ann"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (
        done.returncode == 1
        and "so this must be a Git repository" in done.stderr
        and done.stderr.count("\n") == 1
    )
