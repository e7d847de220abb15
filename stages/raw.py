"""raw: text as it is found, with its source and licence."""

import sys
import time
from collections import Counter
from pathlib import Path

from antimatter import files, params, stage
from antimatter.data import sources
from antimatter.data.sources import RawConfig, RawRuntime


def main(raw: Path, metrics: Path, by_source: Path) -> None:
    config = params.read(RawConfig, "raw")
    runtime = params.read(RawRuntime, "runtime", part=True)
    documents, size = Counter[str](), Counter[str]()
    due = time.monotonic() + 5
    with files.replacing(raw) as folder:
        for document in sources.write_parquet(sources.documents(config, runtime.workers), folder, config.file_mb):
            documents[document.source] += 1
            size[document.source] += len(document.text.encode())
            if time.monotonic() > due:
                print(f"raw: {size.total() / 1e6:.0f} MB, at {document.source}", file=sys.stderr, flush=True)
                due += 5
    files.write_metrics(metrics, {"documents": documents.total(), "bytes": size.total(), "sources": len(documents)})
    files.write_csv(by_source, ("source", "documents", "bytes"), [(source, n, size[source]) for source, n in documents.most_common()])
    print(f"raw: {documents.total():,} documents, {size.total() / 1e6:.1f} MB from {len(documents)} sources")


if __name__ == "__main__":
    stage.run(main)
