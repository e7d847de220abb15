"""The notebook runs from its first cell to its last, with the models of the tiny pipeline.

To write its outputs again, with the models of this checkout: python tests/test_notebook.py
"""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path("examples/antimatter.ipynb")
MOST = 1_000_000  # bytes


def execute(root: Path) -> nbformat.NotebookNode:
    """The notebook of a checkout with new outputs. Its kernel runs in the folder `examples`."""
    notebook = nbformat.read(root / NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(root / NOTEBOOK.parent)}}
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,
        resources=resources,
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()
    # The version of Python, which is another one elsewhere
    notebook.metadata.pop("language_info", None)
    return notebook


def output(notebook: nbformat.NotebookNode) -> str:
    """All that its cells print."""
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", [])]
    return "".join(one.get("text", "") for one in outputs)


def test_every_cell_runs(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    before = sorted(tiny_pipeline.rglob("*"))
    notebook = execute(tiny_pipeline)
    text = output(notebook)
    assert "the same weights: True" in text and "the same answer: True" in text
    pictures = [
        one
        for cell in notebook.cells
        for one in cell.get("outputs", [])
        if "image/png" in one.get("data", {})
    ]
    assert len(pictures) == 1
    assert sorted(tiny_pipeline.rglob("*")) == before


def test_the_committed_notebook_has_the_outputs_of_the_default_model() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < MOST
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells)
    assert "1,725,696 parameters" in output(notebook)
    assert "the same weights: True" in output(notebook)


if __name__ == "__main__":
    nbformat.write(execute(Path.cwd()), NOTEBOOK)
