"""What params.yaml says of the raw text.

Apart from the code that it steers, so that values are checked without importing what reads text.
"""

import importlib.metadata
import re
from dataclasses import dataclass
from typing import Any, Literal

from antimatter.data.sources.paths import FilesConfig
from antimatter.errors import UserError

LIST = "a list"  # what a column is called whose feature has no type of its own


@dataclass(frozen=True, kw_only=True)
class HubDataSet:
    name: str  # owner/name
    config: str  # the hub calls it subset; "default" where there is but one
    split: str
    revision: str  # the commit that fixes the bytes: 40 hexadecimal digits
    text_column: str
    licence: str  # goes with each document
    weight: float  # share of the bytes, relative to the other data sets

    # What a subclass changes. Without a type, as with one params.py would take them for parameters
    stage = "raw"  # whose section `hub` of params.yaml names the data set
    column_key = "text_column"  # what that section calls the column
    holds = "text"  # a row of the column, in errors
    instead = "set raw.source to files"  # what else can be done without the hub

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.name):
            raise UserError(
                f"name must be owner/name as on https://huggingface.co/datasets, got {self.name!r}"
            )
        for name in ("config", "split", "text_column", "licence"):
            if not getattr(self, name):
                called = self.column_key if name == "text_column" else name
                raise UserError(f"{called} of {self.name} must not be empty")
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise UserError(
                f"revision of {self.name} must be a whole commit, 40 hexadecimal digits, because a branch or a tag may move; got {self.revision!r}: "
                f"take one from {page_of(self.name)}/commits/main"
            )
        if self.weight <= 0:
            raise UserError(f"weight of {self.name} must exceed 0, got {self.weight}")

    def takes(self, held: str) -> bool:
        """Whether the column can be read, by the type that the data set's card says it holds."""
        return held in ("string", "large_string")

    def text(self, value: Any) -> str | None:
        """A row's value as the text of a document; None if it cannot be one."""
        return value or "" if isinstance(value, str | None) else None

    def refused(self, held: str) -> str:
        """What is wrong with a column that holds something else."""
        fix = f"set {self.column_key} to another"
        return f"column `{self.text_column}` holds {held}, which is no {self.holds}: {fix}"


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    total_mb: float  # megabytes of UTF-8 text from all data sets
    # Parts of each data set, or as many as it has files; they decide the bytes, the number of
    # readers does not
    lanes: int
    data_sets: tuple[HubDataSet, ...]

    def __post_init__(self) -> None:
        if self.total_mb <= 0:
            raise UserError(f"total_mb must exceed 0, got {self.total_mb}")
        if self.lanes < 1:
            raise UserError(f"lanes must be at least 1, got {self.lanes}")
        texts = [
            f"{data_set.name}, {data_set.config}, {data_set.split}" for data_set in self.data_sets
        ]
        for text in texts:
            if texts.count(text) > 1:
                raise UserError(
                    f"data_sets names {text} twice: leave it out once and add up the weights"
                )


@dataclass(frozen=True, kw_only=True)
class RawConfig:
    source: Literal["embedded", "files", "hub"]
    # Text in one output file, in megabytes: a file is the unit of work of the stages that follow
    file_mb: float
    packages: dict[str, str]  # embedded: distribution and version, exactly as installed
    files: tuple[FilesConfig, ...]
    hub: HubConfig

    def __post_init__(self) -> None:
        if self.file_mb <= 0:
            raise UserError(f"file_mb must exceed 0, got {self.file_mb}")
        if self.source == "embedded" and not self.packages:
            raise UserError(
                "packages must name at least one distribution when source is embedded, got none"
            )
        if self.source == "files" and not self.files:
            raise UserError("files must hold at least one pattern when source is files, got none")


def distributions(packages: dict[str, str]) -> list[importlib.metadata.Distribution]:
    """The installed distributions of these names and versions. Raises ValueError for one that is
    missing or has another version.
    """
    return [_distribution(name, version) for name, version in packages.items()]


def _distribution(name: str, version: str) -> importlib.metadata.Distribution:
    way_out = "`make repro` installs requirements.lock; or change raw.packages in params.yaml"
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"raw.packages: {name} {version} is not installed: {way_out}") from None
    # torch 2.13.0+cpu and 2.13.0+cu130 carry the same documentation
    if distribution.version.split("+")[0] != version:
        raise UserError(
            f"raw.packages: {name} must be {version}, {distribution.version} is installed: {way_out}"
        )
    return distribution


def page_of(name: str) -> str:
    """The page of a data set on the hub."""
    return f"https://huggingface.co/datasets/{name}"
