"""dvc.yaml as a graph: what each stage reads and writes, and in which order the stages run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from antimatter import params
from antimatter.errors import UserError

FILE = Path("dvc.yaml")


@dataclass(frozen=True)
class Graph:
    stages: Mapping[str, Mapping[str, Any]]  # as in dvc.yaml
    parameters: Mapping[str, Any]  # of params.yaml, for paths such as models/${gguf.model}

    @classmethod
    def read(cls, project: Path) -> "Graph":
        return cls(params.load(project / FILE)["stages"], params.load(project / params.PARAMS))

    def outputs(self, stage: str) -> list[str]:
        return [path for kind in ("metrics", "outs", "plots") for path in self._paths(stage, kind)]

    def producers(self) -> dict[str, str]:
        """The stage of each output, by its path."""
        return {path: stage for stage in self.stages for path in self.outputs(stage)}

    def inputs(self, stage: str) -> list[str]:
        """The outputs of other stages that a stage reads."""
        producers = self.producers()
        return [path for path in self._paths(stage, "deps") if path in producers]

    def following(self, start: str) -> list[str]:
        """`start` and the stages that depend on it, in an order in which they can run. If `start`
        is empty, all stages.

        Raises:
            UserError: there is no such stage.
        """
        if start and start not in self.stages:
            raise UserError(f"there is no stage {start!r}: choose one of {', '.join(self.stages)}")
        producers = self.producers()
        needs = {stage: {producers[path] for path in self.inputs(stage)} for stage in self.stages}
        chosen: list[str] = []
        # A stage comes after all that it needs, so what it needs is already in `chosen`
        for stage in TopologicalSorter(needs).static_order():
            if not start or stage == start or needs[stage].intersection(chosen):
                chosen.append(stage)
        return chosen

    def _paths(self, stage: str, kind: str) -> list[str]:
        """An entry is a path, or a mapping from the path to its options."""
        entries = self.stages[stage].get(kind, [])
        paths = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]
        return [re.sub(r"\$\{([\w.]+)\}", self._value, path) for path in paths]

    def _value(self, match: re.Match[str]) -> str:
        value: Any = self.parameters
        for key in match[1].split("."):
            if not isinstance(value, Mapping) or key not in value:
                raise UserError(f"{FILE} refers to {match[0]}, which {params.PARAMS} does not have")
            value = value[key]
        return str(value)
