"""Reproduces what a commit claims, in a temporary clone with an empty cache, and compares it output by output: `antimatter verify`."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from antimatter import files, params
from antimatter.errors import UserError
from antimatter.kaggle.run import process
from antimatter.verify import compare, environment
from antimatter.verify.compare import Cache, Output, Recorded
from antimatter.verify.report import Report

Say = Callable[[str], None]
LOCK, GRAPH, REQUIREMENTS = Path("dvc.lock"), Path("dvc.yaml"), Path("requirements.lock")
# Of a surrounding stage, Git hook or shell: they would lead the clone's commands out of the clone
_LEAKS = {
    *("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"),
    *(
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_COMMON_DIR",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
    ),
    "PYTHONSAFEPATH",  # with it `python -m stages.raw` would not look into the clone
}


@dataclass(frozen=True)
class Request:
    start: str = ""  # the stage to begin with; empty: the first
    parameters: tuple[str, ...] = ()  # section.key=value, to be changed before the run
    keep: bool = False  # leave the clone


@dataclass(frozen=True)
class Graph:
    """dvc.yaml as far as the order of the stages goes."""

    stages: Mapping[str, Mapping[str, Any]]

    def outs(self, name: str) -> list[str]:
        return [
            path
            for kind in ("metrics", "outs", "plots")
            for path in _paths(self.stages[name].get(kind, []))
        ]

    def made_by(self) -> dict[str, str]:
        return {path: name for name in self.stages for path in self.outs(name)}

    def inputs(self, name: str) -> list[str]:
        """The outputs of other stages that a stage reads."""
        makers = self.made_by()
        return [path for path in _paths(self.stages[name].get("deps", [])) if path in makers]

    def after(self, start: str) -> list[str]:
        """A stage and all that follow from it, in an order in which they can run; without a start, all.

        Raises:
            ValueError: there is no such stage.
        """
        if start and start not in self.stages:
            raise UserError(f"there is no stage {start!r}: known are {', '.join(self.stages)}")
        makers = self.made_by()
        needs = {name: {makers[path] for path in self.inputs(name)} for name in self.stages}
        chosen: list[str] = []
        for name in TopologicalSorter(needs).static_order():
            if not start or name == start or needs[name].intersection(chosen):
                chosen.append(name)
        return chosen


def verify(root: Path, request: Request, say: Say) -> Report:
    """Runs the pipeline of the commit that is checked out at `root`, or the part of it that `request` asks for, and compares.

    Nothing under `root` changes. What DVC and the stages print goes to stderr; `say` takes a line for people as it happens.

    Raises:
        ValueError, OSError: it cannot begin; the message says why. A stage that fails is a report.
    """
    commit, prefix = _head(root, say)
    with _clone(root, commit, request.keep, say) as place:
        project = place / "clone" / prefix
        for path in (GRAPH, LOCK):
            if not (project / path).is_file():
                raise FileNotFoundError(
                    f"{path} is not in the commit {commit[:12]}: run from the root of the project; `dvc repro` makes dvc.lock"
                )
        graph = Graph(params.load(project / GRAPH)["stages"])
        stages = graph.after(request.start)
        changes, known = _set_parameters(project, place, request, graph, stages)
        old, old_cache = (
            _locked(project),
            Cache(Path(_asked([sys.executable, "-m", "dvc", "cache", "dir"], root))),
        )
        recorded = {
            path: _recorded(project, path, old.get(name, {}))
            for name in stages
            for path in graph.outs(name)
        }
        _look_for_space(
            place,
            [
                entry.get("size", 0)
                for name in stages
                for entry in old.get(name, {}).get("outs", [])
            ],
        )
        dvc = _Dvc(project, place / "site")
        _restore(dvc, graph, stages, old, old_cache)
        outputs: list[Output] = []
        failed = ""
        made = {path for name in stages for path in graph.outs(name)}
        for name in stages:
            if status := dvc.run("repro", "--single-item", "--force", name):
                failed = f"{name} ended with status {status}, its error stands above{_full(place)}"
                break
            new = _locked(project)[name]
            found = _compared(
                name,
                new,
                {path: recorded[path] for path in graph.outs(name)},
                project,
                old_cache,
                Cache(dvc.cache),
            )
            different = sum(
                not output.identical for output in found if output.path != environment.PROVENANCE
            )
            say(
                f"verify: {name} {f'differs in {different} of {len(found)} outputs' if different else 'is identical'}"
            )
            outputs += found
            changes += environment.stale(old.get(name, {}), new, made, known)
        requirements = project / REQUIREMENTS
        if requirements.is_file():
            changes += environment.packages(requirements.read_text(encoding="utf-8"))
        return Report(
            commit,
            tuple(stages),
            tuple(outputs),
            tuple(dict.fromkeys(changes)),
            _machine(project, recorded, outputs),
            failed,
        )


def _compared(
    stage: str,
    new: Mapping[str, Any],
    recorded: Mapping[str, Recorded],
    project: Path,
    old_cache: Cache,
    new_cache: Cache,
) -> list[Output]:
    digests = {entry["path"]: entry["md5"] for entry in new.get("outs", [])}
    return [
        compare.compare(
            stage, path, record, digests.get(path), project / path, old_cache, new_cache
        )
        for path, record in recorded.items()
    ]


def _machine(
    project: Path, recorded: Mapping[str, Recorded], outputs: Sequence[Output]
) -> tuple[str, ...] | None:
    before = (
        recorded[environment.PROVENANCE].content if environment.PROVENANCE in recorded else None
    )
    if before is None or not any(output.path == environment.PROVENANCE for output in outputs):
        return None
    return tuple(environment.provenance(before, (project / environment.PROVENANCE).read_bytes()))


def _paths(items: Sequence[Any]) -> list[str]:
    return [next(iter(item)) if isinstance(item, dict) else item for item in items]


def _locked(project: Path) -> dict[str, dict[str, Any]]:
    stages: dict[str, dict[str, Any]] = params.load(project / LOCK).get("stages", {})
    return stages


def _recorded(project: Path, path: str, entry: Mapping[str, Any]) -> Recorded:
    """What the commit says of an output, read before DVC deletes it."""
    md5 = next((out["md5"] for out in entry.get("outs", []) if out["path"] == path), None)
    return Recorded(md5, (project / path).read_bytes() if (project / path).is_file() else None)


# ---- the repository and its clone


def _head(root: Path, say: Say) -> tuple[str, str]:
    """The commit, and where in the repository `root` lies; says which changes are not in it."""
    if shutil.which("git") is None:
        raise FileNotFoundError("git is not installed, and verify works on a commit: install it")
    commit = _asked(
        ["git", "rev-parse", "--verify", "--quiet", "HEAD"],
        root,
        "there is no commit to verify here: `git init`, then commit the results",
    )
    changed = [
        line[3:]
        for line in _asked(
            ["git", "status", "--porcelain", "--untracked-files=no"], root, strip=False
        ).splitlines()
    ]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        say(
            f"note: what is verified is the commit {commit[:12]}, without your changes of {', '.join(changed[:3])}{more}"
        )
    return commit, _asked(["git", "rev-parse", "--show-prefix"], root)


def _surroundings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _LEAKS}


def _asked(command: list[str], folder: Path, otherwise: str = "", strip: bool = True) -> str:
    """What a command prints.

    Raises:
        ValueError: it failed; the message is `otherwise`, or else its own last words.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        env=_surroundings(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise UserError(
            otherwise
            or f"`{' '.join(command[:3])}` failed: {said[-1] if said else f'status {done.returncode}'}"
        )
    return done.stdout.strip() if strip else done.stdout


@contextmanager
def _clone(root: Path, commit: str, keep: bool, say: Say) -> Iterator[Path]:
    """A temporary folder with the commit in `clone`; it goes with the block, however that ends."""
    place = Path(tempfile.mkdtemp(prefix="antimatter-verify-"))
    try:
        clone = place / "clone"
        top = _asked(["git", "rev-parse", "--show-toplevel"], root)
        _asked(["git", "clone", "--quiet", "--no-checkout", top, str(clone)], root)
        _asked(["git", "checkout", "--quiet", "--detach", commit], clone)
        say(f"verify: commit {commit[:12]} in {clone}")
        yield place
    finally:
        if keep:
            say(f"verify: the clone stays in {place}")
        else:
            with _undisturbed():
                files.remove(place)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not leave half of what the first one is removing."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _look_for_space(place: Path, sizes: Sequence[int]) -> None:
    """Raises OSError if the outputs do not fit on the disk; DVC links them from its cache, so they take their size once."""
    free = shutil.disk_usage(place).free
    if sum(sizes) > free:
        raise OSError(
            f"{sum(sizes) / 1e6:,.0f} MB of outputs do not fit into {place.parent}, where {free / 1e6:,.0f} MB are free: set TMPDIR"
        )


def _full(place: Path) -> str:
    free = shutil.disk_usage(place).free
    return (
        f"; the disk of {place.parent} is full: set TMPDIR to a larger one" if free < 10e6 else ""
    )


# ---- what runs in the clone


class _Dvc:
    """DVC in the clone, with a cache of the clone's own, so that every output is computed and none is taken from a cache."""

    def __init__(self, project: Path, site: Path) -> None:
        self.project = project
        self.cache = project / ".dvc" / "cache"
        kept = _surroundings()
        # The stages' `python` is this one
        path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
        # Else DVC keeps notes of each clone in /var/tmp
        self.environment = {**kept, "PATH": path, "DVC_SITE_CACHE_DIR": str(site)}
        self.use_cache(self.cache)

    def use_cache(self, folder: Path) -> None:
        """config.local goes before the repository's config and the user's, which may name a shared cache."""
        if self.run("cache", "dir", "--local", str(folder)):
            raise UserError(f"DVC did not work in {self.project}: its error stands above")

    def run(self, *arguments: str) -> int:
        """Its exit status. Its output goes to stderr; stdout is for the report. It ends with this process, and so do the stages."""
        with process(
            [sys.executable, "-m", "dvc", *arguments],
            self.project,
            self.environment,
            sys.stderr.fileno(),
        ) as started:
            return started.wait()


def _restore(
    dvc: _Dvc,
    graph: Graph,
    stages: Sequence[str],
    old: Mapping[str, Mapping[str, Any]],
    cache: Cache,
) -> None:
    """Links what the first stages read and no stage of the run makes from the repository's cache into the clone. Nothing there is written to.

    Raises:
        FileNotFoundError: the cache lacks some of it.
    """
    makers = graph.made_by()
    needed = {
        path
        for name in stages
        for path in graph.inputs(name)
        if makers[path] not in stages and not (dvc.project / path).exists()
    }
    if not needed:
        return
    for path in sorted(needed):
        md5 = next(
            (
                out["md5"]
                for out in old.get(makers[path], {}).get("outs", [])
                if out["path"] == path
            ),
            "",
        )
        if not md5 or not cache.holds(md5):
            raise FileNotFoundError(
                f"{path}, as dvc.lock records it, is not in the cache {cache.folder}: run `dvc pull` or `dvc repro` first"
            )
    dvc.use_cache(cache.folder)
    if dvc.run("checkout", "--quiet", *sorted(needed)):
        raise UserError(
            f"DVC could not take {', '.join(sorted(needed))} from the cache {cache.folder}: its error stands above"
        )
    dvc.use_cache(dvc.cache)


def _set_parameters(
    project: Path, place: Path, request: Request, graph: Graph, stages: Sequence[str]
) -> tuple[list[str], set[str]]:
    """Writes the changed parameters into the clone; what changed, in words, and the parameters' names.

    Raises:
        ValueError: there is no such parameter, or no stage of the run reads it.
    """
    values = params.load(project / params.PARAMS)
    changes, known = [], set()
    read = {section for name in stages for section in graph.stages[name].get("params", [])} | {
        "runtime"
    }
    for assignment in request.parameters:
        name, separator, text = assignment.partition("=")
        *sections, key = name.split(".")
        inner = values
        for section in sections:
            inner = inner.get(section) if isinstance(inner, dict) else None  # type: ignore[assignment]
        if not separator or not sections or not isinstance(inner, dict) or key not in inner:
            raise UserError(
                f"-S {assignment}: give section.key=value with a parameter of params.yaml"
            )
        if sections[0] not in read:
            raise UserError(
                f"-S {assignment}: no stage of {', '.join(stages)} reads `{sections[0]}`: choose another --from"
            )
        # Read as params.yaml is, so that 1e-3 is a number and `off` is text
        files.write_text(place / "value.yaml", f"value: {text}\n")
        value = params.load(place / "value.yaml").get("value")
        if value != inner[key]:
            changes.append(f"parameter {name} {inner[key]} -> {value}, by -S")
        inner[key] = value
        known.add(name)
    if request.parameters:
        # JSON is YAML 1.2, which DVC reads; PyYAML writes 1.1
        files.write_json(project / params.PARAMS, values)
    return changes, known
