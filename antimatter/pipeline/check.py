"""Whether params.yaml holds together: every section, before the first stage does anything.

A stage reads its own section and would find a bad value only when it runs, after hours of other
stages, and after DVC has deleted its outputs. So the stage `checked` comes before all others, and
every stage asks once() first, since a change of `runtime`, which no stage depends on, makes DVC run
nothing by itself.

The classes are named as text: which values are good changes no byte, so the code of one stage is no
dependency of another.
"""

import dataclasses
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from antimatter import params
from antimatter.errors import UserError
from antimatter.pipeline import resume

# The class that reads a section, in a module that imports nothing slow
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
# Each reads a part of `runtime`
RUNTIME = (
    "antimatter.tasks.config:EngineRuntime",
    "antimatter.data.tokenizer_config:TokenizerRuntime",
    "antimatter.training.config:TrainRuntime",
    "antimatter.evaluation.config:EvaluationRuntime",
)
CHECKED = "checked"  # in .state: digests of what was found good before


def once(path: Path = params.PARAMS, *, anew: bool = False) -> None:
    """Raises ValueError for what everything() finds. What was found good before is not looked at
    again: so this takes milliseconds, and else less than a second, since the classes stand in
    modules that import neither torch nor datatrove.

    Args:
        anew: look at all of it, as a text that is named may have gone.
    """
    if os.environ.get("RANK", "0") != "0":  # a process of torchrun; the first one speaks for all
        return
    noted = resume.root() / CHECKED
    known = set(noted.read_text(encoding="utf-8").split()) if noted.is_file() else set()
    good: list[str] = []
    found = everything(path, () if anew else known, good)
    noted.parent.mkdir(parents=True, exist_ok=True)
    with noted.open("a", encoding="utf-8") as file:
        file.writelines(f"{digest}\n" for digest in good if digest not in known)
    if found:
        raise UserError("\nerror: ".join(found))


def everything(
    path: Path = params.PARAMS,
    known: Collection[str] = (),
    good: list[str] | None = None,
) -> list[str]:
    """What is wrong, a line each; nothing if all is well. What needs a package that this machine
    lacks is left out: a machine that only trains has torch and little else.

    Args:
        known: digests of values that are not looked at.
        good: gets the digests of the others that are found good.
    """
    try:
        values = params.load(path)
    except (OSError, ValueError) as error:
        return [str(error)]
    sections = {*SECTIONS, "runtime"}
    names = ", ".join(sorted(sections))
    found = [
        f"{path}: {name} is not a section; known: {names}" for name in values.keys() - sections
    ]
    for name, needed, check in _checks(values, path):
        text = json.dumps([name, *(values.get(section) for section in needed)], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        # Only values that are good by themselves are looked at together
        if digest in known or (len(needed) > 1 and found):
            continue
        try:
            check()
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] == "antimatter":
                raise
        except (ValueError, OSError) as error:
            found.append(str(error))
        else:
            if good is not None:
                good.append(digest)
    return list(dict.fromkeys(found))


def _checks(
    values: Mapping[str, Any], path: Path
) -> Iterator[tuple[str, Sequence[str], Callable[[], None]]]:
    """A name for each check, the sections that it looks at, and what raises ValueError or OSError."""

    def read(section: str) -> Any:
        return params.read(_named(SECTIONS[section]), section, path)

    def runtime() -> None:
        for name in RUNTIME:
            params.read(_named(name), "runtime", path, part=True)
        known = {field.name for name in RUNTIME for field in dataclasses.fields(_named(name))}
        for key in values["runtime"].keys() - known:
            names = ", ".join(sorted(known))
            raise UserError(f"{path}: runtime.{key} is not a parameter; known: {names}")

    for section, name in SECTIONS.items():
        yield name, [section], partial(read, section)
    yield "runtime", ["runtime"], runtime
    training = ["checkpoints", "loss", "optimizer", "schedule", "spikes"]
    yield "training", [*training, "runtime"], lambda: _training(path, *map(read, training))
    yield "vocabulary", ["tokenizer", "shards"], lambda: _vocabulary(read("tokenizer"))
    served = ["gguf", "ollama"]
    yield "served", served, lambda: _served(*map(read, served))
    texts = ["raw", "cleaned", "evaluation"]
    yield "texts", texts, lambda: _texts(*map(read, texts))


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


# ---- values that are good by themselves, but not together or not on this machine


def _training(path: Path, *sections: Any) -> None:
    kind = _named("antimatter.training.config:TrainRuntime")
    runtime = params.read(kind, "runtime", path, part=True)
    names = ("training", "loss", "optimizer", "schedule", "spikes")
    parts = dict(zip(names, sections, strict=True))
    recipe = _named("antimatter.training.config:Recipe")(**parts, runtime=runtime)
    count = _named("antimatter.model.devices:count")
    recipe.micro_batch(count(runtime.devices, runtime.device_type()))


def _vocabulary(tokenizer: Any) -> None:
    most = _named("antimatter.data.shards.config:MAX_VOCAB")
    if tokenizer.vocab_size > most:
        why = "as shards hold ids of 16 bits"
        raise UserError(
            f"tokenizer.vocab_size must be at most {most:,}, {why}; got {tokenizer.vocab_size:,}"
        )


def _served(gguf: Any, ollama: Any) -> None:
    if ollama.type not in gguf.types:
        types = ", ".join(gguf.types)
        raise UserError(f"ollama.type must be one of gguf.types ({types}), got {ollama.type!r}")


def _texts(raw: Any, cleaned: Any, evaluation: Any) -> None:
    """Every pattern names a file, and every package is installed. Paths are taken as their stage
    will take them.
    """
    if raw.source == "embedded":
        _named("antimatter.data.sources.config:distributions")(raw.packages)
    if raw.source == "files":
        _named("antimatter.data.sources.paths:parts")(raw.files, raw.file_mb, "raw.files")
    _named("antimatter.data.cleaning.config:texts")(cleaned.decontamination)
    _named("antimatter.data.sources.paths:find")(evaluation.texts, "evaluation.texts")
