"""The figures and the parameters of a run as one table, for the top of the plots page.

`dvc plots diff` hands its page the rows of CSV files alone, so what `dvc metrics diff` and
`dvc params diff` compare must be such a file to be beside the charts.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from antimatter import files

# Those that measure a model
STAGES = ("checkpoints", "evaluation", "tuned", "answers")
# Says how to run, never what to compute
UNTRACKED = "runtime"


def write(metrics: Path, parameters: Mapping[str, Any], table: Path) -> None:
    """Writes a CSV of kind, name and value.

    Args:
        metrics: the folder with `summary.json` of each stage.
        parameters: the content of params.yaml.

    Raises:
        UserError: a summary is missing or damaged.
    """
    summaries = {name: files.read_json(metrics / name / "summary.json") for name in STAGES}
    tracked = {name: section for name, section in parameters.items() if name != UNTRACKED}
    kinds = {**summaries, "parameters": tracked}
    rows = [(kind, *row) for kind, values in kinds.items() for row in leaves(values)]
    files.write_csv(table, ("kind", "name", "value"), rows)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The name of each value, with dots as DVC writes it, and the value as text."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{prefix}{key}", text
