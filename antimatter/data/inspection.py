"""Shows what the data stages produced: what the cleaning dropped and why, documents of the shards.

So a person can judge a rule before a week of cleaning, and the shards before a GPU is rented.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from antimatter import files, text
from antimatter.data.shards.reader import DOCUMENTS, SPLITS, Shards, Split, how_to_restore
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError


def reasons(metrics: Path) -> Iterator[str]:
    """The table of drop reasons, line by line."""
    report = files.read_json(metrics)
    documents, size = report["documents_in"], report["bytes_in"]

    def row(reason: str, n: int, bytes: int) -> tuple[str, ...]:
        share, mb_share = f"{n / documents:.1%}", f"{bytes / size:.1%}"
        return reason, f"{n:,}", share, f"{bytes / 1e6:,.2f}", mb_share

    rows = [
        ("", "documents", "", "MB", ""),
        row("kept", report["documents_out"], report["bytes_out"]),
        row("trimmed from kept documents", 0, report["bytes_trimmed"]),
    ]
    rows += [row(name, n, report["dropped_bytes"][name]) for name, n in report["dropped"].items()]
    rows.append(("total", f"{documents:,}", "", f"{size / 1e6:,.2f}", ""))
    yield from text.table(rows, right=range(1, 5))
    if turns := report.get("turns_in"):
        counts = {"turns of conversations": turns, "changed": report["turns_changed"]}
        counts |= {f"dropped: {reason}": n for reason, n in report["turns_dropped"].items()}
        yield ""
        shares = [(label, f"{n:,}", f"{n / turns:.1%}") for label, n in counts.items()]
        yield from text.table(shares, right=(1, 2))


def dropped(cleaned: Path, reason: str, count: int) -> Iterator[str]:
    """Up to `count` documents that were dropped for `reason`, as they were before the cleaning; a
    duplicate with its original.

    Raises:
        UserError: there are no examples, or none for that reason.
    """
    path = cleaned / "examples.jsonl"
    if not path.is_file():
        raise UserError(
            f"{path} is missing: run `dvc repro cleaned` to make it, or `dvc pull {cleaned}` to "
            "fetch it"
        )
    # Not splitlines(): web text holds U+2028 and others, which end no line of JSON
    with path.open(encoding="utf-8") as lines:
        try:
            examples = [json.loads(line) for line in lines]
            reasons = {example["reason"] for example in examples}
        except (ValueError, KeyError, TypeError) as error:
            fix = f"run `dvc checkout {cleaned}` to restore it"
            raise UserError(f"{path} is damaged ({error}): {fix}") from None
    shown = [example for example in examples if example["reason"] == reason][:count]
    if not shown:
        known = ", ".join(sorted(reasons)) or "(none)"
        raise UserError(f"nothing was dropped for {reason!r}: the reasons are {known}")
    for example in shown:
        yield f"\n--- {example['id']}, from {example['source']}\n{example['text']}"
        if "repeats" in example:
            yield f"--- duplicate of {example['repeats']}\n{example['repeated_text']}"


def verify(folder: Path) -> Iterator[str]:
    """Reads every shard and compares it with the index; yields a line for each split.

    Raises:
        UserError: shards are missing, or a checksum, a count or an id differs from the index.
    """
    shards = Shards(folder)
    for split in SPLITS:
        index = shards.index["splits"][split]
        counts, documents = _verify_files(shards, split)
        if (counts.sum(), documents) != (shards.tokens(split), index["documents"]):
            found = f"{split} has {counts.sum():,} tokens in {documents:,} documents"
            _damaged(folder / "index.json", found)
        if split == "train" and not np.array_equal(counts, shards.token_counts()):
            _damaged(folder / "token_counts.npy", "train has other counts")
        if split == "validation":
            _verify_documents(shards)
        size = text.size(shards.bytes(split))
        yield (
            f"{split}: {counts.sum():,} tokens, {text.plural(documents, 'document')}, {size} of "
            f"text in {text.plural(len(index['files']), 'file')}; checksums and counts agree"
        )


def _verify_files(shards: Shards, split: Split) -> tuple[np.ndarray, int]:
    """How often each token occurs in a split, (V,), and its number of documents."""
    counts, documents = np.zeros(shards.vocab_size, np.int64), 0
    entries = shards.index["splits"][split]["files"]
    for entry, ids in zip(entries, shards.split(split), strict=True):
        path = shards.folder / entry["name"]
        if files.sha256(path) != entry["sha256"]:
            _damaged(path, f"its sha256 is not {entry['sha256']}")
        if ids.max() >= shards.vocab_size:
            found = f"it holds the id {ids.max()}, the vocabulary has {shards.vocab_size}"
            _damaged(path, found)
        # EOS tells nothing: a conversation has one after each answer
        begins = int((ids == shards.index["bos"]).sum())
        if begins != entry["documents"] or ids[0] != shards.index["bos"]:
            expected = text.plural(entry["documents"], "document")
            _damaged(path, f"the index says {expected}, it has {begins:,}")
        counts += np.bincount(ids, minlength=shards.vocab_size)
        documents += begins
    return counts, documents


def _verify_documents(shards: Shards) -> None:
    path, expected = shards.folder / DOCUMENTS, shards.index["documents"]["sha256"]
    if files.sha256(path) != expected:
        _damaged(path, f"its sha256 is not {expected}")
    size, total = int(shards.validation_documents()["bytes"].sum()), shards.bytes("validation")
    if size != total:
        _damaged(path, f"the index says {total:,} bytes of text, it has {size:,}")


def excerpts(folder: Path, tokenizer: Tokenizer, count: int, seed: int) -> Iterator[str]:
    """Random documents of each split, decoded; the same for the same seed."""
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
            place = f"{split}, {entries[number]['name']}, document {which + 1:,}"
            yield f"\n--- {place}: {len(document):,} tokens\n{tokenizer.decode(document.tolist())}"


def _damaged(path: Path, found: str) -> None:
    raise UserError(f"{path} is damaged ({found}): {how_to_restore(path.parent)}")
