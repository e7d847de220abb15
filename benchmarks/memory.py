"""The data stages on growing corpora: peak memory of the whole process tree, and MB/s.

    python benchmarks/memory.py 'corpus/c4/en/*.json.gz' text --megabytes 100 500 2000

A corpus that is larger than the given files repeats their documents, with the words of each line in
another order: the same kind of text, with other n-grams. Memory is the sum of the proportional set
sizes of the process and its workers (PSS: shared pages count once), sampled five times a second.
"""

import argparse
import dataclasses
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

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
from antimatter.tasks.config import TasksRuntime

PRESET = Path("presets/300m.yaml")
# A function, and its arguments
Call = tuple[Any, ...]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pattern")
    parser.add_argument("column")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--file-mb", type=float, default=25)
    parser.add_argument("--train-mb", type=float, default=10000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only-cleaned", action="store_true")
    arguments = parser.parse_args()
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory(dir=".") as name:
            folder = Path(name)
            write_parquet(corpus(arguments, megabytes), folder / "raw", arguments.file_mb)
            size = sum(map(text_bytes, (folder / "raw").iterdir())) / 1e6
            for label, (function, *inputs) in calls(folder, arguments).items():
                seconds, peak = measure(function, *inputs)
                rate = f"{seconds:8.1f} s {size / seconds:7.1f} MB/s"
                print(f"{label:10}{size:8,.0f} MB {rate} {peak / 1e6:8,.0f} MB peak", flush=True)


def calls(folder: Path, arguments: argparse.Namespace) -> dict[str, Call]:
    """The stages, in order."""
    runtime = params.read(TasksRuntime, "runtime", PRESET, part=True)
    runtime = dataclasses.replace(runtime, workers=arguments.workers)
    cleaning = params.read(CleanConfig, "cleaned", PRESET)
    stages: dict[str, Call] = {
        "cleaned": (clean, folder / "raw", folder / "work", cleaning, runtime)
    }
    if arguments.only_cleaned:
        return stages
    cleaned, bpe = folder / "work/cleaned", folder / "tokenizer"
    vocabulary = params.read(TokenizerConfig, "tokenizer", PRESET)
    vocabulary = dataclasses.replace(vocabulary, train_mb=arguments.train_mb)
    split = params.read(ShardsConfig, "shards", PRESET)
    stages["tokenizer"] = (tokenizer.train, cleaned, bpe, vocabulary, arguments.workers)
    stages["shards"] = (writer.write, cleaned, bpe, folder / "encoded", split, runtime)
    return stages


def corpus(arguments: argparse.Namespace, megabytes: float) -> Iterator[Document]:
    source = FilesConfig(pattern=arguments.pattern, text_column=arguments.column, licence="none")
    parts = paths.parts([source], 0, "pattern")
    done, turn, random = 0, 0, Random(0)
    while True:
        for part in parts:
            for document in local.read(part):
                text = document.text
                if turn:
                    text = "\n".join(shuffled(line, random) for line in text.split("\n"))
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


def measure(function: Callable[..., Any], *arguments: Any) -> tuple[float, int]:
    """Runs a function in a new process: its seconds, and the peak memory of its tree in bytes."""
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
            except psutil.Error:
                # It has just ended
                continue
    except psutil.Error:
        pass
    return total


if __name__ == "__main__":
    main()
