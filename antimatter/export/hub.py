"""Uploads a model to the Hugging Face hub: one commit, which replaces nothing unless asked to.

The requests, the retries and the transfer of large files are those of huggingface_hub, which uses
the hub's Xet storage; with HF_HUB_DISABLE_XET=1 large files go over Git LFS instead.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import huggingface_hub
import yaml
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# `httpx` is the hub's own export, which keeps its name when the package behind it changes
from huggingface_hub.utils import httpx, validate_repo_id  # type: ignore[attr-defined]

from antimatter import files
from antimatter.errors import UserError
from antimatter.llama.header import read_header

README = "README.md"
BRANCH = "main"
# What a folder for transformers consists of. Others may hold code, such as training_args.bin
KINDS = (".json", ".safetensors", ".jinja", ".txt")
State = Literal["new", "changed", "same"]
TOKENS_PAGE = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class File:
    name: str  # in the repository of the hub
    content: Path | bytes

    @property
    def size(self) -> int:
        if isinstance(self.content, Path):
            return self.content.stat().st_size
        return len(self.content)

    def sha256(self) -> str:
        if isinstance(self.content, Path):
            return files.sha256(self.content)
        return hashlib.sha256(self.content).hexdigest()

    def git_id(self) -> str:
        """The name of its content in Git."""
        content = self.content.read_bytes() if isinstance(self.content, Path) else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Target:
    repository: str  # owner/name
    branch: str = BRANCH
    private: bool = False


@dataclass(frozen=True)
class Remote:
    """What the hub has on the branch."""

    exists: bool  # the repository
    commit: str | None  # of the branch, None if that does not exist
    # Of each file: sha256 of a large one, the name in Git of another
    digests: dict[str, tuple[str | None, str | None]]

    def state(self, file: File) -> State:
        if file.name not in self.digests:
            return "new"
        sha256, git_id = self.digests[file.name]
        same = file.sha256() == sha256 if sha256 else file.git_id() == git_id
        return "same" if same else "changed"


def collect(folder: Path, ggufs: Sequence[Path], card: str) -> list[File]:
    """The files of an upload.

    Args:
        folder: for transformers, as huggingface.write() writes it.
        ggufs: GGUF files, or folders with some.
        card: the text of README.md.

    Raises:
        UserError: one of them is missing or is something else, or two have the same name.
    """
    fix = "`antimatter export --type hf` writes one"
    config = folder / "config.json"
    is_theirs = config.is_file() and "model_type" in files.read_json(config)
    if not is_theirs or not list(folder.glob("*.safetensors")):
        raise UserError(f"{folder} is no folder for transformers: {fix}")
    check_card(card)
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in KINDS]
    for given in ggufs:
        found = sorted(given.glob("*.gguf")) if given.is_dir() else [given]
        if not found:
            raise UserError(f"{given} has no .gguf file: `dvc repro gguf` writes some")
        for path in found:
            read_header(path)
        paths += found
    names = [path.name for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two of the files are named {name}: leave one out, or rename it")
    return [File(README, card.encode()), *(File(path.name, path) for path in paths)]


def check_card(text: str) -> None:
    """Raises UserError unless a model card begins with metadata that names a license."""
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    try:
        metadata = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the metadata of the model card is not YAML: {reason}") from None
    if not isinstance(metadata, dict) or not metadata.get("license"):
        example = "`---`, `license: mit`, `---`"
        raise UserError(f"the model card must begin with metadata such as {example}")


def check_name(repository: str) -> None:
    """Raises UserError unless the hub accepts a repository of this name, owner/name."""
    fault = f"the repository must be owner/name, got {repository!r}"
    if not re.fullmatch(r"[^/]+/[^/]+", repository) or not repository.isascii():
        raise UserError(fault)
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"{fault}: {error}") from None


class Hub:
    """The hub, for one repository.

    Raises:
        UserError: the name is not owner/name, or there is no token.
    """

    def __init__(self, target: Target) -> None:
        check_name(target.repository)
        token = huggingface_hub.get_token()
        if not token:
            raise UserError(
                f"there is no token for the hub: set HF_TOKEN to one of {TOKENS_PAGE} that may "
                "write, or log in with `hf auth login`"
            )
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        self.api, self.target = HfApi(endpoint=endpoint, token=token), target

    def remote(self) -> Remote:
        """Raises UserError if the hub does not answer, or not to this token."""
        name, branch = self.target.repository, self.target.branch
        with self._errors():
            try:
                info = self.api.model_info(name, revision=branch, files_metadata=True)
            except RevisionNotFoundError:
                return Remote(True, None, {})
            except RepositoryNotFoundError:
                return Remote(False, None, {})
        digests = {
            one.rfilename: (one.lfs.sha256 if one.lfs else None, one.blob_id)
            for one in info.siblings or ()
        }
        return Remote(True, info.sha, digests)

    def upload(self, content: Sequence[File], remote: Remote, message: str) -> str:
        """Creates what is missing of repository and branch, and commits the files.

        Args:
            remote: the state on which the user decided. If the branch has changed since, the hub
                refuses the commit.

        Returns:
            The address of the commit.
        """
        name, branch = self.target.repository, self.target.branch
        additions = [
            CommitOperationAdd(
                file.name, str(file.content) if isinstance(file.content, Path) else file.content
            )
            for file in content
        ]
        with self._errors():
            if not remote.exists:
                self.api.create_repo(name, private=self.target.private)
            if remote.commit is None and branch != BRANCH:
                self.api.create_branch(name, branch=branch, exist_ok=True)
            commit = self.api.create_commit(
                name,
                additions,
                commit_message=message,
                revision=branch,
                parent_commit=remote.commit,
            )
        return str(commit.commit_url)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        name, endpoint = self.target.repository, self.api.endpoint
        try:
            yield
        except OfflineModeIsEnabled:
            raise UserError("HF_HUB_OFFLINE is set: unset it to reach the hub") from None
        except HfHubHTTPError as error:
            raise _refusal(error, name) from None
        except httpx.HTTPError as error:
            fix = "check the network, HF_ENDPOINT and the proxy settings"
            raise UserError(f"no connection to {endpoint} ({error}): {fix}") from None
        # Of the transfer of a large file; its cause is one of the above
        except RuntimeError as error:
            if isinstance(error.__cause__, HfHubHTTPError):
                raise _refusal(error.__cause__, name) from None
            reason = f"{error} {error.__cause__ or ''}".strip()
            raise UserError(f"{reason}: run the command again, nothing was committed") from None
        # Of hf_xet; that of a file has a number
        except OSError as error:
            if error.errno:
                raise
            fix = "check the network, or set HF_HUB_DISABLE_XET=1 to send large files over Git LFS"
            raise UserError(f"the upload failed ({error}), nothing was committed: {fix}") from None
        except ValueError as error:
            raise UserError(f"the hub does not accept it: {error}") from None


def _refusal(error: HfHubHTTPError, name: str) -> UserError:
    status = error.response.status_code
    reason = " ".join((error.server_message or str(error)).split())[:300]
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        fix = f"make one that may write at {TOKENS_PAGE}, and set HF_TOKEN or `hf auth login`"
        return UserError(f"the hub refuses the token for {name} ({status}: {reason}): {fix}")
    if status == 403:
        fix = "name a repository of yours, or a token that may write there"
        return UserError(f"the token may not write to {name} (403: {reason}): {fix}")
    if status == 412:
        return UserError(f"{name} has changed meanwhile ({reason}): run the command again")
    return UserError(f"the hub answered {status} ({reason}): run the command again later")
