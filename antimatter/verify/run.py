"""`antimatter verify`: reproduces the results of a commit in a temporary clone with an empty cache,
and compares them output by output.
"""

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from antimatter import files, params, text
from antimatter.errors import UserError
from antimatter.pipeline import recorded
from antimatter.pipeline.recorded import LOCK, Cache
from antimatter.repository import git
from antimatter.repository.dvc import Sandbox
from antimatter.verify import environment
from antimatter.verify.compare import Committed, Output, compare
from antimatter.verify.environment import PROVENANCE
from antimatter.verify.graph import FILE, Graph
from antimatter.verify.report import Report

REQUIREMENTS = Path("requirements.lock")
FULL = 10e6  # bytes; with fewer free ones a failure is explained by the disk
Log = Callable[[str], None]
Stages = Mapping[str, Mapping[str, Any]]  # of dvc.lock


@dataclass(frozen=True)
class Request:
    start: str = ""  # the stage to begin with; empty: the first
    parameters: tuple[str, ...] = ()  # section.key=value, changed before the run
    keep: bool = False  # do not delete the clone


def verify(root: Path, request: Request, log: Log) -> Report:
    """Runs the pipeline of the commit that is checked out at `root`, or the part that `request`
    names, and compares the outputs.

    Changes nothing under `root`. The output of DVC and the stages goes to stderr.

    Args:
        log: called with a line about the progress.

    Raises:
        UserError: the run cannot begin. If a stage fails, the report says so.
    """
    commit, prefix = _head(root, log)
    with _clone(root, commit, request.keep, log) as folder:
        project = folder / "clone" / prefix
        for file in (FILE, LOCK):
            if not (project / file).is_file():
                raise UserError(
                    f"{file} is not in the commit {commit[:12]}: run from the root of the project,"
                    " and commit what `dvc repro` writes"
                )
        # Before the graph, whose paths may depend on parameters
        changes, overridden = _set_parameters(project, folder, request.parameters)
        graph = Graph.read(project)
        _link_initial(project, root, graph)
        stages = graph.following(request.start)
        _check_read(overridden, graph, stages)
        before = recorded.stages(project)
        cache = Cache(recorded.cache(root))
        committed = _committed(project, before, graph, stages)
        _check_space(folder, before, stages)
        inputs = _inputs(project, before, cache, graph, stages)
        dvc = Sandbox(project, folder / "site")
        _restore(dvc, inputs, cache)
        outputs: list[Output] = []
        failed = ""
        for stage in stages:
            if status := dvc.run("repro", "--single-item", "--force", stage):
                failed = f"{stage} ended with status {status}, see its error above{_full(folder)}"
                break
            after = recorded.stages(project)[stage]
            digests = recorded.hashes({stage: after})
            compared = []
            for path in graph.outputs(stage):
                old, new = committed[path], digests.get(path)
                caches = (cache, Cache(dvc.cache))
                compared.append(compare(stage, path, old, new, project / path, *caches))
            log(f"verify: {stage} {_summary(compared)}")
            outputs += compared
            changes += environment.changed_inputs(
                before.get(stage, {}), after, committed, overridden
            )
        requirements = project / REQUIREMENTS
        if requirements.is_file():
            changes += environment.packages(requirements.read_text(encoding="utf-8"))
        machine = _machine(project, committed, outputs)
        unique = tuple(dict.fromkeys(changes))
        return Report(commit, tuple(stages), tuple(outputs), unique, machine, failed)


def _summary(outputs: Sequence[Output]) -> str:
    different = sum(not output.identical for output in outputs if output.path != PROVENANCE)
    return f"differs in {different} of {len(outputs)} outputs" if different else "is identical"


def _machine(
    project: Path, committed: Mapping[str, Committed], outputs: Sequence[Output]
) -> tuple[str, ...] | None:
    """What differs in PROVENANCE; None if the commit does not have it, or this run did not compute
    it.
    """
    before = committed[PROVENANCE].content if PROVENANCE in committed else None
    if before is None or not any(output.path == PROVENANCE for output in outputs):
        return None
    return tuple(environment.provenance(before, (project / PROVENANCE).read_bytes()))


def _committed(
    project: Path, before: Stages, graph: Graph, stages: Sequence[str]
) -> dict[str, Committed]:
    """The recorded outputs of the stages that will run, by path. Read before DVC deletes them."""
    committed = {}
    for stage in stages:
        digests = recorded.hashes({stage: before.get(stage, {})})
        for path in graph.outputs(stage):
            file = project / path
            content = file.read_bytes() if file.is_file() else None
            committed[path] = Committed(digests.get(path), content)
    return committed


# ---- the repository and its clone


def _head(root: Path, log: Log) -> tuple[str, str]:
    """The commit that is checked out, and the path of `root` in the repository. Logs which changes
    are not part of the commit.
    """
    head = git.run("rev-parse", "--verify", "--quiet", "HEAD", root=root)
    if head.returncode:
        raise UserError("there is no commit to verify here: `git init`, then commit the results")
    commit = head.stdout.strip()
    if changed := git.changed_files(root=root):
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        names = ", ".join(changed[:3])
        log(f"note: verifying the commit {commit[:12]}, without your changes of {names}{more}")
    return commit, git.output("rev-parse", "--show-prefix", root=root).strip()


@contextmanager
def _clone(root: Path, commit: str, keep: bool, log: Log) -> Iterator[Path]:
    """A temporary folder with the commit in `clone`. It is deleted with the block, even on an
    error.
    """
    folder = Path(tempfile.mkdtemp(prefix="antimatter-verify-"))
    try:
        clone = folder / "clone"
        top = git.output("rev-parse", "--show-toplevel", root=root).removesuffix("\n")
        git.output("clone", "--quiet", "--no-checkout", top, str(clone), root=root)
        git.output("checkout", "--quiet", "--detach", commit, root=clone)
        log(f"verify: commit {commit[:12]} in {clone}")
        yield folder
    finally:
        if keep:
            log(f"verify: the clone is kept in {folder}")
        else:
            with _signals_ignored():
                files.remove(folder)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """So that a second Ctrl-C does not interrupt the deletion that the first one caused."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _check_space(folder: Path, before: Stages, stages: Sequence[str]) -> None:
    """Raises UserError if the outputs do not fit on the disk. DVC links them from its cache, so
    they take their size once.
    """
    outputs = [output for stage in stages for output in before.get(stage, {}).get("outs", [])]
    needed = sum(output.get("size", 0) for output in outputs)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{text.size(needed)} of outputs do not fit into {folder.parent}, which has"
            f" {text.size(free)} free: set TMPDIR"
        )


def _full(folder: Path) -> str:
    if shutil.disk_usage(folder).free >= FULL:
        return ""
    return f"; the disk of {folder.parent} is full: set TMPDIR to a larger one"


# ---- what the stages read


def _inputs(
    project: Path, before: Stages, cache: Cache, graph: Graph, stages: Sequence[str]
) -> list[str]:
    """Paths that the stages read, that no stage of the run computes, and that Git does not have.

    Raises:
        UserError: the cache lacks one of them.
    """
    producers = graph.producers()
    read = {path for stage in stages for path in graph.inputs(stage)}
    needed = sorted(
        path for path in read if producers[path] not in stages and not (project / path).exists()
    )
    digests = recorded.hashes(before)
    for path in needed:
        if path not in digests or not cache.holds(digests[path]):
            raise UserError(
                f"{path}, as dvc.lock records it, is not in the cache {cache.folder}:"
                " run `dvc pull` or `dvc repro` first"
            )
    return needed


def _link_initial(project: Path, root: Path, graph: Graph) -> None:
    """Links what trainings start from (`initial` in params.yaml) into the clone, unless Git has it.

    Its digest is part of the provenance, so a difference is reported.
    """
    for section in params.load(project / params.PARAMS).values():
        name = section.get("initial") if isinstance(section, dict) else None
        if not name or Path(name).is_absolute() or (project / name).exists():
            continue
        source, link = (root / name).resolve(), project / name
        # A stage will write it
        is_output = any(
            link.is_relative_to(project / path)
            for stage in graph.stages
            for path in graph.outputs(stage)
        )
        if source.exists() and not is_output:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source)


def _restore(dvc: Sandbox, inputs: Sequence[str], cache: Cache) -> None:
    """Links inputs from the repository's cache into the clone. Writes nothing to that cache."""
    if not inputs:
        return
    dvc.use_cache(cache.folder)
    if dvc.run("checkout", "--quiet", *inputs):
        raise UserError(
            f"`dvc checkout` of {', '.join(inputs)} from the cache {cache.folder} failed:"
            " see its error above"
        )
    dvc.use_cache(dvc.cache)


def _set_parameters(
    project: Path, folder: Path, assignments: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Changes params.yaml of the clone.

    Returns:
        What changed, in words, and the names of all assigned parameters.

    Raises:
        UserError: there is no such parameter.
    """
    values = params.load(project / params.PARAMS)
    changes, names = [], []
    for assignment in assignments:
        name, separator, value_text = assignment.partition("=")
        *sections, key = name.split(".")
        section: Any = values
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if not (separator and sections and isinstance(section, dict) and key in section):
            raise UserError(
                f"-S {assignment}: give section.key=value with a parameter of params.yaml"
            )
        # Read as params.yaml is, so that 1e-3 is a number and `off` is text
        files.write_text(folder / "value.yaml", f"value: {value_text}\n")
        value = params.load(folder / "value.yaml").get("value")
        if value != section[key]:
            changes.append(f"parameter {name} {section[key]} -> {value}, by -S")
        section[key] = value
        names.append(name)
    if assignments:
        # JSON is YAML 1.2, which DVC reads; PyYAML writes 1.1
        files.write_json(project / params.PARAMS, values)
    return changes, names


def _check_read(names: Sequence[str], graph: Graph, stages: Sequence[str]) -> None:
    """Raises UserError for a changed parameter that no stage of the run computes with."""
    read = {"runtime"}
    for stage in stages:
        # It lists all of them, and computes with none
        if stage != "report":
            read.update(graph.stages[stage].get("params", []))
    for name in names:
        section = name.partition(".")[0]
        if section not in read:
            raise UserError(
                f"-S {name}: no stage of {', '.join(stages)} reads `{section}`:"
                " choose another --from"
            )
