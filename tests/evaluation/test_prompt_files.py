"""Files with one entry a line under headings, and the three readers of such files."""

from pathlib import Path
from typing import Any

import pytest

from antimatter.evaluation import cloze, coherence, prompt_files, scripts
from antimatter.evaluation.prompt_files import Entry

READERS = (cloze.read_items, coherence.read_prompts, scripts.read)


def test_entries_have_the_heading_above_them_and_their_line(tmp_path: Path) -> None:
    path = tmp_path / "entries.txt"
    path.write_text("\ufeffone\n#  Two words #\n\n  two\u2028more \n#\nthree\n", encoding="utf-8")
    assert prompt_files.read(path, "first", "write one") == [
        Entry("first", "one", 1),
        Entry("Two words #", "two\u2028more", 4),
        Entry("", "three", 6),
    ]


@pytest.mark.parametrize("read", READERS)
def test_a_file_without_an_entry_is_named_with_its_form(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "entries.txt"
    with pytest.raises(ValueError, match=r"entries\.txt is missing: .* a line under `# "):
        read(path)
    path.write_text("# a\n\n")
    with pytest.raises(ValueError, match=r"entries\.txt holds no entry: write .*under `# "):
        read(path)
    path.write_bytes("# a\nfünf".encode("latin-1"))
    with pytest.raises(ValueError, match=r"entries\.txt is not UTF-8 text .*: convert it"):
        read(path)


@pytest.mark.parametrize("read", (cloze.read_items, coherence.read_prompts))
def test_no_heading_has_the_name_of_the_figures_of_all(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "entries.txt"
    path.write_text("# a\nx | y | z\n# all\nx | y | z\n")
    with pytest.raises(ValueError, match=r"entries\.txt, line 3: the heading `all`.*: rename it"):
        read(path)
