import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from helpers import gguf_model
from helpers.gguf_model import CHAT, Tiny, gpt, of_model

from antimatter.chat import template
from antimatter.errors import UserError
from antimatter.export import gguf, ollama
from antimatter.export.config import FileType
from antimatter.export.ollama import OllamaConfig
from antimatter.llama.header import read_header

CONFIG = OllamaConfig(
    name="antimatter",
    type="f16",
    temperature=0.7,
    top_p=0.9,
    top_k=40,
    repeat_penalty=1.0,
    num_ctx=2048,
    num_predict=256,
    stop=("[EOS]", "<stop> & é"),
    system="You are a helpful AI assistant created by the Antimatter team.",
)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob(media_type: str, content: bytes) -> str:
    """An entry of a manifest."""
    sha256 = f"sha256:{digest(content)}"
    return f'{{"mediaType":"{media_type}","digest":"{sha256}","size":{len(content)}}}'


def kinds(store: Path) -> dict[str, str]:
    """The layers of the stored model: their digest by the end of their type."""
    layers = ollama.verify(store, "antimatter")["layers"]
    return {layer["mediaType"].rsplit(".", 1)[1]: layer["digest"] for layer in layers}


def test_every_type_has_the_name_that_ollama_gives_it() -> None:
    numbers = {name: int(gguf.FILE_TYPES[name]) for name in get_args(FileType)}
    names = {name: ollama.FILE_TYPES.get(number, "unknown") for name, number in numbers.items()}
    assert names == {name: name.upper() for name in numbers} | {"f32": "unknown"}


def test_the_store_is_byte_for_byte_what_ollama_create_writes(tiny: Tiny, tmp_path: Path) -> None:
    """The expected files were compared with those of a real Ollama by `diff -r`."""
    ollama.write(tiny.path, tmp_path / "ollama", CONFIG)
    store = tmp_path / "ollama" / "models"
    model, go = tiny.path.read_bytes(), template.CONTINUED_GO.encode()
    params = (
        b'{"num_ctx":64,"num_predict":256,"repeat_penalty":1,'
        b'"stop":["[EOS]","\\u003cstop\\u003e \\u0026 \xc3\xa9"],'
        b'"temperature":0.7,"top_k":40,"top_p":0.9}\n'
    )
    values = read_header(tiny.path).n_parameters
    config = (
        b'{"model_format":"gguf","model_family":"mpt","model_families":["mpt"],'
        b'"model_type":"%dK","file_type":"F16","architecture":"amd64","os":"linux"}\n'
        % round(values / 1000)
    )
    system = CONFIG.system.encode()
    contents = {"model": model, "template": go, "system": system, "params": params}
    layers = ",".join(
        blob(f"application/vnd.ollama.image.{kind}", content) for kind, content in contents.items()
    )
    manifest = (
        '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
        f'"config":{blob("application/vnd.docker.container.image.v1+json", config)},'
        f'"layers":[{layers}]}}\n'
    )
    expected = {
        f"blobs/sha256-{digest(content)}": content
        for content in (model, go, system, params, config)
    }
    expected["manifests/registry.ollama.ai/library/antimatter/latest"] = manifest.encode()
    paths = [path for path in store.rglob("*") if path.is_file()]
    assert {str(path.relative_to(store)): path.read_bytes() for path in paths} == expected


def test_the_modelfile_says_the_same(tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny.path.parent / "ollama"
    ollama.write(tiny.path, folder, replace(CONFIG, stop=("[EOS]",)))
    assert (folder / "Modelfile").read_text() == (
        "FROM ../tiny-f16.gguf\n"
        "PARAMETER num_ctx 64\n"
        "PARAMETER num_predict 256\n"
        "PARAMETER repeat_penalty 1\n"
        'PARAMETER stop "[EOS]"\n'
        "PARAMETER temperature 0.7\n"
        "PARAMETER top_k 40\n"
        "PARAMETER top_p 0.9\n"
        f'TEMPLATE """{template.CONTINUED_GO}"""\n'
        'SYSTEM "You are a helpful AI assistant created by the Antimatter team."\n'
    )


@pytest.mark.parametrize("system", ["", "Be é kind."])
def test_a_chat_model_has_its_roles_and_its_own_system_text(
    tiny: Tiny,
    tmp_path: Path,
    system: str,
) -> None:
    """The text of `ollama.system` is for a model that was tuned without one."""
    path = tmp_path / "a-f16.gguf"
    source = replace(of_model(gpt()), chat={**CHAT, "system": system})
    gguf.write(source, tiny.tokenizer_folder / "tokenizer.json", path, "f16", gguf_model.CONFIG)
    ollama.write(path, tmp_path / "ollama", CONFIG)
    modelfile = (tmp_path / "ollama" / "Modelfile").read_text(encoding="utf-8")
    expected = system or CONFIG.system
    assert modelfile.endswith(f'TEMPLATE """{template.GO}"""\nSYSTEM "{expected}"\n')
    store = tmp_path / "ollama" / "models"
    for kind, text in (("template", template.GO), ("system", expected)):
        assert ollama.blob_path(store, kinds(store)[kind]).read_text(encoding="utf-8") == text


def test_without_system_text_there_is_no_system_layer(tiny: Tiny, tmp_path: Path) -> None:
    ollama.write(tiny.path, tmp_path / "ollama", replace(CONFIG, system=""))
    assert list(kinds(tmp_path / "ollama" / "models")) == ["model", "template", "params"]
    assert "SYSTEM" not in (tmp_path / "ollama" / "Modelfile").read_text()


def test_the_weights_are_on_the_disk_once(tiny: Tiny, tmp_path: Path) -> None:
    ollama.write(tiny.path, tmp_path / "ollama", CONFIG)
    sha256 = f"sha256:{digest(tiny.path.read_bytes())}"
    assert os.path.samefile(ollama.blob_path(tmp_path / "ollama" / "models", sha256), tiny.path)


def test_a_damaged_or_missing_blob_is_found(tiny: Tiny, tmp_path: Path) -> None:
    ollama.write(tiny.path, tmp_path / "ollama", CONFIG)
    store = tmp_path / "ollama" / "models"
    manifest = json.loads(ollama.manifest_path(store, "antimatter").read_bytes())
    for layer in manifest["layers"][1:]:
        path = ollama.blob_path(store, layer["digest"])
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"?")
        with pytest.raises(UserError, match=f"{path.name} is damaged"):
            ollama.verify(store, "antimatter")
        path.unlink()
        with pytest.raises(UserError, match=f"{path.name} is missing"):
            ollama.verify(store, "antimatter")
        path.write_bytes(whole)
    assert ollama.verify(store, "antimatter") == manifest


def test_a_file_that_is_not_gguf_makes_no_store(tmp_path: Path) -> None:
    (tmp_path / "a-f16.gguf").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"a-f16\.gguf is not a GGUF file"):
        ollama.write(ollama.source_of(tmp_path, "f16"), tmp_path / "ollama", CONFIG)
    assert not (tmp_path / "ollama").exists()


def test_the_source_is_the_one_file_of_its_type(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent is missing: run `dvc repro gguf`"):
        ollama.source_of(tmp_path / "absent", "f16")
    (tmp_path / "a-f16.gguf").touch()
    assert ollama.source_of(tmp_path, "f16") == tmp_path / "a-f16.gguf"
    with pytest.raises(UserError, match=r"has no \*-f32\.gguf: add f32 to `types`"):
        ollama.source_of(tmp_path, "f32")
    (tmp_path / "b-f16.gguf").touch()
    with pytest.raises(UserError, match=r"a-f16\.gguf, b-f16\.gguf"):
        ollama.source_of(tmp_path, "f16")


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (999, "999"),
        (5_330, "5K"),
        (5_330_432, "5.33M"),
        (7_000_000, "7M"),
        (406_286_336, "406.29M"),
        (8_030_261_312, "8.0B"),
        (10**9, "1B"),
    ],
)
def test_sizes_are_named_as_ollama_names_them(n: int, words: str) -> None:
    assert ollama.human_number(n) == words


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "Anti Matter"),
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", 0),
        ("num_ctx", 0),
        ("num_predict", 0),
        ("repeat_penalty", 0.0),
        ("stop", ("a\nb",)),
        ("stop", ("",)),
        ("stop", ('say "x"',)),
        ("system", 'a """ b'),
    ],
)
def test_bad_parameters_name_their_key(key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^{key} must "):
        replace(CONFIG, **{key: value})
