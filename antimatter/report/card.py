"""The model card: what the model is, what made it, how well it does, written from the files of the last run. Nothing in it is typed by hand.

The front matter is that of the Hugging Face hub (https://huggingface.co/docs/hub/model-cards).
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from antimatter import files
from antimatter.errors import UserError
from antimatter.pipeline import recorded
from antimatter.repository import history

CHECKPOINTS, PROVENANCE = "models/checkpoints", "metrics/provenance.json"
SOURCES_SHOWN = 12
BASE = (
    "A base language model: it continues text, and was not trained to follow instructions or to be truthful.",
)
TUNED = (
    "A small language model that was tuned to take its turn in a conversation. It says who it is,",
    "makes small talk, tells from the name of a function what it may do, and copies an answer from",
    "a text that stands in the prompt. It knows next to nothing of the world, it can be wrong, and",
    "what it says about a function is a guess from words that it has read. The figures below say how",
    "often each of these works.",
)


def write(path: Path, root: Path = Path(".")) -> None:
    """Writes the card of the run that dvc.lock records. No model needs to be there, so a fresh clone can do it.

    Raises:
        FileNotFoundError, ValueError: a metric is missing, or is not the one that dvc.lock records.
    """
    files.write_text(path, card(Facts(root)))


class Facts:
    """The figures in Git, each checked against dvc.lock before it is believed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stages = recorded.stages(root)
        self.hashes = recorded.hashes(self.stages)
        self.commit = (
            history.commit_of(self.hashes[CHECKPOINTS], root)
            if CHECKPOINTS in self.hashes
            else None
        )

    def params(self, section: str) -> dict[str, Any]:
        """A section of params.yaml as it was in the run."""
        return next(
            values[section]
            for stage in self.stages.values()
            if section in (values := stage.get("params", {}).get("params.yaml", {}))
        )

    def json(self, name: str) -> dict[str, Any]:
        return dict(files.read_json(self._checked(name)))

    def csv(self, name: str) -> list[dict[str, str]]:
        with self._checked(name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def _checked(self, name: str) -> Path:
        path = self.root / name
        if not path.is_file():
            raise FileNotFoundError(f"{name} is missing: run `dvc repro`, or `git checkout {name}`")
        if recorded.md5(path) != self.hashes.get(name):
            raise UserError(
                f"{name} is not the file that dvc.lock records: run `dvc repro`, or `git checkout {name} dvc.lock`"
            )
        return path


def card(facts: Facts) -> str:
    """The text of the card."""
    made, gguf = facts.json(PROVENANCE), facts.params("gguf")
    is_tuned = gguf["model"] == "tuned"
    conversation = (_tuning, _conversation) if is_tuned else ()
    sections = (_model, _data, _training, _evaluation, *conversation, _files, _provenance)
    lines = [
        *(
            "---",
            f"license: {gguf['license']}",
            f"language: {facts.params('cleaned')['language']['code']}",
            "pipeline_tag: text-generation",
        ),
        *("tags: [antimatter, gguf]", "---", ""),
        f"# {gguf['name']}",
        "",
        *(TUNED if is_tuned else BASE),
        "Written by `antimatter card` from the files of the run that dvc.lock records.",
    ]
    for section in sections:
        lines += ["", *section(facts, made)]
    return "\n".join(lines) + "\n"


def _model(facts: Facts, made: Mapping[str, Any]) -> Iterator[str]:
    shape, known = made["params"]["model"], facts.json("metrics/checkpoints.json")
    head = (
        "the head shares its matrix with the token embedding"
        if shape["tied_embeddings"]
        else "the head has a matrix of its own"
    )
    yield from ("## Model", "")
    yield from _table(
        ("", ""),
        [
            (
                "architecture",
                f"GPT, pre-LayerNorm, learned positions, Leaky ReLU with slope {shape['negative_slope']:g}; {head}",
            ),
            ("parameters", f"{known['parameters']:,}"),
            (
                "layers, heads, channels",
                f"{shape['n_layer']}, {shape['n_head']}, {shape['n_embd']}",
            ),
            ("context", f"{shape['block_size']:,} tokens"),
            (
                "vocabulary",
                f"{facts.json('metrics/tokenizer.json')['vocab_size']:,} tokens, byte-level BPE",
            ),
        ],
    )


def _data(facts: Facts, made: Mapping[str, Any]) -> Iterator[str]:
    raw, cleaned, shards = (
        facts.json(f"metrics/{name}.json") for name in ("raw", "cleaned", "shards")
    )
    train, validation = shards["train"], shards["validation"]
    sources = sorted(facts.csv("plots/sources.csv"), key=lambda row: -int(row["bytes"]))
    shown, rest = sources[:SOURCES_SHOWN], sources[SOURCES_SHOWN:]
    rows = [(row["source"], int(row["documents"]), int(row["bytes"])) for row in shown]
    if rest:
        rows.append(
            (
                f"{len(rest)} more",
                sum(int(row["documents"]) for row in rest),
                sum(int(row["bytes"]) for row in rest),
            )
        )
    yield from (
        "## Data",
        "",
        f"{_origin(facts)} {raw['documents']:,} documents, {_megabytes(raw['bytes'])}:",
        "",
    )
    yield from _table(
        ("source", "documents", "text"),
        [(source, f"{documents:,}", _megabytes(size)) for source, documents, size in rows],
    )
    yield from (
        "",
        f"After cleaning and the removal of duplicates: {cleaned['documents_out']:,} documents, {_megabytes(cleaned['bytes_out'])}.",
    )
    yield f"Split by a hash of the document: {train['tokens']:,} tokens to train on, and {validation['tokens']:,} for validation,"
    yield f"from {validation['documents']:,} documents that nothing in train resembles."


def _origin(facts: Facts) -> str:
    raw = facts.params("raw")
    if raw["source"] == "embedded":
        return "The documentation inside Python packages, each under the licence of its package, which stands beside every document."
    if raw["source"] == "files":
        return f"Files, under: {', '.join(sorted({item['licence'] for item in raw['files']}))}."
    return f"Data sets of the hub: {'; '.join('{name} at {revision} ({licence})'.format(**item) for item in raw['hub']['data_sets'])}."


def _training(facts: Facts, made: Mapping[str, Any]) -> Iterator[str]:
    known, train, how = (
        facts.json("metrics/checkpoints.json"),
        facts.json("metrics/shards.json")["train"],
        made["params"],
    )
    run, adamw, schedule, power = (
        how["checkpoints"],
        how["optimizer"],
        how["schedule"],
        how["loss"]["rare_token_power"],
    )
    tokens, times, ratio = (
        known["tokens"],
        known["tokens"] / train["tokens"],
        known["tokens"] / known["parameters"],
    )
    rows = {
        "tokens": f"{tokens:,}: each of train {times:.2f} times, {ratio:.1f} a parameter",
        "steps": f"{known['steps']:,} of {run['batch_size']:,} sequences",
        "optimizer": "AdamW, betas {beta1:g} and {beta2:g}, weight decay {weight_decay:g}, gradient norm at most {grad_clip:g}".format(
            **adamw
        ),
        "learning rate": f"{adamw['learning_rate']:g} after {schedule['warmup_steps']:,} steps, then "
        f"{schedule['decay']} to {schedule['final_fraction']:g} of it; the token embedding's is "
        f"{adamw['embedding_rate']:g} times that",
        "rare-token balance": f"power {power:g}" if power else "off",
        "precision": made["machine"]["precision"],
        "loss at the end": f"{known['train_loss']:.4f} train, {known['validation_loss']:.4f} validation, nats per token",
        "spikes": f"{known['backtracks']} times back to an earlier state",
    }
    yield from ("## Training", "", *_table(("", ""), rows.items()))


def _evaluation(facts: Facts, made: Mapping[str, Any]) -> Iterator[str]:
    sliding, said = (
        facts.json("metrics/perplexity.json")["sliding"],
        facts.json("metrics/coherence.json"),
    )
    items = facts.json("metrics/cloze.json")["all"]
    scores = {
        **facts.json("metrics/evaluation.json"),
        f"validation, in windows that slide by {sliding['stride']} tokens": sliding,
    }
    numbers = [
        (
            name,
            f"{score['loss']:.4f}",
            f"{score['perplexity']:.2f}",
            f"{score['bits_per_byte']:.4f}",
        )
        for name, score in scores.items()
    ]
    yield from ("## Evaluation", "", "On the whole validation split, in float32:", "")
    yield from _table(("", "loss, nats per token", "perplexity", "bits per byte"), numbers)
    shares = ", ".join(
        f"{said[verdict]:.0%} {verdict}" for verdict in ("fluent", "looping", "broken", "short")
    )
    yield from ("", f"Samples of fixed prompts ([all of them](../metrics/samples.md)): {shares}.")
    chance = f"{items['accuracy']:.1%} where chance is {items['chance']:.1%} (p = {items['p_value']:.2g})"
    yield f"Sentences with a right and a wrong end: {items['correct']} of {items['items']} right, {chance}."


def _tuning(facts: Facts, made: Mapping[str, Any]) -> Iterator[str]:
    tuned, how = facts.json("metrics/tuned.json"), facts.params("tuned")
    found = facts.json("metrics/conversations.json")
    train = found["train"]
    listed = list(found["sources"].items())
    rows = [
        (name, f"{one['conversations']:,}", f"{one['tokens']:,}", f"{one['held_out']:,}")
        for name, one in listed[:SOURCES_SHOWN]
    ]
    yield from (
        "## Tuning",
        "",
        "Conversations by source, and their tokens in an epoch without the shared system text:",
        "",
    )
    yield from _table(("source", "conversations", "tokens", "held out"), rows)
    more = (
        f" and {len(listed) - SOURCES_SHOWN} smaller sources" if len(listed) > SOURCES_SHOWN else ""
    )
    yield from (
        "",
        f"With the above{more} {train['tokens']:,} tokens, of which {train['answer_tokens']:,} are",
        f"answers, {how['epochs']:g} epoch{'s' * (how['epochs'] != 1)} in {tuned['steps']:,} steps. The rate is {how['learning_rate']:g} of the peak",
        f"above and falls to zero. Loss of held-out answers: {tuned['validation_loss']:.4f} nats per token.",
    )


def _conversation(facts: Facts, made: Mapping[str, Any]) -> Iterator[str]:
    both = facts.json("metrics/answers_details.json")
    listed = facts.csv("plots/answers.csv")
    rows = [
        (
            row["measure"],
            f"{float(row['base']):.1%}",
            f"{float(row['tuned']):.1%}",
            f"{float(row['low']):.1%} to {float(row['high']):.1%}",
        )
        for row in listed
    ]
    yield from ("## Conversation", "", "On conversations that tuning has not seen:", "")
    yield from _table(("", "base", "tuned", "95% interval"), rows)
    bits = {name: both[name]["likelihood"]["all"]["bits_per_byte"] for name in ("base", "tuned")}
    yield from (
        "",
        f"Bits per byte of held-out answers: {bits['tuned']:.3f}, before tuning {bits['base']:.3f}.",
        "What each measure is: docs/conversations.md. Conversations that nobody chose:",
        "[metrics/answers.md](../metrics/answers.md).",
    )


def _files(facts: Facts, made: Mapping[str, Any]) -> Iterator[str]:
    gguf, name = facts.json("metrics/gguf.json"), facts.params("gguf")["name"]
    yield from ("## Files for llama.cpp", "")
    rows = [
        (
            f"{name}-{kind}.gguf",
            _megabytes(found["bytes"]),
            f"{found['kl']:g}",
            f"{found['top1_agreement']:.2%}",
            f"{found['perplexity']:.2f}",
        )
        for kind in facts.params("gguf")["types"]
        if (found := gguf[kind])
    ]
    yield from _table(
        ("file", "size", "KL from torch, nats per token", "same first choice", "perplexity"), rows
    )
    some = gguf[facts.params("gguf")["types"][0]]
    yield from (
        "",
        f"Measured in llama.cpp on windows of the validation split, where torch has perplexity {some['torch_perplexity']:.2f}.",
    )


def _provenance(facts: Facts, made: Mapping[str, Any]) -> Iterator[str]:
    machine, versions = made["machine"], made["libraries"]
    commit = (
        f"`{facts.commit}`, the first whose dvc.lock records these weights"
        if facts.commit
        else "none yet records these weights in its dvc.lock"
    )
    rows = {
        "commit": commit,
        "code of the training": f"sha256 `{made['code']}`",
        **{
            f"until step {note['until_step']:,}": f"under other code, sha256 `{note['code']}`"
            for note in made.get("adopted", ())
        },
        "libraries": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "machine": f"{machine['kind']}; processes: {machine['devices']}, micro-batch: {machine['micro_batch']}",
        **{f"{name}, sha256": f"`{value}`" for name, value in made["data"].items()},
        **{
            f"{name}, md5 in dvc.lock": f"`{value}`"
            for name, value in facts.hashes.items()
            if name.startswith(("data/", "models/"))
        },
    }
    yield from ("## Provenance", "", *_table(("", ""), rows.items()))
    yield from (
        "",
        "Check out the commit and run `antimatter verify`: it says whether your machine makes the same bytes.",
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"
