"""The data stages on growing corpora: peak memory of the whole process tree, and MB/s, at 100 MB, 500 MB and 2 GB of text.

    python benchmarks/memory.py 'corpus/c4/en/*.json.gz' text --megabytes 100 500 2000

A corpus larger than the files given is made of their documents with the words of each line in another order: other n-grams, the same kind of text.
Memory is the sum of the proportional set sizes (PSS: shared pages count once) of the process and its workers, looked at five times a second.
"""

import argparse
import dataclasses
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil

from antimatter import params
from antimatter.data import tokenizer
from antimatter.data.cleaning.config import CleanConfig
from antimatter.data.cleaning.pipeline import clean
from antimatter.data.documents import Document, text_bytes, write_parquet
from antimatter.data.shards import writer
from antimatter.data.shards.config import ShardsConfig
from antimatter.data.sources import local, paths
from antimatter.data.sources.paths import FilesConfig
from antimatter.data.tokenizer_config import TokenizerConfig
from antimatter.tasks.config import EngineRuntime

PRESET = Path("presets/300m.yaml")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pattern")
    parser.add_argument("column")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--file-mb", type=float, default=25)
    parser.add_argument("--train-mb", type=float, default=10000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only-cleaned", action="store_true")
    given = parser.parse_args()
    runtime = dataclasses.replace(
        params.read(EngineRuntime, "runtime", PRESET, part=True), workers=given.workers
    )
    for megabytes in given.megabytes:
        with tempfile.TemporaryDirectory(dir=".") as name:
            folder = Path(name)
            write_parquet(corpus(given, megabytes), folder / "raw", given.file_mb)
            size = sum(map(text_bytes, (folder / "raw").iterdir())) / 1e6
            config = dataclasses.replace(
                params.read(TokenizerConfig, "tokenizer", PRESET), train_mb=given.train_mb
            )
            split = params.read(ShardsConfig, "shards", PRESET)
            for label, call in (
                (
                    "cleaned",
                    (
                        clean,
                        folder / "raw",
                        folder / "work",
                        params.read(CleanConfig, "cleaned", PRESET),
                        runtime,
                    ),
                ),
                (
                    "tokenizer",
                    (
                        tokenizer.train,
                        folder / "work/cleaned",
                        folder / "tokenizer",
                        config,
                        given.workers,
                    ),
                ),
                (
                    "shards",
                    (
                        writer.write,
                        folder / "work/cleaned",
                        folder / "tokenizer",
                        folder / "encoded",
                        split,
                        runtime,
                    ),
                ),
            ):
                if given.only_cleaned and label != "cleaned":
                    break
                seconds, peak = watched(*call)
                print(
                    f"{label:10}{size:8,.0f} MB {seconds:8.1f} s {size / seconds:7.1f} MB/s {peak / 1e6:8,.0f} MB peak",
                    flush=True,
                )


def corpus(given: argparse.Namespace, megabytes: float) -> Iterator[Document]:
    parts = paths.parts(
        [FilesConfig(pattern=given.pattern, text_column=given.column, licence="none")], 0, "pattern"
    )
    done, turn, random = 0, 0, Random(0)
    while True:
        for part in parts:
            for document in local.read(part):
                text = (
                    document.text
                    if turn == 0
                    else "\n".join(shuffled(line, random) for line in document.text.split("\n"))
                )
                done += len(text.encode())
                yield document._replace(id=f"{document.id}/{turn}", text=text)
                if done > megabytes * 1e6:
                    return
        turn += 1


def shuffled(line: str, random: Random) -> str:
    words = line.split(" ")
    first, last = words[:-1], words[-1:]
    random.shuffle(first)
    return " ".join(first + last)


def watched(function, *arguments) -> tuple[float, int]:  # type: ignore[no-untyped-def]
    """Runs a function in a process of its own: its seconds, and the peak memory of its tree in bytes."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    begin = time.monotonic()
    process.start()
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            peak[0] = max(peak[0], tree(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.join()
    ended.set()
    watcher.join()
    assert process.exitcode == 0
    return time.monotonic() - begin, peak[0]


def tree(pid: int | None) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except psutil.Error:  # it has just ended
                continue
    except psutil.Error:
        pass
    return total


if __name__ == "__main__":
    main()
