"""A user's files become parquet files: the same with any number of workers, and after any error."""

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antimatter import files, params
from antimatter.data.documents import Document, write_parquet
from antimatter.data.sources import collect, local, paths
from antimatter.data.sources.config import RawConfig
from antimatter.data.sources.faults import Report
from antimatter.data.sources.paths import FilesConfig, Part
from antimatter.errors import UserError
from antimatter.tasks.config import TasksRuntime

GOOD = json.dumps({"text": "good"}) + "\n"


def config_of(folder: Path) -> RawConfig:
    """Reads .jsonl and .parquet files of a folder, in parts of at most 20 kB or one file."""
    sources = (
        FilesConfig(pattern=f"{folder}/*.jsonl", text_column="text", licence="MIT"),
        FilesConfig(pattern=f"{folder}/*.parquet", text_column="content", licence="none"),
    )
    config = params.read(RawConfig, "raw")
    return dataclasses.replace(config, source="files", file_mb=0.02, files=sources, max_skipped=0)


def write_table(path: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"content": texts}), path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def main_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def test_documents_are_written_to_files_of_bounded_size(tmp_path: Path) -> None:
    documents = [Document(str(number), "word " * 1000, "here", "MIT") for number in range(10)]
    for folder in ("one", "two"):
        write_parquet(documents, tmp_path / folder, file_mb=0.02)
    written = sorted((tmp_path / "one").iterdir())
    assert [path.name for path in written] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    rows = [row for path in written for row in pq.read_table(path).to_pylist()]
    assert [Document(**row) for row in rows] == documents
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_no_documents_make_no_file(tmp_path: Path) -> None:
    write_parquet([], tmp_path / "none", file_mb=1)
    assert not list((tmp_path / "none").iterdir())


def test_files_of_several_kinds_become_parquet_whatever_the_number_of_workers(
    tmp_path: Path, runtime: TasksRuntime
) -> None:
    for number in range(3):
        texts = [f"{number} {row} " + "word " * 100 for row in range(100)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{number}.jsonl").write_text(lines)
    write_table(tmp_path / "a.parquet", [f"{row} text" for row in range(50)])
    expected = {f"{tmp_path}/*.jsonl": 300, f"{tmp_path}/*.parquet": 50}
    for workers in (1, 2):
        tallies = collect.write(
            config_of(tmp_path),
            tmp_path / f"raw{workers}",
            tmp_path / f"work{workers}",
            dataclasses.replace(runtime, workers=workers),
        )
        assert {source: tally.documents for source, tally in tallies.items()} == expected
    written = contents(tmp_path / "raw1")
    assert written == contents(tmp_path / "raw2") and len(written) > 4
    licences = [
        licence
        for name in written
        for licence in pq.read_table(tmp_path / "raw1" / name)["licence"].to_pylist()
    ]
    assert licences == ["MIT"] * 300 + ["none"] * 50


def test_a_bad_file_among_good_ones_loses_nothing(tmp_path: Path, runtime: TasksRuntime) -> None:
    (tmp_path / "0.jsonl").write_text(GOOD)
    (tmp_path / "1.jsonl").write_text("no JSON\n" + " " * 30_000)
    write_table(tmp_path / "a.parquet", ["good"])
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(UserError, match=r"1\.jsonl, line 1 is not JSON"):
        collect.write(config_of(tmp_path), folder, tmp_path / "work", runtime)
    assert [path.name for path in folder.iterdir()] == ["old"]


def test_after_a_line_was_corrected_only_its_part_is_read_again(
    tmp_path: Path,
    runtime: TasksRuntime,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = json.dumps({"text": "good " * 100}) + "\n"
    for number in range(6):
        (tmp_path / f"{number}.jsonl").write_text(good * 40)
    (tmp_path / "4.jsonl").write_text(good * 39 + '{"text": "torn')
    write_table(tmp_path / "a.parquet", ["good"])
    raw, config = tmp_path / "raw", config_of(tmp_path)
    write = partial(collect.write, config, raw, tmp_path / "work", runtime)
    with pytest.raises(UserError, match=r"4\.jsonl, line 40 is not JSON"):
        write()
    (tmp_path / "4.jsonl").write_text(good * 41)
    read, reads = local.read, list[str]()

    def spy(part: Part, report: Report) -> object:
        reads.append(Path(part.paths[0]).name)
        return read(part, report)

    monkeypatch.setattr(local, "read", spy)
    tallies = write()
    assert reads == ["4.jsonl"]
    assert "raw: resuming, 6 of 7 parts were read" in capsys.readouterr().err
    assert sum(tally.documents for tally in tallies.values()) == 242
    resumed = contents(raw)
    collect.write(config, raw, tmp_path / "other work", runtime)
    assert contents(raw) == resumed


def test_a_call_that_is_killed_just_after_it_has_published_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: TasksRuntime
) -> None:
    (tmp_path / "0.jsonl").write_text(GOOD)
    write_table(tmp_path / "a.parquet", ["good"])
    link, folder = files.link, tmp_path / "raw"
    write = partial(collect.write, config_of(tmp_path), folder, tmp_path / "work", runtime)

    def link_and_die(paths: Mapping[str, Path], path: Path) -> None:
        link(paths, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "link", link_and_die)
        write()
    # As DVC does before it runs a stage again
    files.remove(folder)
    assert sum(tally.documents for tally in write().values()) == 2
    assert len(list(folder.glob("*.parquet"))) == 2


def test_a_queued_experiment_finds_files_that_git_does_not_track(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: TasksRuntime
) -> None:
    """It runs in a copy of what Git tracks, below the repository, and finds the other files in the
    repository. Its own copy of a file has precedence.
    """
    copied = tmp_path / ".dvc/tmp/exps/one"
    for folder, name, text in (
        (tmp_path, "tracked", "old"),
        (tmp_path, "mine", "mine"),
        (copied, "tracked", "of the experiment"),
    ):
        (folder / "corpus").mkdir(parents=True, exist_ok=True)
        (folder / "corpus" / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    source = FilesConfig(pattern="corpus/*.jsonl", text_column="text", licence="MIT")
    config = dataclasses.replace(params.read(RawConfig, "raw"), source="files", files=(source,))
    for folder, tracked in ((tmp_path, "old"), (copied, "of the experiment")):
        monkeypatch.chdir(folder)
        collect.write(config, tmp_path / "raw", tmp_path / folder.name / "work", runtime)
        rows = pq.read_table(tmp_path / "raw/00000-00000.parquet").to_pylist()
        expected = [("corpus/mine.jsonl:1", "mine"), ("corpus/tracked.jsonl:1", tracked)]
        assert [(row["id"], row["text"]) for row in rows] == expected
    with pytest.raises(UserError) as error:
        paths.parts([dataclasses.replace(source, pattern="none/*.txt")], 1, "raw.files")
    assert f"matches no file in {copied} or in {tmp_path}: " in str(error.value)
