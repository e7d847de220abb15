"""Runs a program on a machine without a network, beside the data sets of presets/kaggle.yaml on
loopback.

    python kaggle_hub.py PROGRAM
"""

import io
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

if __name__ == "__main__":
    # This file is started by its path, from a folder that is not the checkout
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from helpers import hub_data, hub_server
from helpers.hub_server import Repository
from helpers.planted_text import article, sentence_of

PRESET = Path(__file__).parents[2] / "presets/kaggle.yaml"
FILES, DOCUMENTS = 2, 60  # of each of the two data sets of text
TALKS = 200


def repositories() -> dict[str, Repository]:
    """The data sets under the names and revisions of the preset."""
    values = YAML(typ="safe").load(PRESET)
    web, c4 = values["raw"]["hub"]["data_sets"]
    [talk] = values["conversations"]["hub"]
    texts = [article(Random(seed), "story") for seed in range(2 * FILES * DOCUMENTS)]
    parts = [texts[start : start + DOCUMENTS] for start in range(0, len(texts), DOCUMENTS)]
    content = hub_data.c4(FILES).files
    for number, name in enumerate(name for name in content if name.startswith("en/c4-train")):
        content[name] = hub_data.json_gz([_row(text) for text in parts[number]])
    pages = {
        f"data/train-{i:05d}-of-{FILES:05d}.parquet": hub_data.parquet("content", part)
        for i, part in enumerate(parts[FILES:])
    }
    card = {"README.md": hub_data.WEB_CARD.encode()}
    return {
        web["name"]: Repository(web["revision"], card | pages),
        c4["name"]: Repository(c4["revision"], content),
        talk["name"]: Repository(
            talk["revision"], {"README.md": b"", "data/train-00000-of-00001.parquet": _talks()}
        ),
    }


def _row(text: str) -> dict[str, str]:
    return {"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "https://example.org"}


def _talks() -> bytes:
    rows = []
    for number in range(TALKS):
        random = Random(1000 + number)
        question, answer = (sentence_of(random, "common") for _ in range(2))
        rows.append(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        )
    out = io.BytesIO()
    pq.write_table(pa.table({"messages": rows}), out)
    return out.getvalue()


def main(program: str) -> int:
    with hub_server.running(repositories()) as hub:
        proxies = [name for name in os.environ if name.lower().endswith("_proxy")]
        environment = {name: value for name, value in os.environ.items() if name not in proxies}
        command = [sys.executable, program]
        return subprocess.run(command, env=environment | {"HF_ENDPOINT": hub.url}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
