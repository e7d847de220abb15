"""conversations: packs the conversations to tune on, and holds some out to measure answers."""

from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from antimatter import files, params
from antimatter.chat import (
    collection,
    formats,
    hub_conversations,
    passages,
    persona_conversations,
    questions,
)
from antimatter.chat import persona as personas
from antimatter.chat.collection import Weighted
from antimatter.chat.config import ConversationsConfig
from antimatter.chat.persona import Persona
from antimatter.data.shards.config import ShardsConfig
from antimatter.data.shards.split import is_candidate
from antimatter.data.sources import chitchat, paths
from antimatter.data.sources.config import RawConfig
from antimatter.data.tokenizer import Tokenizer
from antimatter.model.config import GPTConfig, ModelConfig
from antimatter.model.gpt import GPT
from antimatter.pipeline import resume, stage
from antimatter.tasks.config import TasksRuntime


def main(
    cleaned: Path,
    tokenizer: Path,
    persona: Path,
    conversations: Path,
    metrics: Path,
    plots: Path,
) -> None:
    config = params.read(ConversationsConfig, "conversations")
    shards, raw = params.read(ShardsConfig, "shards"), params.read(RawConfig, "raw")
    model = params.read(ModelConfig, "model")
    runtime = params.read(TasksRuntime, "runtime", part=True)
    shape = GPTConfig(**asdict(model), vocab_size=Tokenizer.load(tokenizer).vocab_size)
    with torch.device("meta"):
        parameters = GPT(shape).n_parameters()
    facts = collection.facts(parameters, shape.block_size, config)
    who = personas.read(persona, facts)
    inputs = {
        "cleaned": files.digest(files.fingerprint(cleaned, "*.parquet")),
        "tokenizer": files.digest(files.fingerprint(tokenizer, "*")),
        "persona": files.sha256(persona),
    }
    inputs |= {str(base): files.sha256(base) for base in personas.files_of(persona)[1:]}
    named = sorted({name for own in config.files for name in paths.matches(own.pattern)})
    inputs |= {name: files.sha256(paths.located(name)) for name in named}
    identity = {"conversations": asdict(config), "shards": asdict(shards), "model": asdict(model)}
    packages = raw.packages if raw.source == "embedded" else {}
    with resume.directory(
        "conversations", [conversations], **identity, packages=packages, input=inputs
    ) as work:
        sources = [Weighted(collection.of_persona(config, who), config.persona.weight)]
        split = partial(is_candidate, config=shards)
        if config.weights.dialogues:
            sources.append(Weighted(collection.of_corpus(cleaned, split), config.weights.dialogues))
        if config.passages.weight:
            texts = passages.of_text(cleaned, config.passages, split)
            sources.append(Weighted(texts, config.passages.weight))
        sources += _documentation(packages, config, who, runtime.workers)
        for number, own in enumerate(config.files):
            key = f"conversations.files[{number}]"
            sources.append(Weighted(formats.read(own, key), own.weight))
        dropped = Counter[str]()
        fetched = hub_conversations.fetch(config.hub, work / "hub", runtime)
        for data_set, parts in zip(config.hub, fetched, strict=True):
            sources.append(Weighted(hub_conversations.read(parts, dropped), data_set.weight))
        with files.replacing(conversations) as partial_folder:
            report = collection.write(
                sources,
                who,
                tokenizer,
                shape.block_size,
                config,
                partial_folder,
                runtime.workers,
                inputs,
            )
        record = resume.adopted(work) | {"hub_rows_dropped": dict(sorted(dropped.items()))}
    files.write_metrics(metrics / "summary.json", report | record)
    rows = [(name, *found.values()) for name, found in report["sources"].items()]
    header = ("source", *next(iter(report["sources"].values())))
    files.write_csv(plots / "sources.csv", header, rows)
    train, kept = report["train"], report["held_out"]
    print(
        f"conversations: {train['rows']:,} rows of {shape.block_size} tokens to tune on, "
        f"{train['filled']:.1%} filled; {kept['rows']:,} held out; from {len(rows)} sources"
    )


def _documentation(
    packages: dict[str, str],
    config: ConversationsConfig,
    who: Persona,
    workers: int,
) -> list[Weighted]:
    weights = config.weights
    if not packages or not (weights.questions or weights.grounded):
        return []
    # The conversations between people are no package with functions
    libraries = {name: packages[name] for name in packages if name != chitchat.PACKAGE}
    found = questions.questions(libraries, workers)
    about_text = ("grounded", "refusal")
    asked = [
        persona_conversations.with_persona_turns(who, one, config.seed)
        for one in found
        if one.kind not in about_text
    ]
    grounded = [one for one in found if one.kind in about_text]
    pairs = ((asked, weights.questions), (grounded, weights.grounded))
    return [Weighted(conversations, weight) for conversations, weight in pairs if weight]


if __name__ == "__main__":
    stage.run(main)
