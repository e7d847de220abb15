"""Writes a kernel folder for Kaggle, and the data set that goes with it: docs/kaggle.md walks through both, decision 24 has the reasons."""

import json
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from antimatter import files, params
from antimatter.errors import UserError
from antimatter.kaggle import run
from antimatter.repository.dvc import stale
from antimatter.serve.ollama.install import SUMS

BLANK = "SETTINGS: dict[str, Any] = {}\n"  # a line of the script
CODE = [".", ":!dvc.lock", ":!metrics", ":!plots"]  # what a run leaves is no change of the code
DATA = ("data/shards", "data/tokenizer")
MODELS = ("models/gguf", "models/ollama")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    user: str  # of Kaggle
    mode: Literal["pipeline", "serve"]
    title: str  # of the kernel; its address follows from it
    accelerator: Literal["none", "t4"]
    offline: bool
    data: bool  # take prepared shards along, and begin with the training
    after: str  # the kernel whose output is attached; empty: none
    wheels: Path | None
    ollama: Path | None
    hours: float  # after which a run saves its state and ends
    # To serve after the answers; 0: none, or in an interactive session all the hours
    minutes: float

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.user):
            raise UserError(
                f"--user must be your Kaggle user name (letters, digits, - and _), got {self.user!r}"
            )
        if (
            not re.fullmatch(r"[A-Za-z0-9]+([ -][A-Za-z0-9]+)*", self.title)
            or not 5 <= len(self.title) <= 44
        ):
            raise UserError(
                f"--title must have 5 to 44 letters, digits, single spaces and hyphens, got {self.title!r}"
            )
        if self.after and not re.fullmatch(r"([A-Za-z0-9_-]+/)?[a-z0-9-]+", self.after):
            raise UserError(
                f"--after must be the address of a kernel, such as antimatter-pipeline, got {self.after!r}"
            )
        if not 0 < self.hours <= 12:
            raise UserError(f"--hours must lie in (0, 12], Kaggle's limit, got {self.hours:g}")
        if self.minutes < 0:
            raise UserError(f"--minutes must not be negative, got {self.minutes:g}")

    @property
    def slug(self) -> str:
        return self.title.lower().replace(" ", "-")

    @property
    def id(self) -> str:
        return f"{self.user.lower()}/{self.slug}"

    @property
    def data_set(self) -> str:
        return f"{self.id}-files"

    def metadata(self) -> dict[str, object]:
        """kernel-metadata.json. Every switch is named: the documented defaults and those of the client differ."""
        after = (
            self.after
            if "/" in self.after or not self.after
            else f"{self.user.lower()}/{self.after}"
        )
        return {
            "id": self.id,
            "title": self.title,
            "code_file": "run.py",
            "language": "python",
            "kernel_type": "script",
            "is_private": True,
            "enable_gpu": self.accelerator == "t4",
            "enable_tpu": False,
            "enable_internet": not self.offline,
            # Two of them
            **({"machine_shape": "NvidiaTeslaT4"} if self.accelerator == "t4" else {}),
            "dataset_sources": [self.data_set],
            "competition_sources": [],
            "kernel_sources": [after] if after else [],
            "model_sources": [],
        }

    def settings(self) -> dict[str, object]:
        """What run.py has to know."""
        return {
            "mode": self.mode,
            "data_set": self.data_set,
            "gpu": self.accelerator == "t4",
            "internet": not self.offline,
            # The corpus is that of the pinned packages, torch among them
            "exact": not self.data and params.load()["raw"]["source"] == "embedded",
            "hours": self.hours,
            "minutes": self.minutes,
        }


def write(folder: Path, kernel: Kernel) -> str:
    """Writes FOLDER/kernel-metadata.json, FOLDER/run.py and FOLDER/dataset/; the commit that they carry.

    Raises:
        ValueError: `folder` holds something else; changes that are not committed; shards that are not up to date.
        OSError: no Git repository; no model yet; a file that is missing.
    """
    if (
        folder.exists()
        and not (folder / "kernel-metadata.json").is_file()
        and any(folder.iterdir())
    ):
        raise UserError(
            f"{folder} holds something that `antimatter kaggle` did not write: name another folder"
        )
    if not Path("dvc.yaml").is_file():
        raise FileNotFoundError("dvc.yaml is missing: run from the root of the repository")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", *CODE).splitlines()
    if changed:
        raise UserError(
            f"{changed[0][3:]} has changes that are not committed, and Kaggle would get the last commit: commit them first"
        )
    commit = _git("rev-parse", "HEAD").strip()
    with files.replacing(folder) as partial:
        data_set = partial / "dataset"
        data_set.mkdir(parents=True)
        _git("archive", "--format=tar", f"--output={(data_set / 'source.tar').resolve()}", "HEAD")
        if kernel.data:
            _require(DATA, "run `dvc repro shards` first")
            if changed := stale("shards"):
                raise UserError(
                    f"the stage {changed[0]} has changed since data/shards was made: run `dvc repro shards` first"
                )
            _pack(data_set / "data.tar", DATA)
        if kernel.mode == "serve" and not kernel.after:
            _require(
                MODELS, "run `dvc repro` first, or name the kernel that makes them with --after"
            )
            _pack(data_set / "models.tar", MODELS)
        if kernel.wheels is not None:
            wheels = sorted(kernel.wheels.glob("*.whl"))
            if not wheels:
                raise FileNotFoundError(
                    f"{kernel.wheels} holds no .whl file: docs/kaggle.md has the commands that fill it"
                )
            with tarfile.open(data_set / "wheels.tar", "w") as tar:
                for wheel in wheels:
                    tar.add(wheel, f"wheels/{wheel.name}")
        if kernel.ollama is not None:
            if not re.match(r"ollama-linux-", kernel.ollama.name):
                raise UserError(
                    f"{kernel.ollama} is not an Ollama archive, such as ollama-linux-amd64.tar.zst"
                )
            # Another version than the pinned one is known by its release's sums
            for path in (kernel.ollama, kernel.ollama.with_name(SUMS)):
                if path == kernel.ollama or path.is_file():
                    shutil.copyfile(path, data_set / path.name)
        script = Path(run.__file__).read_text(encoding="utf-8")
        assert script.count(BLANK) == 1
        settings = "".join(
            f"    {json.dumps(key)}: {value!r},\n"
            for key, value in {**kernel.settings(), "commit": commit}.items()
        )
        (partial / "run.py").write_text(
            script.replace(BLANK, BLANK.replace("{}", f"{{\n{settings}}}")), encoding="utf-8"
        )
        files.write_json(partial / "kernel-metadata.json", kernel.metadata())
        description = (
            f"Commit {commit} of Antimatter (MIT licence) and what its kernel {kernel.id} needs."
        )
        licence = [{"name": "other"}]  # Kaggle's list has no MIT; the description says it
        metadata = {
            "title": f"{kernel.title} files",
            "id": kernel.data_set,
            "licenses": licence,
            "description": description,
        }
        files.write_json(data_set / "dataset-metadata.json", metadata)
    return commit


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(
            f"git {arguments[0]} failed ({' '.join(done.stderr.split())}): Kaggle gets the last commit, so this must be a Git repository"
        )
    return done.stdout


def _require(names: tuple[str, ...], way_out: str) -> None:
    for name in names:
        if not Path(name).is_dir() or not any(Path(name).iterdir()):
            raise FileNotFoundError(f"{name} is missing: {way_out}")


def _pack(archive: Path, names: tuple[str, ...]) -> None:
    with tarfile.open(archive, "w", dereference=True) as tar:  # DVC may have made links of them
        for name in names:
            tar.add(name)
