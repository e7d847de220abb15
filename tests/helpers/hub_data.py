"""Data sets for the hub server, in the layouts of C4 (packed JSON) and RefinedWeb (parquet)."""

import gzip
import hashlib
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from antimatter.data.sources.config import HubConfig, HubDataSet
from helpers.hub_server import Repository

ROWS = 200  # of each file
C4_CARD = """---
configs:
- config_name: en
  data_files:
  - split: train
    path: en/c4-train.*.json.gz
  - split: validation
    path: en/c4-validation.*.json.gz
- config_name: realnewslike
  data_files:
  - split: train
    path: realnewslike/c4-train.*.json.gz
dataset_info:
- config_name: en
  features:
  - {name: text, dtype: string}
  - {name: timestamp, dtype: string}
  - {name: url, dtype: string}
---
"""
WEB_CARD = """---
dataset_info:
  features:
  - {name: content, dtype: string}
  - {name: url, dtype: string}
  - {name: timestamp, dtype: 'timestamp[s]'}
  - {name: dump, dtype: string}
  - {name: segment, dtype: string}
  - name: image_urls
    sequence:
      sequence: string
---
"""


def text(part: str, file: int, row: int) -> str:
    """200 or 350 characters, of which compression saves half, so that a file takes several
    requests.
    """
    label = f"row {row} of file {file} of {part}"
    numbers = range(6 if part == "web" else 3)
    digests = [hashlib.sha256(f"{label}{n}".encode()).hexdigest() for n in numbers]
    return " ".join([f"This is {label}:", *(digest[: 50 + row % 9] for digest in digests)])


def json_gz(rows: list[dict[str, Any]]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


def c4_rows(part: str, file: int) -> list[dict[str, Any]]:
    timestamp = "2019-04-25T12:57:54Z"
    return [
        {"text": text(part, file, i), "timestamp": timestamp, "url": f"https://example.org/{i}"}
        for i in range(ROWS)
    ]


def parquet(column: str, texts: list[str]) -> bytes:
    n = len(texts)
    columns = {
        column: texts,
        "url": ["https://example.org"] * n,
        "timestamp": pa.array([0] * n, pa.timestamp("s")),
        "dump": ["CC"] * n,
        "segment": ["1"] * n,
        "image_urls": [[["a", "b"]]] * n,
    }
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=60)
    return out.getvalue()


def c4(files: int) -> Repository:
    train = {f"en/c4-train.{i:05d}-of-{files:05d}.json.gz": c4_rows("en", i) for i in range(files)}
    others = {
        "en/c4-validation.00000-of-00001.json.gz": c4_rows("validation", 0),
        "realnewslike/c4-train.00000-of-00001.json.gz": c4_rows("news", 0),
    }
    content = {path: json_gz(rows) for path, rows in (train | others).items()}
    return Repository("c" * 40, {"README.md": C4_CARD.encode(), ".gitattributes": b"", **content})


def refinedweb(files: int) -> Repository:
    pages = {i: [text("web", i, row) for row in range(ROWS)] for i in range(files)}
    train = {
        f"data/train-{i:05d}-of-{files:05d}-b8fc.parquet": parquet("content", texts)
        for i, texts in pages.items()
    }
    return Repository("d" * 40, {"README.md": WEB_CARD.encode(), **train})


C4 = HubDataSet(
    name="allenai/c4",
    config="en",
    split="train",
    revision="c" * 40,
    text_column="text",
    licence="odc-by",
    weight=1.0,
)
WEB = HubDataSet(
    name="tiiuae/falcon-refinedweb",
    config="default",
    split="train",
    revision="d" * 40,
    text_column="content",
    licence="odc-by",
    weight=1.0,
)
# Of c4(4) and refinedweb(5)
C4_TEXTS = [text("en", file, row) for file in range(4) for row in range(ROWS)]
WEB_TEXTS = [text("web", file, row) for file in range(5) for row in range(ROWS)]


def config(*data_sets: HubDataSet, total_mb: float = 1.0, lanes: int = 2) -> HubConfig:
    return HubConfig(total_mb=total_mb, lanes=lanes, data_sets=data_sets)
