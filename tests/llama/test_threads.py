from pathlib import Path

import pytest
from helpers import gguf_model

from antimatter.llama.server import Llama


@pytest.mark.skipif(not Path("/proc").exists(), reason="shows the environment of a process")
def test_threads_yield_soon_also_in_a_stage_whose_own_threads_spin_longer(
    tiny: gguf_model.Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "4000")
    with Llama(tiny.path, 64) as llama:
        environment = Path(f"/proc/{llama._process.pid}/environ").read_bytes().split(b"\0")
    assert b"GOMP_SPINCOUNT=200" in environment and b"GOMP_SPINCOUNT=4000" not in environment
