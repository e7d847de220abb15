"""Checks every section of params.yaml before the first stage does anything.

A stage reads its own section and would find a bad value only when it runs, after hours of other
stages and after DVC has deleted its outputs. So the stage `checked` comes before all others, and
every stage calls check_once() first, since no stage depends on `runtime` and a change there makes
DVC run nothing.

The config classes are named as text: which values are valid changes no byte, so the code of one
stage must not become a dependency of another.
"""

import hashlib
import importlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from antimatter import files, params
from antimatter.errors import UserError
from antimatter.pipeline import resume

# The class that reads each section, in a module that imports nothing slow
SECTIONS = {
    "raw": "antimatter.data.sources.config:RawConfig",
    "cleaned": "antimatter.data.cleaning.config:CleanConfig",
    "tokenizer": "antimatter.data.tokenizer_config:TokenizerConfig",
    "shards": "antimatter.data.shards.config:ShardsConfig",
    "model": "antimatter.model.config:ModelConfig",
    "loss": "antimatter.model.config:LossConfig",
    "optimizer": "antimatter.training.config:OptimizerConfig",
    "schedule": "antimatter.training.schedule:ScheduleConfig",
    "spikes": "antimatter.training.spikes:SpikeConfig",
    "checkpoints": "antimatter.training.config:TrainConfig",
    "conversations": "antimatter.chat.config:ConversationsConfig",
    "tuned": "antimatter.training.config:TuneConfig",
    "answers": "antimatter.evaluation.config:AnswersConfig",
    "evaluation": "antimatter.evaluation.config:EvaluationConfig",
    "gguf": "antimatter.export.config:GGUFConfig",
    "ollama": "antimatter.export.ollama:OllamaConfig",
}
# Each of these reads a part of `runtime`
RUNTIME = (
    "antimatter.tasks.config:TasksRuntime",
    "antimatter.data.tokenizer_config:TokenizerRuntime",
    "antimatter.training.config:TrainRuntime",
    "antimatter.launch.config:LaunchRuntime",
    "antimatter.evaluation.config:EvaluationRuntime",
)
# In .state: the digests of values that were found valid before
VALID = "checked"


def check_once(path: Path = params.PARAMS, *, again: bool = False) -> None:
    """Raises UserError with what problems() finds.

    Values that were found valid before are skipped, which takes milliseconds. Otherwise it takes
    less than a second, since the config classes are in modules that import neither torch nor
    datatrove.

    Args:
        again: check all values, as a file that one of them names may be gone.
    """
    # One process of a distributed run checks for all
    if os.environ.get("RANK", "0") != "0":
        return
    saved = resume.root() / VALID
    known = set(saved.read_text(encoding="utf-8").split()) if saved.is_file() else set()
    valid: list[str] = []
    found = problems(path, () if again else known, valid)
    saved.parent.mkdir(parents=True, exist_ok=True)
    with saved.open("a", encoding="utf-8") as file:
        file.writelines(f"{digest}\n" for digest in valid if digest not in known)
    if found:
        raise UserError("\nerror: ".join(found))


def problems(
    path: Path = params.PARAMS,
    known: Collection[str] = (),
    valid: list[str] | None = None,
) -> list[str]:
    """What is wrong with params.yaml, one line for each problem.

    A check that needs a package which this machine lacks is skipped: a machine that only trains
    has little more than torch.

    Args:
        known: digests of values to skip.
        valid: receives the digests of the other values that are valid.
    """
    try:
        values = params.load(path)
    except (OSError, ValueError) as error:
        return [str(error)]
    found = _unknown_sections(values, path)
    for name, needed, check in _checks(values, path):
        text = json.dumps(
            [name, *(values.get(section) for section in needed)], sort_keys=True, default=str
        )
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        # Sections are compared with each other only if each is valid by itself
        if digest in known or (len(needed) > 1 and found):
            continue
        try:
            check()
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == "antimatter":
                raise
        except (UserError, OSError) as error:
            found += str(error).split("\nerror: ")
        else:
            if valid is not None:
                valid.append(digest)
    return list(dict.fromkeys(found))


def check_keys(path: Path) -> None:
    """Raises UserError with all unknown and missing sections and keys of a file.

    Its values are not checked, as they may fit another machine; nor are the keys of a section that
    is no section, or in a list.
    """
    found = _unknown_sections(params.load(path), path)
    for section in (*SECTIONS, "runtime"):
        try:
            params.check_keys(_configs(section), section, path)
        except UserError as error:
            found.append(str(error))
    if found:
        raise UserError("\nerror: ".join(found))


def _unknown_sections(values: Mapping[str, Any], path: Path) -> list[str]:
    sections = {*SECTIONS, "runtime"}
    names = ", ".join(sorted(sections))
    return [f"{path}: {name} is not a section; known: {names}" for name in values.keys() - sections]


def _checks(
    values: Mapping[str, Any], path: Path
) -> Iterator[tuple[str, Sequence[str], Callable[[], None]]]:
    """Each check: its name, the sections that it needs, and the function that raises UserError."""

    def read(section: str) -> Any:
        return params.read(_named(SECTIONS[section]), section, path)

    def runtime() -> None:
        params.check_keys(_configs("runtime"), "runtime", path)
        for config in _configs("runtime"):
            params.read(config, "runtime", path, part=True)

    for section, name in SECTIONS.items():
        yield name, [section], partial(read, section)
    yield "runtime", ["runtime"], runtime
    training = ["checkpoints", "loss", "optimizer", "schedule", "spikes"]
    yield "training", [*training, "runtime"], lambda: _training(path, *map(read, training))
    yield "tuning", ["tuned", "runtime"], lambda: _batch(path, "tuned", read("tuned"))
    yield "vocabulary", ["tokenizer", "shards"], lambda: _vocabulary(read("tokenizer"))
    served = ["gguf", "ollama"]
    yield "served", served, lambda: _served(*map(read, served))
    begun = ["tokenizer", "model", "checkpoints", "tuned"]
    yield "initial", begun, lambda: _initial(path.with_name("dvc.yaml"), *map(read, begun))
    yield (
        f"persona {_persona_digest(values)}",
        ["conversations"],
        lambda: _persona(read("conversations")),
    )
    texts = ["raw", "cleaned", "evaluation"]
    yield "texts", texts, lambda: _texts(*map(read, texts))


def _configs(section: str) -> list[Any]:
    """The dataclasses that read a section."""
    return [_named(name) for name in (RUNTIME if section == "runtime" else [SECTIONS[section]])]


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


# The functions below check values that are valid by themselves, but not together or not here.


def _training(path: Path, *sections: Any) -> None:
    kind = _named("antimatter.training.config:TrainRuntime")
    runtime = params.read(kind, "runtime", path, part=True)
    names = ("training", "loss", "optimizer", "schedule", "spikes")
    parts = dict(zip(names, sections, strict=True))
    _named("antimatter.training.config:TrainerConfig")(**parts, runtime=runtime)
    _batch(path, "checkpoints", parts["training"])


def _batch(path: Path, section: str, config: Any) -> None:
    """The devices can share the batch of a training."""
    kind = _named("antimatter.training.config:TrainRuntime")
    runtime = params.read(kind, "runtime", path, part=True)
    where = params.read(
        _named("antimatter.launch.config:LaunchRuntime"), "runtime", path, part=True
    )
    size = where.world_size
    # Another machine has the devices
    if not _named("antimatter.launch.launch:is_elsewhere")(where):
        size = _named("antimatter.model.devices:count")(runtime.devices, runtime.device_type())
    share = _named("antimatter.training.config:share")
    share(config.batch_size, size, runtime.micro_batch, section)


def _vocabulary(tokenizer: Any) -> None:
    most = _named("antimatter.data.shards.config:MAX_VOCAB")
    if tokenizer.vocab_size > most:
        raise UserError(
            f"tokenizer.vocab_size must be at most {most:,}, because shards store 16-bit token "
            f"ids; got {tokenizer.vocab_size:,}"
        )


def _initial(graph: Path, tokenizer: Any, model: Any, checkpoints: Any, tuned: Any) -> None:
    """The weights and the tokenizer that a training is to start from are those of its network, and
    DVC does not delete them before it starts.
    """
    if not (tokenizer.initial or checkpoints.initial or tuned.initial):
        return
    for stage, config in (("tokenizer", tokenizer), ("checkpoints", checkpoints), ("tuned", tuned)):
        _check_kept(graph, stage, config.initial)
    if tokenizer.initial:
        path = _named("antimatter.data.sources.paths:located")(tokenizer.initial)
        if not path.exists():
            raise UserError(f"tokenizer.initial: {path} is missing: correct it, or leave it empty")
        _named("antimatter.data.tokenizer:kept")(path, tokenizer)
    if checkpoints.initial:
        start = _named("antimatter.training.start:of_pretraining")(checkpoints.initial, model)
        if tokenizer.vocab_size != start.shape.vocab_size:
            fix = "set it to that, and tokenizer.initial to the folder of its tokenizer"
            raise UserError(
                f"checkpoints.initial has {start.shape.vocab_size:,} tokens, but "
                f"tokenizer.vocab_size is {tokenizer.vocab_size:,}: {fix}"
            )


def _check_kept(graph: Path, stage: str, name: str) -> None:
    """Raises UserError if `initial` of a stage names what this stage or a later one writes."""
    if not name or not graph.is_file():
        return
    stages = params.load(graph)["stages"]
    later = list(stages)[list(stages).index(stage) :]
    place = Path(os.path.abspath(name))
    for out in (out for one in later for out in stages[one].get("outs", [])):
        if isinstance(out, str) and place.is_relative_to(Path(out).absolute()):
            fix = "copy it to a folder of another name, such as models/base"
            reason = f"{out} is an output, which DVC deletes before it is written again"
            raise UserError(f"{stage}.initial: {name}: {reason}: {fix}")


def stale_starts(path: Path = params.PARAMS) -> list[str]:
    """Trainings whose initial weights are no longer those that they began with.

    DVC does not see it, as it tracks only the name of their folder.
    """
    values, stale = params.load(path), []
    for stage in ("checkpoints", "tuned"):
        name = values.get(stage, {}).get("initial")
        record = path.parent / "metrics" / stage / "provenance.json"
        if not name or not record.is_file():
            continue
        origin = files.read_json(record)
        then = origin.get("data", {}).get("initial")
        trained_from = origin.get("params", {}).get(stage, {}).get("initial")
        now = _named("antimatter.training.start:Start").of(name, f"{stage}.initial").sha256()
        if trained_from == name and then != now:
            stale.append(
                f"{name} has changed since models/{stage} was trained from it: "
                f"`dvc repro -f {stage}` trains it again"
            )
    return stale


def _served(gguf: Any, ollama: Any) -> None:
    if ollama.type not in gguf.types:
        types = ", ".join(gguf.types)
        raise UserError(f"ollama.type must be one of gguf.types ({types}), got {ollama.type!r}")


def _persona_digest(values: Mapping[str, Any]) -> str:
    """Of the files of the persona, so that an edit of them is checked too."""
    section = values.get("conversations")
    persona = section.get("persona") if isinstance(section, dict) else None
    path = Path(str(persona.get("file"))) if isinstance(persona, dict) else Path()
    parts = [path, path.with_name("persona.yaml")] if path.name else []
    return " ".join(files.sha256(part)[:16] if part.is_file() else "none" for part in parts)


def _persona(conversations: Any) -> None:
    """The file can be read, with facts in place of those that a model must be there for."""
    path = Path(conversations.persona.file)
    if not path.is_file():
        raise UserError(f"conversations.persona.file: {path} is missing: correct it, or write it")
    facts = {"parameters": "0 million", "context": "0 tokens", **conversations.persona.facts}
    _named("antimatter.chat.persona:read")(path, facts)
    watched = Path("prompts/persona.yaml")
    for base in _named("antimatter.chat.persona:files_of")(path)[1:]:
        if base.resolve() != watched.resolve():
            fix = f"move both files, or give {path} all keys and no based_on"
            raise UserError(f"{path} is based on {base}, but DVC watches only {watched}: {fix}")


def _texts(raw: Any, cleaned: Any, evaluation: Any) -> None:
    """Every pattern matches a file and every package is installed, by the rules of their stage."""
    if raw.source == "embedded":
        _named("antimatter.data.sources.config:distributions")(raw.packages)
    if raw.source == "files":
        _named("antimatter.data.sources.paths:parts")(raw.files, raw.file_mb, "raw.files")
    _named("antimatter.data.cleaning.config:texts")(cleaned.decontamination)
    _named("antimatter.data.sources.paths:find")(evaluation.texts, "evaluation.texts")
