"""The model as Ollama wants it: a Modelfile for `ollama create`, and the model store that `ollama create` would have made of it, without Ollama.

The store is byte for byte Ollama's own: `manifests/registry.ollama.ai/library/<name>/<tag>` names blobs by their sha256.
Source: server/create.go and the manifest package of github.com/ollama/ollama.

The template of a model that was tuned to chat is one of role tokens, else one that continues text
(antimatter/chat/template.py). Go's templates cannot replace text, so in `ollama run` and /api/chat
a role token that a user types is one. `antimatter chat` and `serve` render and neutralise the
prompt themselves, and send it raw.
"""

import hashlib
import json
import os
import re
import shutil
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from antimatter import files
from antimatter.chat import template
from antimatter.errors import UserError
from antimatter.llama.header import Header, read_header

TAG = "latest"
_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER_TYPE = "application/vnd.ollama.image."
# By general.file_type; Ollama itself calls 0, which is F32, unknown
_FILE_TYPES = {1: "F16", 7: "Q8_0", 15: "Q4_K_M"}


@dataclass(frozen=True, kw_only=True)
class OllamaConfig:
    name: str  # as in `ollama run <name>`
    type: Literal["f32", "f16", "q8_0", "q4_k_m"]  # which of the GGUF files
    temperature: float
    top_p: float
    top_k: int
    repeat_penalty: float  # 1 is none; written down because the runtimes' own defaults differ
    num_ctx: int  # tokens; never more than the model's context
    num_predict: int  # tokens of an answer, at most
    # Text that ends an answer, besides the token [EOS]. Runtimes that print control tokens find
    # [USER] here; to the others the GGUF file names it as an end (tokenizer.ggml.eot_token_id)
    stop: tuple[str, ...]
    # Of the Modelfile, unless the model was tuned with a system text: then its own stands there
    system: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", self.name):
            raise UserError(
                f"name must be lower-case letters, digits, dots, dashes and underscores, got {self.name!r}"
            )
        if not 0 <= self.temperature <= 10:
            raise UserError(f"temperature must lie in [0, 10], got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.repeat_penalty <= 0:
            raise UserError(f"repeat_penalty must be positive, got {self.repeat_penalty}")
        for name in ("top_k", "num_ctx", "num_predict"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for text in self.stop:
            if not text or "\n" in text or '"' in text:
                raise UserError(
                    f"stop must hold texts without line breaks and double quotes, got {text!r}"
                )
        if '"""' in self.system:
            raise UserError(
                f'system must not hold """, which ends it in a Modelfile, got {self.system!r}'
            )


def write(source: Path, folder: Path, config: OllamaConfig) -> None:
    """Makes `folder` with Modelfile and models/{manifests,blobs} for the GGUF file `source`, and reads every blob back.

    Raises:
        ValueError: the file is not a GGUF file, or a blob came out other than it should.
    """
    header = read_header(source)
    if header.chat and header.chat.system:
        config = replace(config, system=header.chat.system)
    go = template.GO if header.chat else template.CONTINUED_GO
    parameters = _parameters(config, header)
    with files.replacing(folder) as partial:
        partial.mkdir()
        text = _modelfile(os.path.relpath(source, folder), go, config, parameters)
        files.write_text(partial / "Modelfile", text)
        store = partial / "models"
        _write_store(source, store, go, config, header, parameters)
        verify(store, config.name)


def source_of(folder: Path, file_type: str) -> Path:
    """The GGUF file of that type in the folder. Raises FileNotFoundError or ValueError unless there is exactly one."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is missing: run `dvc repro gguf` to make it, or `dvc pull` to fetch it"
        )
    found = sorted(folder.glob(f"*-{file_type}.gguf"))
    if not found:
        raise FileNotFoundError(
            f"{folder} has no *-{file_type}.gguf: add {file_type} to `types` under `gguf:`, or change `type` under `ollama:`"
        )
    if len(found) > 1:
        raise UserError(
            f"{folder} has {len(found)} files *-{file_type}.gguf ({', '.join(path.name for path in found)}): delete all but one"
        )
    return found[0]


def manifest_path(store: Path, name: str, tag: str = TAG) -> Path:
    return store / "manifests" / "registry.ollama.ai" / "library" / name / tag


def blob_path(store: Path, digest: str) -> Path:
    return store / "blobs" / digest.replace(":", "-")


def verify(store: Path, name: str, tag: str = TAG) -> dict[str, Any]:
    """The manifest of a stored model, after every blob that it names was found to have the size and the sha256 that it states.

    Raises:
        FileNotFoundError: no such model.
        ValueError: a blob is missing or damaged.
    """
    manifest: dict[str, Any] = files.read_json(manifest_path(store, name, tag))
    for layer in [manifest["config"], *manifest["layers"]]:
        path = blob_path(store, layer["digest"])
        if not path.is_file():
            raise UserError(
                f"{path} is missing, {name}:{tag} needs it: run `dvc repro ollama` to make the store anew"
            )
        if (
            path.stat().st_size != layer["size"]
            or f"sha256:{files.sha256(path)}" != layer["digest"]
        ):
            raise UserError(
                f"{path} is damaged, its content is not what its name says: run `dvc repro ollama` to make the store anew"
            )
    return manifest


def _parameters(config: OllamaConfig, header: Header) -> dict[str, Any]:
    """In the order of a map in Go's JSON: by name."""
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
        lines += (
            [f'PARAMETER {name} "{text}"' for text in value]
            if isinstance(value, list)
            else [f"PARAMETER {name} {value}"]
        )
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
        "model_type": _human_number(header.n_parameters),
        "file_type": _FILE_TYPES.get(header.keys.get("general.file_type", 0), "unknown"),
        "architecture": "amd64",  # Ollama writes these two on every machine
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
        os.link(source, path)  # the weights once on the disk, not twice
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, path)
    return {"mediaType": f"{_LAYER_TYPE}{kind}", "digest": digest, "size": source.stat().st_size}


def _go_json(value: Any) -> bytes:
    """As Go's json.Encoder writes it: no spaces, `<>&` and the two Unicode line separators escaped, a newline at the end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode() + b"\n"


def _go_number(value: float) -> float | int:
    """A float32 by its shortest decimal, and 1.0 as 1: Ollama holds these options in float32."""
    (single,) = struct.unpack("f", struct.pack("f", value))
    shortest = next(
        float(f"{single:.{digits}g}")
        for digits in range(1, 18)
        if struct.pack("f", float(f"{single:.{digits}g}")) == struct.pack("f", value)
    )
    return int(shortest) if shortest.is_integer() else shortest


def _human_number(n: int) -> str:
    """Ollama's format.HumanNumber: 5330432 is 5.33M."""
    if n >= 10**9:
        return f"{n // 10**9}B" if n % 10**9 == 0 else f"{n / 1e9:.1f}B"
    if n >= 10**6:
        return f"{n // 10**6}M" if n % 10**6 == 0 else f"{n / 1e6:.2f}M"
    return f"{n / 1e3:.0f}K" if n >= 10**3 else str(n)
