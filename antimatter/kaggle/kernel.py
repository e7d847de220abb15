"""Writes a kernel folder for Kaggle and the data set that belongs to it: docs/kaggle.md describes
their use, decision 24 the reasons.
"""

import json
import math
import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from antimatter import files, outputs, params
from antimatter.errors import UserError
from antimatter.kaggle import run
from antimatter.repository import git
from antimatter.repository.dvc import stale
from antimatter.serve.ollama.install import SUMS

BLANK = "SETTINGS: dict[str, Any] = {}\n"  # a line of the script
CODE = (".", ":!dvc.lock", ":!metrics", ":!plots")  # without the results of a run
DATA = ("data/shards", "data/tokenizer")
MODELS = ("models/gguf", "models/ollama")

# Of what write() writes
NAMES = (
    *("kernel-metadata.json", "run.py", "dataset/dataset-metadata.json", "dataset/source.tar"),
    *("dataset/data.tar", "dataset/models.tar", "dataset/wheels.tar"),
    *("dataset/ollama-linux-*", f"dataset/{SUMS}"),
)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    user: str  # of Kaggle
    mode: Literal["pipeline", "serve"]
    title: str  # of the kernel; Kaggle derives its address from it
    accelerator: Literal["none", "t4"]
    offline: bool
    data: bool  # include prepared shards, and begin with the training
    after: str  # the kernel whose output is attached; empty: none
    wheels: Path | None
    ollama: Path | None
    hours: float  # after which a run saves its state and ends
    # To serve after the answers. 0: not at all, or in an interactive session until `hours` are up
    minutes: float

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.user):
            allowed = "letters, digits, - and _"
            raise UserError(f"--user must be your Kaggle user name ({allowed}), got {self.user!r}")
        words = r"[A-Za-z0-9]+([ -][A-Za-z0-9]+)*"
        if not re.fullmatch(words, self.title) or not 5 <= len(self.title) <= 44:
            allowed = "5 to 44 letters, digits, single spaces and hyphens"
            raise UserError(f"--title must have {allowed}, got {self.title!r}")
        if self.after and not re.fullmatch(r"([A-Za-z0-9_-]+/)?[a-z0-9-]+", self.after):
            example = "such as antimatter-pipeline"
            raise UserError(f"--after must be a kernel's address, {example}, got {self.after!r}")
        if not 0 < self.hours <= 12:
            raise UserError(f"--hours must lie in (0, 12], Kaggle's limit, got {self.hours:g}")
        if not 0 <= self.minutes < math.inf:
            raise UserError(f"--minutes must be 0 or more, and finite, got {self.minutes:g}")

    @property
    def id(self) -> str:
        return self._address(self.title.lower().replace(" ", "-"))

    @property
    def data_set(self) -> str:
        return f"{self.id}-files"

    def _address(self, name: str) -> str:
        return name if "/" in name else f"{self.user.lower()}/{name}"

    def metadata(self) -> dict[str, object]:
        """kernel-metadata.json. Every switch is set, because the documented defaults and those of
        the client differ.
        """
        is_gpu = self.accelerator == "t4"
        return {
            "id": self.id,
            "title": self.title,
            "code_file": "run.py",
            "language": "python",
            "kernel_type": "script",
            "is_private": True,
            "enable_gpu": is_gpu,
            "enable_tpu": False,
            "enable_internet": not self.offline,
            # Two of them
            **({"machine_shape": "NvidiaTeslaT4"} if is_gpu else {}),
            "dataset_sources": [self.data_set],
            "competition_sources": [],
            "kernel_sources": [self._address(self.after)] if self.after else [],
            "model_sources": [],
        }

    def data_set_metadata(self, commit: str) -> dict[str, object]:
        """dataset-metadata.json."""
        return {
            "title": f"{self.title} files",
            "id": self.data_set,
            # Kaggle's list does not have MIT, so the description names it
            "licenses": [{"name": "other"}],
            "description": f"Commit {commit} of Antimatter (MIT licence) and the files that its "
            f"kernel {self.id} needs.",
        }

    def settings(self, commit: str) -> dict[str, object]:
        """SETTINGS of run.py."""
        return {
            "mode": self.mode,
            "data_set": self.data_set,
            "gpu": self.accelerator == "t4",
            "internet": not self.offline,
            # The embedded corpus is that of the pinned packages, torch among them
            "exact": not self.data and params.load()["raw"]["source"] == "embedded",
            "hours": self.hours,
            "minutes": self.minutes,
            "commit": commit,
        }


def write(folder: Path, kernel: Kernel) -> str:
    """Writes FOLDER/kernel-metadata.json, FOLDER/run.py and FOLDER/dataset/. Returns the commit
    that they have.

    Raises:
        UserError: `folder` has other content; this is not the root of a Git repository; there are
            uncommitted changes; shards are not up to date; a model or another file is missing.
    """
    check_output(folder)
    commit = _clean_commit()
    with files.replacing(folder) as partial:
        data_set = partial / "dataset"
        data_set.mkdir(parents=True)
        source = (data_set / "source.tar").resolve()
        git.output("archive", "--format=tar", f"--output={source}", "HEAD")
        _add_files(data_set, kernel)
        (partial / "run.py").write_text(script(kernel.settings(commit)), encoding="utf-8")
        files.write_json(partial / "kernel-metadata.json", kernel.metadata())
        files.write_json(data_set / "dataset-metadata.json", kernel.data_set_metadata(commit))
    return commit


def check_output(folder: Path) -> None:
    """Checks that write() would replace nothing but what it wrote.

    Raises:
        UserError: the folder has other content, such as a kernel that somebody else wrote.
    """
    # A kernel of `kaggle kernels init` has the same file of metadata, without our source
    is_ours = (folder / "dataset/source.tar").is_file()
    outputs.check_folder(folder, "the folder", NAMES if is_ours else ())


def _clean_commit() -> str:
    """The last commit, if it has all changes of the code."""
    if not Path("dvc.yaml").is_file():
        raise UserError("dvc.yaml is missing: run from the root of the repository")
    fix = "Kaggle gets the last commit, so this must be a Git repository with one"
    commit = git.output("rev-parse", "--verify", "HEAD", fix=fix).strip()
    if changed := git.changed_files(*CODE):
        raise UserError(
            f"{changed[0]} has changes that are not committed, and Kaggle would get the last "
            "commit: commit them first"
        )
    return commit


def _add_files(data_set: Path, kernel: Kernel) -> None:
    """Adds what the kernel needs besides the source."""
    if kernel.data:
        _require(DATA, "run `dvc repro shards` first")
        if changed := stale("shards"):
            raise UserError(
                f"the stage {changed[0]} has changed since data/shards was made: "
                "run `dvc repro shards` first"
            )
        _pack(data_set / "data.tar", DATA)
    if kernel.mode == "serve" and not kernel.after:
        _require(MODELS, "run `dvc repro` first, or name the kernel that makes them with --after")
        _pack(data_set / "models.tar", MODELS)
    if kernel.wheels is not None:
        wheels = sorted(kernel.wheels.glob("*.whl"))
        if not wheels:
            raise UserError(
                f"{kernel.wheels} has no .whl file: docs/kaggle.md has the commands that fill it"
            )
        with tarfile.open(data_set / "wheels.tar", "w") as tar:
            for wheel in wheels:
                tar.add(wheel, f"wheels/{wheel.name}")
    if kernel.ollama is not None:
        if not kernel.ollama.name.startswith("ollama-linux-") or not kernel.ollama.is_file():
            example = "ollama-linux-amd64.tar.zst"
            raise UserError(f"--ollama must be an Ollama archive ({example}), got {kernel.ollama}")
        shutil.copyfile(kernel.ollama, data_set / kernel.ollama.name)
        # Needed for another version than the pinned one
        if (sums := kernel.ollama.with_name(SUMS)).is_file():
            shutil.copyfile(sums, data_set / SUMS)


def _require(names: tuple[str, ...], fix: str) -> None:
    for name in names:
        if not Path(name).is_dir() or not any(Path(name).iterdir()):
            raise UserError(f"{name} is missing: {fix}")


def _pack(archive: Path, names: tuple[str, ...]) -> None:
    # DVC may have made links of the files
    with tarfile.open(archive, "w", dereference=True) as tar:
        for name in names:
            tar.add(name)


def script(settings: dict[str, object]) -> str:
    """The text of run.py with its settings."""
    text = Path(run.__file__).read_text(encoding="utf-8")
    assert text.count(BLANK) == 1
    lines = "".join(f"    {json.dumps(key)}: {value!r},\n" for key, value in settings.items())
    return text.replace(BLANK, BLANK.replace("{}", f"{{\n{lines}}}"))
