"""The pictures of the training."""

from pathlib import Path

import pytest

from antimatter.report import training


def test_the_curves_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    (tmp_path / "training.csv").write_text(
        "step,loss,learning_rate,gradient_norm\n1,5.0,1e-3,1\n2,4.0,1e-3,1\n"
    )
    (tmp_path / "validation.csv").write_text("step,loss\n0,6.0\n2,4.5\n")
    (tmp_path / "bins.csv").write_text(
        "at_most,vocabulary,tokens,loss,perplexity\n3,3,5,6.9,1000\n15,5,50,2.3,10\n"
    )
    (tmp_path / "backtracks.csv").write_text("step,loss,back_to,rate_scale\n")
    inputs = [tmp_path / f"{name}.csv" for name in ("training", "validation", "backtracks", "bins")]
    for name in ("a.png", "b.png"):
        training.draw(*inputs, tmp_path / name, tmp_path / "steps.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "validation.csv").write_text("step,loss\n")
    with pytest.raises(ValueError, match=r"validation\.csv .* `dvc repro`"):
        training.draw(*inputs, tmp_path / "c.png", tmp_path / "steps.png")
