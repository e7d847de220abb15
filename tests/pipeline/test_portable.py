"""checkpoints.portable: the settings reach torch, MKL and NumPy in the process of a stage."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.train_process import CONFIG

import antimatter
from antimatter import params
from antimatter.errors import UserError
from antimatter.pipeline import portable
from antimatter.training import numerics, tuning
from antimatter.training.config import TrainConfig, TrainerConfig, TrainRuntime, TuneConfig

PORTABLE = {"precision": "fp32", "portable": True}
# What a stage does, then a product in MKL and the kind of machine for the provenance
STAGE = """
import stages.checkpoints, torch, numpy
from antimatter.training import numerics
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
torch.ones(8, 8) @ torch.ones(8, 8)
print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
print(numerics.describe_hardware("cpu", "fp32")[0])
print(*(name for name in __cpu_dispatch__ if __cpu_features__[name]))
"""


def write_params(folder: Path, **changes: object) -> Path:
    text = Path("params.yaml").read_text(encoding="utf-8")
    for key, value in changes.items():
        # The first key of this name after the section's
        begin = text.index("\ncheckpoints:")
        found = re.compile(rf"^  {key}: [^\s#]+", re.MULTILINE).search(text, begin)
        assert found
        text = f"{text[: found.start()]}  {key}: {str(value).lower()}{text[found.end() :]}"
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def output(folder: Path) -> str:
    clean = {name: text for name, text in os.environ.items() if name not in portable.SETTINGS}
    root = Path(antimatter.__file__).parents[1]
    environment = {**clean, "MKL_VERBOSE": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", STAGE]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not portable.has_avx2(), reason="portable needs AVX2")
def test_the_settings_reach_torch_mkl_and_numpy(tmp_path: Path) -> None:
    write_params(tmp_path, threads=3, **PORTABLE)
    text = output(tmp_path)
    # Without MKL, a build of torch prints nothing of it
    if "MKL_VERBOSE" in text:
        assert "CNR:COMPATIBLE" in text and "Dyn:0" in text
    assert text.splitlines()[-3:] == ["AVX2 3", numerics.PORTABLE, "X86_V3"]


def test_by_default_the_processor_decides() -> None:
    portable.apply()
    assert not portable.in_effect()
    assert numerics.describe_hardware("cpu", "fp32")[0] != numerics.PORTABLE


def test_a_file_that_cannot_be_read_is_left_to_the_check(tmp_path: Path) -> None:
    for text in ("a: [", "checkpoints: 3", "raw: {}"):
        (tmp_path / "params.yaml").write_text(text)
        portable.apply(tmp_path / "params.yaml")
    portable.apply(tmp_path / "none.yaml")
    assert not portable.in_effect()


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"compile": True}])
def test_what_is_not_portable_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = write_params(tmp_path, **{**PORTABLE, **change})
    with pytest.raises(UserError, match=r"checkpoints\.portable needs precision fp32"):
        params.read(TrainConfig, "checkpoints", path)


def test_a_machine_without_avx2_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "cpuinfo"
    old.write_text("flags : fpu sse2 avx\n")
    monkeypatch.setattr(portable, "CPU_INFO", old)
    training = replace(CONFIG.training, portable=True)
    with pytest.raises(UserError, match=r"AVX2.*set checkpoints\.portable to false"):
        replace(CONFIG, training=training)
    old.write_text("flags : fpu sse2 avx avx2\n")
    assert isinstance(replace(CONFIG, training=training), TrainerConfig)
    monkeypatch.setattr(TrainRuntime, "device_type", lambda self: "cuda")
    with pytest.raises(UserError, match=r"runs on cuda: set runtime\.device to cpu"):
        replace(CONFIG, training=training)


def test_a_process_that_loaded_torch_before_is_refused() -> None:
    """The tests have: nothing set the variables."""
    with pytest.raises(UserError, match="loaded without its settings"):
        numerics.check_portable()


@pytest.mark.skipif(not portable.has_avx2(), reason="portable needs AVX2")
def test_a_tuning_computes_as_params_yaml_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights may come from elsewhere, but the variables were set by params.yaml."""
    recorded = {"params": {"checkpoints": params.load()["checkpoints"] | {"precision": "bf16"}}}
    del recorded["params"]["checkpoints"]["portable"]
    tune, runtime = params.read(TuneConfig, "tuned"), CONFIG.runtime
    shutil.copy("params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    config, inherited = tuning.trainer_config(tune, recorded, 9, runtime)
    assert (config.training.precision, inherited["portable"]) == ("bf16", False)
    monkeypatch.undo()
    write_params(tmp_path, **PORTABLE)
    monkeypatch.chdir(tmp_path)
    config, inherited = tuning.trainer_config(tune, recorded, 9, runtime)
    assert (config.training.precision, config.training.portable) == ("fp32", True)
    assert (inherited["precision"], inherited["portable"]) == ("fp32", True)
