import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antimatter import files, params
from antimatter.data.documents import Document, write_parquet
from antimatter.data.sources import collect, local, paths
from antimatter.data.sources.config import RawConfig
from antimatter.data.sources.embedded import embedded, python_pages
from antimatter.data.sources.paths import FilesConfig
from antimatter.tasks.workers import processes

MODULE = '''"""Opens doors.

A door is opened by turning its handle, which is usually found
on the side away from the hinges, and by pushing.

Examples
--------
>>> open_door("front")
True

.. code-block:: python

    open_door("this code must vanish")

Use it like this::

    door = Door(); door.slam()

==========  =======
a table     of text
==========  =======
"""
# Copyright 2020 The Door Authors. Licensed under the Apache License.

# Doors that are locked need a key, and the key
# must be the one that belongs to the lock.
LOCKS = 1  # a comment beside code stays where it is


def open_door(name, force=1.0):
    """Open the :func:`~doors.core.door` called ``name``.

    Parameters
    ----------
    name : str
        The name that is written on the door,
        in *any* language.

    Args:
        force (`float`, optional): How hard to push, measured
            in newtons.
        noise (`bool`): Whether the door may creak when it reaches
            the end. Default: False

    .. note::
        Wooden doors swell in the rain and
        may then need more force.

    - a first item that is wrapped
      onto a second line
    - a second item of the same list
    """


EXTRA = add_docstr(open_door, """
closed(name) -> bool

Tells whether the door of that name is closed at the moment.
""")
'''


@pytest.fixture
def doors(tmp_path, monkeypatch):
    """A distribution called doors 1.2.0, as pip would install it."""
    package = tmp_path / "site" / "doors"
    info = tmp_path / "site" / "doors-1.2.0.dist-info"
    (package / "tests").mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text(MODULE)
    (package / "version.py").write_text(
        '"""This file is written by the build and differs from machine to machine."""'
    )
    (package / "tests" / "test_doors.py").write_text(
        '"""This is a test of doors and no documentation."""\n'
    )
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: doors\nVersion: 1.2.0+local\nLicense-Expression: MIT\n\n# Doors\n\n"
        "![badge](https://example.org) Doors is a *library* that opens doors, see [the manual](https://example.org).\n\n```\npip install doors\n```\n"
    )
    names = [
        "doors/__init__.py",
        "doors/tests/test_doors.py",
        "doors/version.py",
        "doors-1.2.0.dist-info/METADATA",
    ]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def test_documentation_becomes_paragraphs_of_prose(doors):
    readme, page = embedded({"doors": "1.2.0"}, workers=1)
    assert readme == Document(
        "doors/README#0",
        "Doors is a library that opens doors, see the manual.",
        "doors 1.2.0",
        "MIT",
    )
    assert page.text.split("\n") == [
        "A door is opened by turning its handle, which is usually found on the side away from the hinges, and by pushing.",
        "Use it like this:",
        "Doors that are locked need a key, and the key must be the one that belongs to the lock.",
        "Open the door called name.",
        "name: The name that is written on the door, in any language.",
        "force (float, optional): How hard to push, measured in newtons.",
        "noise (bool): Whether the door may creak when it reaches the end. Default: False",
        "Wooden doors swell in the rain and may then need more force.",
        "a first item that is wrapped onto a second line",
        "a second item of the same list",
        "Tells whether the door of that name is closed at the moment.",
    ]


def test_a_package_of_another_version_is_refused(doors):
    with pytest.raises(
        ValueError, match=r"doors must be 1\.3\.0, 1\.2\.0\+local is installed.*requirements\.lock"
    ):
        list(embedded({"doors": "1.3.0"}, workers=1))
    with pytest.raises(ValueError, match=r"windows 1\.0 is not installed.*requirements\.lock"):
        list(embedded({"windows": "1.0"}, workers=1))


def test_a_paragraph_is_given_once(doors, tmp_path):
    (tmp_path / "site" / "doors" / "__init__.py").write_text(
        '"""Doors is a *library* that opens doors, see the manual.\n\nThis was not said before."""'
    )
    texts = [document.text for document in embedded({"doors": "1.2.0"}, workers=1)]
    assert texts == [
        "Doors is a library that opens doors, see the manual.",
        "This was not said before.",
    ]


def read(pattern, column):
    parts = paths.parts(
        [FilesConfig(pattern=str(pattern), text_column=column, licence="unknown")], 100, "raw.files"
    )
    return (document for part in parts for document in local.read(part))


TEXTS = ["One text.\nOf two lines.", 'Naïve "quotes" \\ and 日本語', "The last"]


def write_lines(path: Path) -> None:
    content = "".join(json.dumps({"text": text, "url": "x"}) + "\n" for text in TEXTS).encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content))
    elif path.suffix == ".zst":
        with pa.output_stream(path, compression="zstd") as stream:
            stream.write(content)
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json.gz"])
def test_lines_of_json_are_read(tmp_path, name):
    write_lines(tmp_path / name)
    pattern = str(tmp_path / "*")
    assert list(read(pattern, "text")) == [
        Document(f"{tmp_path / name}:{number}", text, pattern, "unknown")
        for number, text in enumerate(TEXTS, 1)
    ]


def test_parquet_is_read(tmp_path):
    pq.write_table(pa.table({"content": TEXTS, "n": [1, 2, 3]}), tmp_path / "a.parquet")
    assert [document.text for document in read(str(tmp_path / "*.parquet"), "content")] == TEXTS


def test_a_text_file_is_a_document(tmp_path):
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text)
    assert [document.text for document in read(str(tmp_path / "*.txt"), "text")] == TEXTS


def test_half_a_surrogate_pair_is_mended(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "half \\ud83d"}')
    assert next(read(str(tmp_path / "a.jsonl"), "text")).text == "half ?"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "good"}\n{"text": \n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"text": "good"}\n["text"]\n', r"a\.jsonl, line 2 has no column `text`"),
        (
            "a.jsonl",
            b'{"url": "x", "body": "y"}\n',
            r"line 1 has no column `text`: set text_column of raw\.files to one of url, body",
        ),
        ("a.jsonl", b'{"text": 7}\n', r"line 1: `text` must be text, got 7"),
        ("a.jsonl", b"", r"a\.jsonl is empty"),
        ("a.txt", b" \n", r"a\.txt is empty"),
        ("a.txt", b"\xff\xfe\xfa", r"a\.txt is not UTF-8"),
        ("a.jsonl.gz", b"no gzip at all", r"a\.jsonl\.gz cannot be read"),
        ("a.parquet", b"no parquet at all", r"a\.parquet cannot be read"),
        ("a.docx", b"x", r"a\.docx is of no known kind"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read(str(tmp_path / name), "text"))


def test_a_truncated_archive_is_an_error(tmp_path):
    write_lines(tmp_path / "a.jsonl.gz")
    whole = (tmp_path / "a.jsonl.gz").read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz"):
        list(read(str(tmp_path / "a.jsonl.gz"), "text"))


def test_parquet_without_the_column_is_an_error(tmp_path):
    pq.write_table(pa.table({"content": TEXTS}), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"no column `text`: set text_column of raw\.files to one of content"
    ):
        list(read(str(tmp_path / "a.parquet"), "text"))


def test_a_pattern_without_files_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\*\.jsonl matches no file"):
        list(read(str(tmp_path / "nothing*.jsonl"), "text"))


def test_documents_are_written_to_files_of_bounded_size(tmp_path):
    documents = [Document(str(number), "word " * 1000, "here", "MIT") for number in range(10)]
    for folder in ("one", "two"):
        write_parquet(documents, tmp_path / folder, file_mb=0.02)
    written = sorted((tmp_path / "one").iterdir())
    assert [path.name for path in written] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert [
        tuple(row.values()) for path in written for row in pq.read_table(path).to_pylist()
    ] == documents
    assert [path.read_bytes() for path in written] == [
        path.read_bytes() for path in sorted((tmp_path / "two").iterdir())
    ]


def config_of(folder):
    values = params.read(RawConfig, "raw")
    given = (
        FilesConfig(pattern=f"{folder}/*.jsonl", text_column="text", licence="MIT"),
        FilesConfig(pattern=f"{folder}/*.parquet", text_column="content", licence="none"),
    )
    return dataclasses.replace(values, source="files", file_mb=0.02, files=given)


def test_files_of_several_kinds_become_parquet_whatever_the_number_of_workers(
    tmp_path, monkeypatch, runtime
):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for number in range(3):
        (tmp_path / f"{number}.jsonl").write_text(
            "".join(
                json.dumps({"text": f"{number} {row} " + "word " * 100}) + "\n"
                for row in range(100)
            )
        )
    pq.write_table(
        pa.table({"content": [f"{row} text" for row in range(50)]}), tmp_path / "a.parquet"
    )
    written = []
    for workers in (1, 2):
        folder = tmp_path / f"raw{workers}"
        tallies = collect.write(
            config_of(tmp_path),
            folder,
            tmp_path / f"work{workers}",
            dataclasses.replace(runtime, workers=workers),
        )
        assert {source: tally.documents for source, tally in tallies.items()} == {
            f"{tmp_path}/*.jsonl": 300,
            f"{tmp_path}/*.parquet": 50,
        }
        written.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert written[0] == written[1] and len(written[0]) > 4
    rows = [
        row
        for path in sorted((tmp_path / "raw1").iterdir())
        for row in pq.read_table(path).to_pylist()
    ]
    assert [row["licence"] for row in rows] == ["MIT"] * 300 + ["none"] * 50


def test_a_bad_file_among_good_ones_loses_nothing(tmp_path, monkeypatch, runtime):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "0.jsonl").write_text(json.dumps({"text": "good"}) + "\n")
    (tmp_path / "1.jsonl").write_text("no JSON\n" + " " * 30_000)
    pq.write_table(pa.table({"content": ["good"]}), tmp_path / "a.parquet")
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(ValueError, match=r"1\.jsonl, line 1 is not JSON"):
        collect.write(config_of(tmp_path), folder, tmp_path / "work", runtime)
    assert [path.name for path in folder.iterdir()] == ["old"]


def test_after_a_line_was_corrected_only_its_part_is_read_again(
    tmp_path, runtime, monkeypatch, capsys
):
    """Parts are at most 20 kB of files, or one file."""
    good = json.dumps({"text": "good " * 100}) + "\n"
    for number in range(6):
        (tmp_path / f"{number}.jsonl").write_text(good * 40)
    (tmp_path / "4.jsonl").write_text(good * 39 + '{"text": "torn')
    pq.write_table(pa.table({"content": ["good"]}), tmp_path / "a.parquet")
    write = partial(
        collect.write, config_of(tmp_path), tmp_path / "raw", tmp_path / "work", runtime
    )
    with pytest.raises(ValueError, match=r"4\.jsonl, line 40 is not JSON"):
        write()
    (tmp_path / "4.jsonl").write_text(good * 41)
    read, reads = local.read, []
    monkeypatch.setattr(
        local, "read", lambda part: (reads.append(Path(part.paths[0]).name), read(part))[1]
    )
    tallies = write()
    assert reads == ["4.jsonl", "5.jsonl", "a.parquet"]  # one worker stops at the first error
    assert "raw: resuming, 4 of 7 parts were read" in capsys.readouterr().err
    assert sum(tally.documents for tally in tallies.values()) == 242
    once = {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()}
    collect.write(config_of(tmp_path), tmp_path / "raw", tmp_path / "afresh", runtime)
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == once


def test_a_call_that_dies_just_after_it_has_published_can_be_made_again(
    tmp_path, monkeypatch, runtime
):
    (tmp_path / "0.jsonl").write_text(json.dumps({"text": "good"}) + "\n")
    pq.write_table(pa.table({"content": ["good"]}), tmp_path / "a.parquet")
    link, folder = files.link, tmp_path / "raw"

    def die(found, path):
        link(found, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "link", die)
    with pytest.raises(KeyboardInterrupt):
        collect.write(config_of(tmp_path), folder, tmp_path / "work", runtime)
    files.remove(folder)  # as DVC does before it runs a stage again
    monkeypatch.setattr(files, "link", link)
    assert (
        sum(
            tally.documents
            for tally in collect.write(
                config_of(tmp_path), folder, tmp_path / "work", runtime
            ).values()
        )
        == 2
    )
    assert len(list(folder.glob("*.parquet"))) == 2


def test_a_queued_experiment_finds_what_git_does_not_track(tmp_path, monkeypatch, runtime):
    """It runs in a copy of what Git tracks, below the repository, and takes the rest from there; its own copy of a file counts first."""
    copied = tmp_path / ".dvc/tmp/exps/one"
    for folder, name, text in (
        (tmp_path, "tracked", "old"),
        (tmp_path, "mine", "mine"),
        (copied, "tracked", "of the experiment"),
    ):
        (folder / "corpus").mkdir(parents=True, exist_ok=True)
        (folder / "corpus" / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    given = FilesConfig(pattern="corpus/*.jsonl", text_column="text", licence="MIT")
    config = dataclasses.replace(params.read(RawConfig, "raw"), source="files", files=(given,))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    found = []
    for place in (tmp_path, copied):
        monkeypatch.chdir(place)
        collect.write(config, tmp_path / "raw", tmp_path / place.name / "work", runtime)
        rows = pq.read_table(tmp_path / "raw/00000-00000.parquet").to_pylist()
        found.append([(row["id"], row["text"]) for row in rows])
    assert found[0] == [("corpus/mine.jsonl:1", "mine"), ("corpus/tracked.jsonl:1", "old")]
    assert found[1] == [
        ("corpus/mine.jsonl:1", "mine"),
        ("corpus/tracked.jsonl:1", "of the experiment"),
    ]
    with pytest.raises(FileNotFoundError) as error:
        paths.parts([dataclasses.replace(given, pattern="none/*.txt")], 1, "raw.files")
    assert f"matches no file in {copied} or in {tmp_path}: " in str(error.value)


def test_a_text_of_windows_is_that_of_linux(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffOne line.\r\nAnother, with é.\r\n".encode())
    assert [document.text for document in read(tmp_path / "a.txt", "text")] == [
        "One line.\nAnother, with é.\n"
    ]
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}\r\n')
    assert [document.text for document in read(tmp_path / "a.jsonl", "text")] == ["one", "two"]


def test_lines_of_code_are_counted_as_python_counts_them():
    """A form feed and U+2028 end a line for str.splitlines() and not for Python: a comment inside a string would be taken twice."""
    code = 'x = """One string \f with \u2028 breaks.\n# It says what is no comment here,\n# for it is inside of the string."""\n'
    ((_, lines),) = python_pages("a.py", "\f\n" * 3 + code)
    assert " ".join(lines).count("It says what is no comment here") == 1


def die(file):
    if file[0].endswith("__init__.py"):
        os.kill(os.getpid(), signal.SIGKILL)
    return []


def test_a_killed_reader_of_documentation_is_an_error_of_one_line(doors, monkeypatch):
    """Also while files are still handed out, when CPython itself says `OSError: handle is closed`."""
    monkeypatch.setattr("antimatter.data.sources.embedded._pages", die)
    with pytest.raises(
        OSError, match=r"a worker was killed, perhaps for want of memory: lower runtime\.workers"
    ):
        list(embedded({"doors": "1.2.0"}, workers=2))


def test_a_pool_that_takes_itself_down_while_work_is_handed_out_is_the_same_error(monkeypatch):
    def closed(*_, **__):
        raise OSError("handle is closed")

    with (
        pytest.raises(OSError, match="a worker was killed, perhaps for want of memory"),
        processes(2) as pool,
    ):
        monkeypatch.setattr(ProcessPoolExecutor, "submit", closed)
        pool.map(die, [("", "")])


def test_an_error_of_the_system_is_not_taken_for_a_killed_worker(monkeypatch):
    def full(*_, **__):
        raise OSError(24, "Too many open files")

    with pytest.raises(OSError, match="Too many open files"), processes(2) as pool:
        monkeypatch.setattr(ProcessPoolExecutor, "submit", full)
        pool.map(die, [("", "")])


def test_the_folder_for_temporary_files_may_have_a_long_name(tmp_path, monkeypatch):
    """A server of workers cannot listen there: the path of a socket is short."""
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    code = "from antimatter.tasks.workers import processes\nif __name__ == '__main__':\n"
    code += "    with processes(2) as pool:\n        print(*pool.map(abs, [-1, -2]))"
    script = tmp_path / "call.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1 2\n", "")


def test_workers_are_not_forked_from_a_process_with_threads():
    with processes(1) as pool:
        assert pool._mp_context.get_start_method() == "forkserver"
