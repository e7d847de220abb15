"""The section `raw` of params.yaml.

Kept apart from the readers, so that values are checked without importing them.
"""

import importlib.metadata
import re
from dataclasses import dataclass
from typing import Any, Literal

from antimatter.data.sources.paths import FilesConfig
from antimatter.errors import UserError
from antimatter.params import BelowOne, NonNegative, Positive, PositiveInt, Section

LIST = "a list"  # the type of a column whose feature has no `dtype`


@dataclass(frozen=True, kw_only=True)
class HubDataSet(Section):
    name: str  # owner/name
    config: str  # the hub calls it subset; "default" where there is only one
    split: str
    revision: str  # the commit that fixes the bytes: 40 hexadecimal digits
    text_column: str
    licence: str  # goes with each document
    weight: Positive  # share of the bytes, relative to the other data sets

    # What a subclass changes. Without annotations, which would make them parameters
    stage = "raw"  # whose section `hub` of params.yaml names the data set
    column_key = "text_column"  # what that section calls the column
    holds = "text"  # what a row of the column must be, in errors
    instead = "set raw.source to files"  # how to do without the hub

    def validate(self) -> None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.name):
            page = "https://huggingface.co/datasets"
            raise UserError(f"name must be owner/name as on {page}, got {self.name!r}")
        for name in ("config", "split", "text_column", "licence"):
            if not getattr(self, name):
                key = self.column_key if name == "text_column" else name
                raise UserError(f"{key} of {self.name} must not be empty")
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            why = "because a branch or a tag may move"
            fix = f"take one from {page_of(self.name)}/commits/main"
            must = f"must be a whole commit, 40 hexadecimal digits, {why}; got {self.revision!r}"
            raise UserError(f"revision of {self.name} {must}: {fix}")

    def accepts(self, dtype: str) -> bool:
        """Whether the column can be read, by the type that the data set's card gives it."""
        return dtype in ("string", "large_string")

    def text(self, value: Any) -> str | None:
        """A row's value as the text of a document; None if it cannot be one."""
        return value or "" if isinstance(value, str | None) else None

    def rejection(self, content: str) -> str:
        """What is wrong with a column that holds something else."""
        fix = f"set {self.column_key} to another"
        return f"column `{self.text_column}` holds {content}, which is not {self.holds}: {fix}"


@dataclass(frozen=True, kw_only=True)
class HubConfig(Section):
    total_mb: Positive  # megabytes of UTF-8 text from all data sets
    # Parts of each data set, or as many as it has files. They decide the bytes; the number of
    # readers does not
    lanes: PositiveInt
    data_sets: tuple[HubDataSet, ...]

    def validate(self) -> None:
        names = [f"{one.name}, {one.config}, {one.split}" for one in self.data_sets]
        for name in names:
            if names.count(name) > 1:
                fix = "keep one of them and add up the weights"
                raise UserError(f"data_sets names {name} twice: {fix}")


@dataclass(frozen=True, kw_only=True)
class RawConfig(Section):
    source: Literal["embedded", "files", "hub"]
    # Text in one output file, in megabytes: a file is the unit of work of the stages that follow
    file_mb: Positive
    packages: dict[str, str]  # embedded: distribution and version, exactly as installed
    files: tuple[FilesConfig, ...]
    join_lines: bool  # of hard-wrapped prose in `files`, to a paragraph a line
    document_kb: NonNegative  # longest document of `files`, in kilobytes of UTF-8; 0: any
    # Share of the bytes of `files` that may be unreadable; 0: none, not one line
    max_skipped: BelowOne
    hub: HubConfig

    def validate(self) -> None:
        if self.source == "embedded" and not self.packages:
            must = "must name at least one distribution when source is embedded"
            raise UserError(f"packages {must}, got none")
        if self.source == "files" and not self.files:
            raise UserError("files must hold at least one pattern when source is files, got none")


def distributions(packages: dict[str, str]) -> list[importlib.metadata.Distribution]:
    """The installed distributions of these names and versions.

    Raises:
        UserError: one is missing or has another version.
    """
    return [_distribution(name, version) for name, version in packages.items()]


def _distribution(name: str, version: str) -> importlib.metadata.Distribution:
    fix = "`make repro` installs requirements.lock; or change raw.packages in params.yaml"
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"raw.packages: {name} {version} is not installed: {fix}") from None
    # torch 2.13.0+cpu and 2.13.0+cu130 carry the same documentation
    if distribution.version.split("+")[0] != version:
        fault = f"{name} must be {version}, {distribution.version} is installed"
        raise UserError(f"raw.packages: {fault}: {fix}")
    return distribution


def page_of(name: str) -> str:
    """The page of a data set on the hub."""
    return f"https://huggingface.co/datasets/{name}"
