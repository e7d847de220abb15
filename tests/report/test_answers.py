"""The chart of the answers."""

from pathlib import Path

from antimatter.evaluation.conversation_page import HEADER
from antimatter.report import answers

ROWS = ("who it is,0,0.95,0.9,0.98,0,0.02", "loops,0.5,0,0,0.01,0.4,0.6")


def test_the_chart_is_the_same_bytes_each_time_and_shows_every_row(tmp_path: Path) -> None:
    table = tmp_path / "shares.csv"
    for name, rows in (("a", ROWS), ("b", ROWS), ("c", ROWS[:1])):
        table.write_text("\n".join((",".join(HEADER), *rows)) + "\n")
        answers.draw(table, tmp_path / f"{name}.png")
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c and a.startswith(b"\x89PNG")
