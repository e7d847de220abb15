"""The model for Ollama: a Modelfile, and the model store that `ollama create` would make from it.

The store is made without Ollama and equals Ollama's own byte for byte:
`manifests/registry.ollama.ai/library/<name>/<tag>` names blobs by their sha256.
Source: server/create.go and the manifest package of github.com/ollama/ollama.

The template of a model that was tuned to chat writes role tokens; that of a base model continues
text (antimatter/chat/template.py). Go's templates cannot replace text, so in `ollama run` and
/api/chat a role token that a user types is one. `antimatter chat` and `serve` render and neutralize
the prompt themselves, and send it raw.
"""

import hashlib
import json
import os
import re
import shutil
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from antimatter import files
from antimatter.chat import template
from antimatter.errors import UserError
from antimatter.export.config import FileType
from antimatter.llama.header import Header, read_header
from antimatter.params import Positive, PositiveInt, Section, Within

TAG = "latest"
_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER_TYPE = "application/vnd.ollama.image."
# By general.file_type, as FileType.String() in fs/ggml/type.go of Ollama; 0, F32, is unknown there
FILE_TYPES = {1: "F16", 7: "Q8_0", 15: "Q4_K_M"}


@dataclass(frozen=True, kw_only=True)
class OllamaConfig(Section):
    name: str  # as in `ollama run <name>`
    type: FileType  # of the GGUF file to use
    temperature: Annotated[float, Within("[0, 10]")]
    top_p: Annotated[float, Within("(0, 1]")]
    top_k: PositiveInt
    repeat_penalty: Positive  # 1 is none; set because the defaults of the runtimes differ
    num_ctx: PositiveInt  # tokens; limited to the model's context
    num_predict: PositiveInt  # tokens of an answer, at most
    # Texts that end an answer, besides the token [EOS]. [USER] is one for runtimes that print
    # control tokens; for the others the GGUF file declares it (tokenizer.ggml.eot_token_id)
    stop: tuple[str, ...]
    # For the Modelfile, unless the model was tuned with a system text: that one is used instead
    system: str

    def validate(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", self.name):
            allowed = "lower-case letters, digits, dots, dashes and underscores"
            raise UserError(f"name must be {allowed}, got {self.name!r}")
        for text in self.stop:
            if not text or "\n" in text or '"' in text:
                allowed = "texts without line breaks and double quotes"
                raise UserError(f"stop must hold {allowed}, got {text!r}")
        if '"""' in self.system:
            reason = "which ends it in a Modelfile"
            raise UserError(f'system must not hold """, {reason}, got {self.system!r}')


def write(source: Path, folder: Path, config: OllamaConfig) -> None:
    """Makes `folder` with Modelfile and models/{manifests,blobs} for the GGUF file `source`.

    Every blob is read back.

    Raises:
        UserError: the file is not a GGUF file, or a blob was not written correctly.
    """
    header = read_header(source)
    if header.chat and header.chat.system:
        config = replace(config, system=header.chat.system)
    go = template.GO if header.chat else template.CONTINUED_GO
    parameters = _parameters(config, header)
    with files.replacing(folder) as partial:
        partial.mkdir()
        modelfile = _modelfile(os.path.relpath(source, folder), go, config, parameters)
        files.write_text(partial / "Modelfile", modelfile)
        store = partial / "models"
        _write_store(source, store, go, config, header, parameters)
        verify(store, config.name)


def source_of(folder: Path, file_type: str) -> Path:
    """The GGUF file of that type in the folder. Raises UserError unless there is exactly one."""
    if not folder.is_dir():
        fix = "run `dvc repro gguf` to make it, or `dvc pull` to fetch it"
        raise UserError(f"{folder} is missing: {fix}")
    pattern = f"*-{file_type}.gguf"
    paths = sorted(folder.glob(pattern))
    if not paths:
        fix = f"add {file_type} to `types` under `gguf:`, or change `type` under `ollama:`"
        raise UserError(f"{folder} has no {pattern}: {fix}")
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise UserError(f"{folder} has {len(paths)} files {pattern} ({names}): delete all but one")
    return paths[0]


def manifest_path(store: Path, name: str, tag: str = TAG) -> Path:
    return store / "manifests" / "registry.ollama.ai" / "library" / name / tag


def blob_path(store: Path, digest: str) -> Path:
    return store / "blobs" / digest.replace(":", "-")


def verify(store: Path, name: str, tag: str = TAG) -> dict[str, Any]:
    """The manifest of a stored model, after a check of the size and sha256 of all its blobs.

    Raises:
        UserError: there is no such model, or a blob is missing or damaged.
    """
    fix = "run `dvc repro ollama` to rebuild the store"
    manifest: dict[str, Any] = files.read_json(manifest_path(store, name, tag))
    for layer in [manifest["config"], *manifest["layers"]]:
        path = blob_path(store, layer["digest"])
        if not path.is_file():
            raise UserError(f"{path} is missing, {name}:{tag} needs it: {fix}")
        content = (path.stat().st_size, f"sha256:{files.sha256(path)}")
        if content != (layer["size"], layer["digest"]):
            raise UserError(f"{path} is damaged, its content does not match its name: {fix}")
    return manifest


def _parameters(config: OllamaConfig, header: Header) -> dict[str, Any]:
    """Sorted by name, as Go's JSON sorts the keys of a map."""
    return {
        "num_ctx": min(config.num_ctx, header.context_length),
        "num_predict": config.num_predict,
        "repeat_penalty": _go_number(config.repeat_penalty),
        "stop": list(config.stop),
        "temperature": _go_number(config.temperature),
        "top_k": config.top_k,
        "top_p": _go_number(config.top_p),
    }


def _modelfile(source: str, go: str, config: OllamaConfig, parameters: dict[str, Any]) -> str:
    lines = [f"FROM {source}"]
    for name, value in parameters.items():
        values = [f'"{text}"' for text in value] if isinstance(value, list) else [value]
        lines += [f"PARAMETER {name} {text}" for text in values]
    lines.append(f'TEMPLATE """{go}"""')
    if config.system:
        quotes = '"""' if '"' in config.system or "\n" in config.system else '"'
        lines.append(f"SYSTEM {quotes}{config.system}{quotes}")
    return "\n".join(lines) + "\n"


def _write_store(
    source: Path,
    store: Path,
    go: str,
    config: OllamaConfig,
    header: Header,
    parameters: dict[str, Any],
) -> None:
    weights = _link_blob(store, "model", source)
    layers = [weights, _blob(store, f"{_LAYER_TYPE}template", go.encode())]
    if config.system:
        layers.append(_blob(store, f"{_LAYER_TYPE}system", config.system.encode()))
    layers.append(_blob(store, f"{_LAYER_TYPE}params", _go_json(parameters)))
    description = {
        "model_format": "gguf",
        "model_family": header.architecture,
        "model_families": [header.architecture],
        "model_type": human_number(header.n_parameters),
        "file_type": FILE_TYPES.get(header.keys.get("general.file_type", 0), "unknown"),
        # Ollama writes these two on every machine
        "architecture": "amd64",
        "os": "linux",
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": _blob(store, _CONFIG_TYPE, _go_json(description)),
        "layers": layers,
    }
    path = manifest_path(store, config.name)
    path.parent.mkdir(parents=True)
    path.write_bytes(_go_json(manifest))


def _blob(store: Path, media_type: str, content: bytes) -> dict[str, Any]:
    layer = {
        "mediaType": media_type,
        "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "size": len(content),
    }
    path = blob_path(store, str(layer["digest"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return layer


def _link_blob(store: Path, kind: str, source: Path) -> dict[str, Any]:
    digest = f"sha256:{files.sha256(source)}"
    path = blob_path(store, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The weights take up the disk only once
        os.link(source, path)
    # The target is on another file system, or on one without hard links
    except OSError:
        shutil.copyfile(source, path)
    return {"mediaType": f"{_LAYER_TYPE}{kind}", "digest": digest, "size": source.stat().st_size}


def _go_json(value: Any) -> bytes:
    """JSON as Go's json.Encoder writes it.

    It has no spaces, escapes `<>&` and the two Unicode line separators, and ends with a newline.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode() + b"\n"


def _go_number(value: float) -> float | int:
    """The shortest decimal of a float32, and 1.0 as 1: Ollama holds these options in float32."""
    bits = struct.pack("f", value)
    (single,) = struct.unpack("f", bits)
    decimals = (float(f"{single:.{digits}g}") for digits in range(1, 18))
    shortest = next(decimal for decimal in decimals if struct.pack("f", decimal) == bits)
    return int(shortest) if shortest.is_integer() else shortest


def human_number(n: int) -> str:
    """As Ollama's format.HumanNumber: 5330432 is 5.33M."""
    if n >= 10**9:
        return f"{n // 10**9}B" if n % 10**9 == 0 else f"{n / 1e9:.1f}B"
    if n >= 10**6:
        return f"{n // 10**6}M" if n % 10**6 == 0 else f"{n / 1e6:.2f}M"
    return f"{n / 1e3:.0f}K" if n >= 10**3 else str(n)
