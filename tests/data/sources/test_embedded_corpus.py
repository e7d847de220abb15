"""The documentation inside packages as paragraphs of prose, and which packages the corpus reads."""

import dataclasses
import importlib.metadata
import os
import re
import signal
import tomllib
from pathlib import Path

import pytest

from antimatter import params
from antimatter.data.documents import Document
from antimatter.data.sources import collect, embedded
from antimatter.data.sources.config import RawConfig
from antimatter.data.sources.embedded import python_pages
from antimatter.errors import UserError
from antimatter.tasks.config import TasksRuntime

ROOT = Path(__file__).parents[3]
# What serves, stores, schedules and tests: an update of it must change no byte of data/raw
TOOLS = {"aiohttp", "dvc", "dvc-s3", "flask", "mypy", "playwright", "pytest", "ray", "transformers"}
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
METADATA = """Metadata-Version: 2.1
Name: doors
Version: 1.2.0+local
License-Expression: MIT

# Doors

![badge](https://example.org) Doors is a *library* that opens doors, see [the manual](https://a.org).

```
pip install doors
```
"""


@pytest.fixture
def doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution called doors 1.2.0, as pip would install it: the folder of its modules."""
    package, info = tmp_path / "site/doors", tmp_path / "site/doors-1.2.0.dist-info"
    (package / "tests").mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text(MODULE)
    generated = "This file is written by the build and differs from machine to machine."
    (package / "version.py").write_text(f'"""{generated}"""')
    test = "This is a test of doors and no documentation."
    (package / "tests/test_doors.py").write_text(f'"""{test}"""\n')
    (info / "METADATA").write_text(METADATA)
    names = [f"doors/{name}" for name in ("__init__.py", "tests/test_doors.py", "version.py")]
    names.append("doors-1.2.0.dist-info/METADATA")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return package


def documents(workers: int = 1, version: str = "1.2.0") -> list[Document]:
    return list(embedded.embedded({"doors": version}, workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_documentation_becomes_paragraphs_of_prose(doors: Path, workers: int) -> None:
    readme, page = documents(workers)
    text = "Doors is a library that opens doors, see the manual."
    assert readme == Document("doors/README#0", text, "doors 1.2.0", "MIT")
    assert page.text.split("\n") == [
        "A door is opened by turning its handle, which is usually found on the side away from the "
        "hinges, and by pushing.",
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


def test_a_package_of_another_version_is_refused(doors: Path) -> None:
    line = r"doors must be 1\.3\.0, 1\.2\.0\+local is installed.*requirements\.lock"
    with pytest.raises(UserError, match=line):
        documents(version="1.3.0")
    with pytest.raises(UserError, match=r"windows 1\.0 is not installed.*requirements\.lock"):
        list(embedded.embedded({"windows": "1.0"}, workers=1))


def test_a_paragraph_is_given_once(doors: Path) -> None:
    known, new = (
        "Doors is a library that opens doors, see the manual.",
        "This was not said before.",
    )
    (doors / "__init__.py").write_text(f'"""{known}\n\n{new}"""')
    assert [document.text for document in documents()] == [known, new]


def test_lines_of_code_are_counted_as_python_counts_them() -> None:
    """A form feed and U+2028 end a line for str.splitlines() but not for Python: a comment inside a
    string would be taken twice.
    """
    code = (
        'x = """One string \f with \u2028 breaks.\n'
        "# These two lines are a part of it,\n"
        '# because they are inside of the string."""\n'
    )
    ((_, lines),) = python_pages("a.py", "\f\n" * 3 + code)
    assert " ".join(lines).count("These two lines are a part of it") == 1


def die(file: tuple[str, str]) -> list[embedded.Page]:
    if file[0].endswith("__init__.py"):
        os.kill(os.getpid(), signal.SIGKILL)
    return []


def test_a_killed_reader_is_an_error_of_one_line(
    doors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "file_pages", die)
    with pytest.raises(UserError, match=r"a worker was killed.* lower runtime\.workers"):
        documents(workers=2)


def test_the_corpus_asks_for_no_other_package(
    doors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: TasksRuntime
) -> None:
    packages = {"doors": "1.2.0", "filelock": importlib.metadata.version("filelock")}
    config = params.read(RawConfig, "raw", ROOT / "params.yaml")
    config = dataclasses.replace(config, packages=packages)
    requests: list[str] = []
    distribution = importlib.metadata.distribution

    def spy(name: str) -> importlib.metadata.Distribution:
        requests.append(name)
        return distribution(name)

    monkeypatch.setattr(importlib.metadata, "distribution", spy)
    collect.write(config, tmp_path / "raw", tmp_path / "work", runtime)
    assert requests == list(packages)


@pytest.mark.parametrize("name", ["params.yaml", "presets/nano.yaml", "presets/300m.yaml"])
def test_the_corpus_depends_on_no_tool(name: str) -> None:
    packages = params.read(RawConfig, "raw", ROOT / name).packages
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tools = {re.split(r"[\[<>=]", line)[0] for line in project["optional-dependencies"]["dev"]}
    assert packages and not {*packages} & (tools | TOOLS)
    pinned = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert {f"{package}=={version}" for package, version in packages.items()} <= {*pinned}
