"""Looks at what the data stages left, so that a person can judge a rule before a week is spent on it, and trust the shards before a GPU is."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from antimatter import files
from antimatter.data.shards.reader import DOCUMENTS, SPLITS, Shards
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError


def reasons(metrics: Path) -> Iterator[str]:
    """The table of drop reasons, a line each."""
    report = files.read_json(metrics)
    total, size = report["documents_in"], report["bytes_in"]
    rows = [
        ("kept", report["documents_out"], report["bytes_out"]),
        ("trimmed from kept documents", 0, report["bytes_trimmed"]),
    ]
    rows += [
        (reason, n, report["dropped_bytes"][reason]) for reason, n in report["dropped"].items()
    ]
    yield f"{'':32}{'documents':>12}{'':>8}{'MB':>12}{'':>8}"
    for reason, n, mb in rows:
        yield f"{reason:32}{n:12,}{n / total:8.1%}{mb / 1e6:12,.2f}{mb / size:8.1%}"
    yield f"{'in all':32}{total:12,}{'':8}{size / 1e6:12,.2f}"
    if turns := report.get("turns_in"):
        found = {"turns of conversations": turns, "written otherwise": report["turns_changed"]}
        found |= {f"cut out: {reason}": n for reason, n in report["turns_dropped"].items()}
        yield ""
        for label, n in found.items():
            yield f"{label:32}{n:12,}{n / turns:8.1%}"


def dropped(cleaned: Path, reason: str, count: int) -> Iterator[str]:
    """Up to `count` documents that were dropped for `reason`, as they were found; a duplicate with what it repeats.

    Raises:
        FileNotFoundError: there are no examples.
        ValueError: nothing was dropped for that reason.
    """
    path = cleaned / "examples.jsonl"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: run `dvc repro cleaned` to make it, or `dvc pull {cleaned}` to fetch it"
        )
    # Not splitlines(): web text holds U+2028 and others, which end no line of JSON
    with path.open(encoding="utf-8") as lines:
        examples = [json.loads(line) for line in lines]
    known = sorted({example["reason"] for example in examples})
    found = [example for example in examples if example["reason"] == reason][:count]
    if not found:
        raise UserError(
            f"nothing was dropped for {reason!r}: the reasons are {', '.join(known) or '(none)'}"
        )
    for example in found:
        yield f"\n--- {example['id']}, from {example['source']}\n{example['text']}"
        if "repeats" in example:
            yield f"--- repeats {example['repeats']}\n{example['repeated_text']}"


def verify(folder: Path) -> Iterator[str]:
    """Reads every shard and compares it with the index: a line for each split.

    Raises:
        FileNotFoundError: there are no shards.
        ValueError: a checksum, a count or an id is not as the index says.
    """
    shards = Shards(folder)
    for split in SPLITS:
        counts = np.zeros(shards.vocab_size, np.int64)
        entries = shards.index["splits"][split]["files"]
        documents = 0
        for entry, ids in zip(entries, shards.split(split), strict=True):
            path = folder / entry["name"]
            if files.sha256(path) != entry["sha256"]:
                _damaged(path, f"its sha256 is not {entry['sha256']}")
            if ids.max() >= shards.vocab_size:
                _damaged(
                    path, f"it holds the id {ids.max()}, the vocabulary has {shards.vocab_size}"
                )
            begins, ends = (int((ids == shards.index[mark]).sum()) for mark in ("bos", "eos"))
            if not begins == ends == entry["documents"]:
                _damaged(
                    path,
                    f"the index says {entry['documents']} documents, it has {begins} beginnings and {ends} ends",
                )
            counts += np.bincount(ids, minlength=shards.vocab_size)
            documents += begins
        if (counts.sum(), documents) != (
            shards.tokens(split),
            shards.index["splits"][split]["documents"],
        ):
            _damaged(
                folder / "index.json",
                f"{split} has {counts.sum():,} tokens in {documents:,} documents",
            )
        if split == "train" and not np.array_equal(counts, shards.token_counts()):
            _damaged(folder / "token_counts.npy", "train has other counts")
        if split == "validation":
            if files.sha256(folder / DOCUMENTS) != (
                expected := shards.index["documents"]["sha256"]
            ):
                _damaged(folder / DOCUMENTS, f"its sha256 is not {expected}")
            if (found := int(shards.validation_documents()["bytes"].sum())) != shards.bytes(split):
                _damaged(
                    folder / DOCUMENTS,
                    f"the index says {shards.bytes(split):,} bytes of text, it has {found:,}",
                )
        size = shards.bytes(split) / 1e6
        yield f"{split}: {counts.sum():,} tokens, {documents:,} documents, {size:,.1f} MB of text in {len(entries)} files; checksums and counts agree"


def excerpts(folder: Path, tokenizer: Tokenizer, count: int, seed: int) -> Iterator[str]:
    """Documents drawn at random, decoded; the same for the same seed."""
    shards = Shards(folder)
    random = np.random.default_rng(seed)
    for split in SPLITS:
        entries = shards.index["splits"][split]["files"]
        per_file = np.array([entry["documents"] for entry in entries])
        for _ in range(count):
            number = int(random.choice(len(entries), p=per_file / per_file.sum()))
            ids = shards.split(split)[number]
            begins = np.flatnonzero(ids == shards.index["bos"])
            which = int(random.integers(len(begins)))
            end = begins[which + 1] if which + 1 < len(begins) else len(ids)
            document = ids[begins[which] : end]
            yield f"\n--- {split}, {entries[number]['name']}, document {which + 1:,}: {len(document):,} tokens\n{tokenizer.decode(document.tolist())}"


def _damaged(path: Path, found: str) -> None:
    raise UserError(
        f"{path} is damaged ({found}): delete {path.parent} and run `dvc repro shards`, or `dvc checkout {path.parent}` to restore it"
    )
