from pathlib import Path

import pytest

from antimatter.data.tokenizer import EOS
from antimatter.evaluation import coherence, curves
from antimatter.evaluation.coherence import CoherenceConfig, Sample

CONFIG = CoherenceConfig(temperature=0.7, top_k=40, top_p=0.9, max_new_tokens=8, samples=1, seed=1)


def test_figures_at_points_worked_out_by_hand() -> None:
    looping = Sample("k", "p", "a b a b a b", [10, 11, 10, 11, 10, 11])  # 4-grams: abab, baba, abab -> one of three repeats
    fluent = Sample("k", "p", "c d e f", [12, 13, 14, 15, EOS])  # two 4-grams, both new
    result = coherence.summary([looping, fluent])
    assert result["repetition"] == pytest.approx((1 / 3 + 0) / 2)
    assert result["distinct_1"] == pytest.approx(6 / 10)
    assert result["distinct_2"] == pytest.approx(5 / 8)  # ab, ba, cd, de, ef of five and three pairs
    assert result["ended"] == 0.5


def test_prompts_stand_one_a_line_under_their_kind(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("# Logic\nOne\n\nTwo\n# Creative\nThree\n")
    assert coherence.read_prompts(path) == [("Logic", "One"), ("Logic", "Two"), ("Creative", "Three")]
    path.write_text("# Logic\n")
    with pytest.raises(ValueError, match="holds no prompt"):
        coherence.read_prompts(path)
    with pytest.raises(FileNotFoundError, match=r"none\.txt is missing"):
        coherence.read_prompts(tmp_path / "none.txt")


def test_the_projects_own_prompts_are_of_three_kinds() -> None:
    kinds = [kind for kind, _ in coherence.read_prompts(Path("prompts/coherence.txt"))]
    assert set(kinds) == {"Logic", "Creative", "Technical"} and min(map(kinds.count, set(kinds))) >= 4


def test_text_of_the_model_cannot_become_markup() -> None:
    page = coherence.markdown([Sample("Logic", "Why", "~~~\n# A heading\n~~~~ <b>", [5, EOS])], CONFIG)
    assert page.count("~~~~~text") == 1  # longer than any fence inside
    assert "∎" in page and "**Why**" in page


def test_the_picture_of_the_curves_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("step,loss,learning_rate,gradient_norm\n1,5.0,1e-3,1\n2,4.0,1e-3,1\n")
    (tmp_path / "v.csv").write_text("step,loss\n0,6.0\n2,4.5\n")
    (tmp_path / "b.csv").write_text("at_most,vocabulary,tokens,loss,perplexity\n3,3,5,6.9,1000\n15,5,50,2.3,10\n")
    for name in ("a.png", "b.png"):
        curves.draw(tmp_path / "t.csv", tmp_path / "v.csv", tmp_path / "b.csv", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "v.csv").write_text("step,loss\n")
    with pytest.raises(ValueError, match=r"v\.csv holds no row"):
        curves.draw(tmp_path / "t.csv", tmp_path / "v.csv", tmp_path / "b.csv", tmp_path / "c.png")
