"""The child process that runs llama.cpp.

It reads one line of JSON from stdin, which says what to serve, answers with one line of JSON on
stdout, which says where, and ends when stdin is closed.

It is a separate process because llama.cpp aborts on some inputs, and because xllamacpp's server
(2026.10) may hang when it is stopped after few requests. However the parent ends, stdin is closed,
so no process remains. The script is run by its path, so it imports nothing of this package.
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
    # Without destructors: the server's is the one that may hang
    os._exit(0)


def _serve(
    path: str, n_ctx: int, embeddings: bool, threads: int | None, parallel: int, key: str
) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    # llama.cpp divides the context among the slots, and limits each share to the model's own
    params.n_ctx = n_ctx * parallel
    params.n_parallel = parallel
    # With one cache for all slots, a long answer would take the memory of the others
    params.kv_unified = False
    # Each answer holds a thread until its end; the other threads count tokens
    params.n_threads_http = parallel + 4
    # A window of embeddings must fit in one batch, or llama.cpp answers 500
    params.n_batch = params.n_ubatch = n_ctx if embeddings else min(n_ctx, 512)
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # any free port
    params.api_keys = [key]
    params.ui = False
    params.verbosity = -1
    params.warmup = False
    # Otherwise llama.cpp may change n_ctx
    params.fit_params = False
    # Each slot keeps its prefix anyway; by default a second cache takes up to 8 GiB
    params.cache_ram_mib = 0
    # Learned positions cannot be shifted
    params.ctx_shift = False
    if embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
        params.embd_normalize = -1
    if threads is not None:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
