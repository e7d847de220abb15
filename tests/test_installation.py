"""The package is installed from its checkout: its name on the registry is another project's."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Within one command, which ends at a backtick or an operator of the shell
BY_NAME = re.compile(
    r"\b(?:pip|pipx|uv|poetry) [^`;&|]*\b(?:install|add|download|run)\b"
    r"[^`;&|]*(?<![\w./-])antimatter(?![\w./:-])"
    r"|(?<![\w./-])antimatter\["
)


def texts() -> list[Path]:
    """Every file that may tell a user a command, code with its messages included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    suffixes = {".md", ".py", ".toml", ".yaml", ".html", ".txt", ".ipynb", ""}
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [
        path
        for path in paths
        if path.suffix in suffixes and path != Path(__file__) and path.is_file()
    ]


def test_no_text_installs_the_package_by_its_name() -> None:
    hits = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in texts()
        for line in path.read_text(encoding="utf-8").split("\n")
        if BY_NAME.search(line)
    ]
    assert not hits


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("pip install antimatter", True),
        ("pip install 'antimatter[ray]'", True),
        ("needs `antimatter[s3]`", True),
        ("uv pip install --quiet antimatter==0.1", True),
        ("pip install -c requirements.lock -e '.[ray]'", False),
        ("`pip install kaggle`, then `antimatter kaggle`", False),
        ("pip install -e . && antimatter chat", False),
        ("pip install /somewhere/antimatter", False),
    ],
)
def test_the_pattern_matches_an_install_by_name(line: str, wrong: bool) -> None:
    assert bool(BY_NAME.search(line)) == wrong


def test_each_extra_is_installed_from_the_checkout_with_the_lock() -> None:
    lines = [
        line
        for path in texts()
        for line in re.findall(r"pip install.*?'\.\[[\w-]+\]'", path.read_text(encoding="utf-8"))
        # `make lock` installs without the lock
        if "[dev]" not in line
    ]
    for extra in ("documents", "lm-eval", "ray", "s3"):
        assert f"pip install -c requirements.lock -e '.[{extra}]'" in lines
    assert all(line.startswith("pip install -c requirements.lock -e '.[") for line in lines)


def test_the_package_cannot_be_uploaded_and_setuptools_agrees(tmp_path: Path) -> None:
    """A registry refuses what has this classifier."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "Private :: Do Not Upload" in project["classifiers"]
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "antimatter").mkdir()
    (tmp_path / "antimatter" / "__init__.py").touch()
    code = "from setuptools import build_meta as b; print(b.prepare_metadata_for_build_wheel('.'))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    metadata = (tmp_path / done.stdout.split()[-1] / "METADATA").read_text(encoding="utf-8")
    assert "\nClassifier: Private :: Do Not Upload\n" in metadata
