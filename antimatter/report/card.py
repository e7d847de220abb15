"""The model card, written from the files of the last run: the model, its data, its results.

Nothing in it is typed by hand. The front matter is that of the Hugging Face hub
(https://huggingface.co/docs/hub/model-cards).
"""

import csv
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from antimatter import files, markdown, text
from antimatter.errors import UserError
from antimatter.pipeline import recorded
from antimatter.repository import history

CHECKPOINTS = "models/checkpoints"
SOURCES_SHOWN = 12
BASE = (
    "A base language model: it continues text, and was not trained to follow instructions or to be",
    "truthful.",
)
TUNED = (
    "A small language model that was tuned for conversations. It says who it is, and answers",
    "questions like those that it was tuned with. It knows almost nothing of the world, and what",
    "it says is often wrong. The figures below show how often each of these works.",
)


def write(path: Path, root: Path = Path(".")) -> None:
    """Writes the card of the run that dvc.lock records.

    It needs no model, so it works in a fresh clone.

    Raises:
        UserError: a metric is missing, or is not the one that dvc.lock records.
    """
    files.write_text(path, card(RunRecord(root)))


class RunRecord:
    """The figures in Git. Each file is compared with dvc.lock before it is used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stages = recorded.stages(root)
        self.hashes = recorded.hashes(self.stages)
        weights = self.hashes.get(CHECKPOINTS)
        self.commit = history.commit_of(weights, root) if weights else None

    def params(self, section: str) -> dict[str, Any]:
        """A section of params.yaml as it was in the run."""
        for stage in self.stages.values():
            values = stage.get("params", {}).get("params.yaml", {})
            if section in values:
                return dict(values[section])
        raise UserError(f"dvc.lock records no section {section} of params.yaml: run `dvc repro`")

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return self.json("metrics/checkpoints/provenance.json")

    def summary(self, stage: str) -> dict[str, Any]:
        """The summary of a stage's metrics."""
        return self.json(f"metrics/{stage}/summary.json")

    def json(self, name: str) -> dict[str, Any]:
        return dict(files.read_json(self._checked(name)))

    def csv(self, name: str) -> list[dict[str, str]]:
        with self._checked(name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def _checked(self, name: str) -> Path:
        path, fix = self.root / name, f"run `dvc repro`, or `git checkout {name}"
        if not path.is_file():
            raise UserError(f"{name} is missing: {fix}`")
        if recorded.md5(path) != self.hashes.get(name):
            raise UserError(f"{name} is not the file that dvc.lock records: {fix} dvc.lock`")
        return path


def card(run: RunRecord) -> str:
    """The text of the card."""
    gguf = run.params("gguf")
    is_tuned = gguf["model"] == "tuned"
    conversation = (_tuning, _conversation) if is_tuned else ()
    sections = (_model, _data, _training, _evaluation, *conversation, _files, _provenance)
    lines = [
        "---",
        f"license: {gguf['license']}",
        f"language: {run.params('cleaned')['language']['code']}",
        "pipeline_tag: text-generation",
        "library_name: transformers",
        f"tags: [antimatter, gguf{', conversational' if is_tuned else ''}]",
        "---",
        "",
        f"# {gguf['name']}",
        "",
        *(TUNED if is_tuned else BASE),
        "Written by `antimatter card` from the files of the run that dvc.lock records.",
    ]
    for section in sections:
        lines += ["", *section(run)]
    return "\n".join(lines) + "\n"


def _model(run: RunRecord) -> Iterator[str]:
    shape = run.provenance["params"]["model"]
    activation = f"Leaky ReLU with slope {shape['negative_slope']:g}"
    head = "shares its matrix with the token embedding"
    if not shape["tied_embeddings"]:
        head = "has a separate matrix"
    rows = {
        "architecture": f"GPT, pre-LayerNorm, learned positions, {activation}; the head {head}",
        "parameters": f"{run.summary('checkpoints')['parameters']:,}",
        "layers, heads, channels": f"{shape['n_layer']}, {shape['n_head']}, {shape['n_embd']}",
        "context": f"{shape['block_size']:,} tokens",
        "vocabulary": f"{run.summary('tokenizer')['vocab_size']:,} tokens, byte-level BPE",
    }
    yield from ("## Model", "", *markdown.table(("", ""), rows.items()))


def _data(run: RunRecord) -> Iterator[str]:
    raw, cleaned, shards = (run.summary(stage) for stage in ("raw", "cleaned", "shards"))
    sources = [
        (row["source"], int(row["documents"]), int(row["bytes"]))
        for row in run.csv("plots/raw/sources.csv")
    ]
    sources.sort(key=lambda source: -source[2])
    shown, others = sources[:SOURCES_SHOWN], sources[SOURCES_SHOWN:]
    if others:
        _, documents, sizes = zip(*others, strict=True)
        shown.append((f"{len(others)} more", sum(documents), sum(sizes)))
    rows = [(name, f"{documents:,}", text.size(size)) for name, documents, size in shown]
    total = f"{raw['documents']:,} documents, {text.size(raw['bytes'])}"
    kept = f"{cleaned['documents_out']:,} documents, {text.size(cleaned['bytes_out'])}"
    train, validation = shards["train"], shards["validation"]
    yield from ("## Data", "", f"{_origin(run)} {total}:", "")
    yield from markdown.table(("source", "documents", "text"), rows)
    yield from (
        "",
        f"After cleaning and the removal of duplicates: {kept}.",
        f"Split by a hash of the document: {train['tokens']:,} tokens for training, and "
        f"{validation['tokens']:,} for validation,",
        f"from {validation['documents']:,} documents that no document for training resembles.",
    )


def _origin(run: RunRecord) -> str:
    raw = run.params("raw")
    if raw["source"] == "embedded":
        package = "the license of its package, which is stored with every document"
        return f"The documentation inside Python packages, each under {package}."
    if raw["source"] == "files":
        licenses = sorted({item["licence"] for item in raw["files"]})
        return f"Files, under: {', '.join(licenses)}."
    sets = ["{name} at {revision} ({licence})".format(**item) for item in raw["hub"]["data_sets"]]
    return f"Data sets of the hub: {'; '.join(sets)}."


def _training(run: RunRecord) -> Iterator[str]:
    summary, how = run.summary("checkpoints"), run.provenance["params"]
    adamw, schedule, power = how["optimizer"], how["schedule"], how["loss"]["rare_token_power"]
    muon = ""
    # Older weights were trained without the choice
    if adamw.get("kind") == "muon":
        muon = f"Muon, momentum {adamw['momentum']:g}, for the matrices of layers; otherwise "
    tokens = summary["tokens"]
    epochs = tokens / run.summary("shards")["train"]["tokens"]
    rows = {
        "tokens": f"{tokens:,}: the training text {epochs:.2f} times, "
        f"{tokens / summary['parameters']:.1f} per parameter",
        "steps": f"{summary['steps']:,} of {how['checkpoints']['batch_size']:,} sequences",
        "optimizer": f"{muon}AdamW, betas {adamw['beta1']:g} and {adamw['beta2']:g}, weight decay "
        f"{adamw['weight_decay']:g}, gradient norm at most {adamw['grad_clip']:g}",
        "learning rate": f"{adamw['learning_rate']:g} after {schedule['warmup_steps']:,} steps, "
        f"then {schedule['decay']} to {schedule['final_fraction']:g} of it; that of the token "
        f"embedding is {adamw['embedding_rate']:g} times as high",
        "rare-token balance": f"power {power:g}" if power else "off",
        "precision": run.provenance["machine"]["precision"],
        "loss at the end": f"{summary['train_loss']:.4f} train, "
        f"{summary['validation_loss']:.4f} validation, nats per token",
        "spikes": f"{summary['backtracks']} times back to an earlier state",
    }
    yield from ("## Training", "", *markdown.table(("", ""), rows.items()))


def _evaluation(run: RunRecord) -> Iterator[str]:
    sliding = run.json("metrics/evaluation/perplexity.json")["sliding"]
    samples = run.json("metrics/evaluation/coherence.json")
    items = run.json("metrics/evaluation/cloze.json")["all"]
    scores = {
        "validation": run.summary("evaluation"),
        f"validation, in windows that slide by {sliding['stride']} tokens": sliding,
    }
    rows = []
    for name, score in scores.items():
        loss, bits = f"{score['loss']:.4f}", f"{score['bits_per_byte']:.4f}"
        rows.append((name, loss, f"{score['perplexity']:.2f}", bits))
    yield from ("## Evaluation", "", "On the whole validation split, in float32:", "")
    yield from markdown.table(("", "loss, nats per token", "perplexity", "bits per byte"), rows)
    verdicts = ("fluent", "looping", "broken", "short")
    shares = ", ".join(f"{samples[verdict]:.0%} {verdict}" for verdict in verdicts)
    page = "[all of them](../metrics/evaluation/samples.yaml)"
    share = f"{items['correct']} of {items['items']} right, {items['accuracy']:.1%}"
    yield from (
        "",
        f"Samples of fixed prompts ({page}): {shares}.",
        f"Sentences with a right and a wrong end: {share} where chance is {items['chance']:.1%} "
        f"(p = {items['p_value']:.2g}).",
    )


def _tuning(run: RunRecord) -> Iterator[str]:
    tuned, config = run.summary("tuned"), run.params("tuned")
    conversations = run.summary("conversations")
    train, sources = conversations["train"], conversations["sources"]
    rows = [
        (name, *(f"{source[key]:,}" for key in ("conversations", "tokens", "held_out")))
        for name, source in list(sources.items())[:SOURCES_SHOWN]
    ]
    more = ""
    if len(sources) > SOURCES_SHOWN:
        more = f" and {len(sources) - SOURCES_SHOWN} smaller sources"
    epochs = f"{config['epochs']:g} epoch{'s' * (config['epochs'] != 1)}"
    yield from (
        "## Tuning",
        "",
        "Conversations by source, and their tokens in an epoch without the shared system text:",
        "",
        *markdown.table(("source", "conversations", "tokens", "held out"), rows),
        "",
        f"With the above{more}: {train['tokens']:,} tokens, of which {train['answer_tokens']:,} "
        "are answers,",
        f"{epochs} in {tuned['steps']:,} steps. The learning rate begins at "
        f"{config['learning_rate']:g} of the peak above",
        "and falls to zero. Loss of held-out answers: "
        f"{tuned['validation_loss']:.4f} nats per token.",
    )


def _conversation(run: RunRecord) -> Iterator[str]:
    details = run.json("metrics/answers/details.json")
    rows = []
    for row in run.csv("plots/answers/shares.csv"):
        base, tuned, low, high = (f"{float(row[k]):.1%}" for k in ("base", "tuned", "low", "high"))
        rows.append((row["measure"], base, tuned, f"{low} to {high}"))
    base, tuned = (
        details[name]["likelihood"]["all"]["bits_per_byte"] for name in ("base", "tuned")
    )
    yield from ("## Conversation", "", "On conversations that tuning has not seen:", "")
    yield from markdown.table(("", "base", "tuned", "95% interval"), rows)
    yield from (
        "",
        f"Bits per byte of held-out answers: {tuned:.3f}, before tuning {base:.3f}.",
        "docs/conversations.md explains each measure. Conversations that nobody selected:",
        "[metrics/answers/conversations.yaml](../metrics/answers/conversations.yaml).",
    )


def _files(run: RunRecord) -> Iterator[str]:
    summary, config = run.summary("gguf"), run.params("gguf")
    rows = []
    for kind in config["types"]:
        figures = summary[kind]
        agreement, perplexity = f"{figures['top1_agreement']:.2%}", f"{figures['perplexity']:.2f}"
        name = f"{config['name']}-{kind}.gguf"
        rows.append(
            (name, text.size(figures["bytes"]), f"{figures['kl']:g}", agreement, perplexity)
        )
    header = ("file", "size", "KL from torch, nats per token", "same first choice", "perplexity")
    torch = summary[config["types"][0]]["torch_perplexity"]
    yield from ("## Files for llama.cpp", "", *markdown.table(header, rows), "")
    yield (
        "Measured in llama.cpp on windows of the validation split, where torch has perplexity "
        f"{torch:.2f}."
    )


def _provenance(run: RunRecord) -> Iterator[str]:
    recorded_here = run.provenance
    machine, libraries = recorded_here["machine"], recorded_here["libraries"]
    commit = "none yet records these weights in its dvc.lock"
    if run.commit:
        commit = f"`{run.commit}`, the first whose dvc.lock records these weights"
    rows = {"commit": commit, "code of the training": f"sha256 `{recorded_here['code']}`"}
    for note in recorded_here.get("adopted", ()):
        code = f"under other code, sha256 `{note['code']}`"
        rows[f"until step {note['until_step']:,}"] = code
    rows["libraries"] = ", ".join(f"{name} {version}" for name, version in libraries.items())
    processes = f"processes: {machine['devices']}, micro-batch: {machine['micro_batch']}"
    rows["machine"] = f"{machine['kind']}; {processes}"
    rows |= {f"{name}, sha256": f"`{value}`" for name, value in recorded_here["data"].items()}
    for name, md5 in run.hashes.items():
        if name.startswith(("data/", "models/")):
            rows[f"{name}, md5 in dvc.lock"] = f"`{md5}`"
    yield from (
        "## Provenance",
        "",
        *markdown.table(("", ""), rows.items()),
        "",
        "Check out the commit and run `antimatter verify` to see whether your machine makes the "
        "same bytes.",
    )
