"""The process that llama.cpp lives in: one line of JSON on stdin says what to serve, one on stdout where. It ends when stdin does.

A process of its own, because llama.cpp aborts on some inputs, and because stopping xllamacpp's server (2026.10) may hang when it was asked little
before. Its parent's death, of whatever kind, closes stdin, so nothing is left behind. Imports nothing of ours: it is run by path.
"""

import json
import os
import sys
from typing import Any


def main() -> None:
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    try:
        server = _serve(**request)
    except RuntimeError as error:
        print(json.dumps({"error": " ".join(str(error).split())}), flush=True)
        os._exit(1)
    print(json.dumps({"url": server.listening_address}), flush=True)
    sys.stdin.read()
    os._exit(0)  # without destructors: theirs is the one that hangs


def _serve(
    path: str, n_ctx: int, embeddings: bool, threads: int | None, parallel: int, key: str
) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    # llama.cpp divides it among the slots, and caps each share by the model's own context
    params.n_ctx = n_ctx * parallel
    params.n_parallel = parallel
    params.kv_unified = False  # else one long answer takes the memory of its neighbours
    # An answer holds one until its end; the others count tokens
    params.n_threads_http = parallel + 4
    # Embeddings take a whole window in one batch, or answer 500
    params.n_batch = params.n_ubatch = n_ctx if embeddings else min(n_ctx, 512)
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # a free one
    params.api_keys = [key]
    params.ui = False
    params.verbosity = -1
    params.warmup = False
    params.fit_params = False  # else it may change n_ctx by itself
    params.cache_ram_mib = 0  # each slot keeps its own prefix; no second cache of 8 GiB
    params.ctx_shift = False  # learned positions cannot shift
    if embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
        params.embd_normalize = -1
    if threads is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
