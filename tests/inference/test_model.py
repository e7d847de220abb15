"""`antimatter.load`: what it reads, what it answers, and what it refuses."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.gguf_model import CHAT, CONTEXT, Tiny

import antimatter
from antimatter import files
from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.cli import main as cli
from antimatter.data import tokenizer as tokenizers
from antimatter.errors import UserError
from antimatter.inference.model import Model
from antimatter.model import weights
from antimatter.model.config import Sampling
from antimatter.model.sampling import generate

WRONG_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
    ({"temperature": None}, "temperature must be a number, got None"),
    ({"top_p": [1]}, r"top_p must be a number, got \[1\]"),
    ({"top_k": 1.5}, "top_k must be a whole number, got 1.5"),
    ({"max_new_tokens": 1.5}, "max_new_tokens must be a whole number, got 1.5"),
    ({"max_new_tokens": True}, "max_new_tokens must be a whole number, got True"),
    ({"seed": "a"}, "seed must be None or a whole number of 64 bits, got 'a'"),
    ({"seed": 2**64}, "seed must be None or a whole number of 64 bits"),
    ({"stop": 3}, "stop must be a text or a list of texts, got 3"),
    ({"stop": [3]}, r"stop must be a text or a list of texts, got \[3\]"),
    ({"heat": 1}, "heat is not an option: remove it; known: max_new_tokens, temperature"),
]
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def project(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's models/ and data/tokenizer."""
    folder = tmp_path_factory.mktemp("a project")
    shutil.copytree(tiny.tokenizer_folder, folder / "data/tokenizer")
    recorded = tokenizers.digest(tiny.tokenizer_folder / "tokenizer.json")
    provenance = {"data": {"tokenizer": recorded}}
    weights.save(tiny.model, folder / "models/checkpoints", provenance)
    weights.save(tiny.model, folder / "models/tuned", {"initial": provenance}, chat=CHAT)
    return folder


Read = list[tuple[list[int], int | None]]


@pytest.fixture
def read(chat: "Model", monkeypatch: pytest.MonkeyPatch) -> Read:
    """Collects the ids that `chat` would read, and its limit of new tokens; it answers nothing."""
    read: Read = []

    def record(ids: list[int], _: Any, most: int | None = None) -> list[str]:
        read.append((ids, most))
        return []

    monkeypatch.setattr(chat, "_stream", record)
    return read


@pytest.fixture(scope="module")
def chat(project: Path) -> Model:
    return antimatter.load(project / "models/tuned")


@pytest.fixture(scope="module")
def base(project: Path) -> Model:
    return antimatter.load(project / "models/checkpoints")


def test_the_digest_of_a_tokenizer_is_the_one_that_a_stage_records(tiny: Tiny) -> None:
    folder = tiny.tokenizer_folder
    written_by_tokenizers = files.read_json(folder / "tokenizer.json")
    files.write_json(folder / "tokenizer.json", written_by_tokenizers)
    stage = files.digest(files.fingerprint(folder, "*"))
    assert tokenizers.digest(folder / "tokenizer.json") == stage


def test_greedy_generation_continues_with_the_likeliest_tokens(base: Model, tiny: Tiny) -> None:
    ids = [1, *tiny.tokenizer.encode("def f")]
    greedy = Sampling(temperature=0, top_k=0, top_p=1.0, max_new_tokens=90)
    (row,) = generate(tiny.model, ids, 1, greedy, end=2, generator=torch.Generator())
    text = base.generate("def f", temperature=0, max_new_tokens=90)
    assert text == tiny.tokenizer.decode(row)
    assert len(row) + len(ids) > CONTEXT


def test_the_seed_decides_the_text_and_none_draws_another(base: Model) -> None:
    options: Any = {"temperature": 2.0, "max_new_tokens": 20}
    one, same, other = (base.generate("def", seed=seed, **options) for seed in (1, 1, 2))
    assert one == same != other
    assert len({base.generate("def", **options) for _ in range(4)}) > 1


def test_a_stream_is_the_same_text_in_pieces(chat: Model, base: Model) -> None:
    pieces = list(chat.stream_chat(HI, seed=1))
    assert len(pieces) > 2 and "".join(pieces) == chat.chat(HI, seed=1)
    pieces = list(base.stream_generate("é", seed=1))
    assert len(pieces) > 2 and "".join(pieces) == base.generate("é", seed=1)


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(base: Model) -> None:
    whole = base.generate("def f", temperature=0, max_new_tokens=30)
    middle = whole[8:11]
    assert base.generate("def f", temperature=0, stop=[middle]) == whole[: whole.index(middle)]
    assert base.generate("def f", temperature=0, stop=middle) == whole[: whole.index(middle)]
    never = base.generate("def f", temperature=0, max_new_tokens=30, stop=[whole[-4:] + "\0"])
    assert never == whole


def test_a_chat_has_the_system_text_and_the_ids_of_the_template(
    chat: Model, read: Read, tiny: Tiny
) -> None:
    own = [{"role": "system", "content": ""}, *HI]
    continued = [*HI, {"role": "assistant", "content": "He"}]
    for messages in (HI, own, continued):
        chat.chat(messages)
    system = Message("system", CHAT["system"])
    user = Message("user", "Hi")
    expected = [[system, user], [user], [system, user, Message("assistant", "He")]]
    rendered = [template.prompt_tokens(some, tiny.tokenizer) for some in expected]
    assert read == [(ids, CONTEXT - len(ids)) for ids in rendered]


def test_a_conversation_that_outgrows_the_context_loses_its_oldest_turns(
    chat: Model, read: Read, tiny: Tiny
) -> None:
    turns: list[dict[str, str]] = []
    for number in range(30):
        turns += [{"role": "user", "content": f"{number}"}, {"role": "assistant", "content": "a"}]
    chat.chat([*turns, *HI], max_new_tokens=8)
    ((ids, most),) = read
    assert most is not None and CONTEXT - 16 < len(ids) <= CONTEXT - 8
    shown = tiny.tokenizer.decode(ids)
    assert shown.startswith(CHAT["system"]) and shown.endswith("29aHi")
    with pytest.raises(UserError, match=r"the prompt is too long, it has \d+ tokens"):
        chat.chat([{"role": "user", "content": "x = 1\n" * CONTEXT}])


def test_a_notebook_with_a_running_event_loop_can_chat(chat: Model) -> None:
    async def cell() -> str:
        return chat.chat(HI, temperature=0)

    assert asyncio.run(cell()) == chat.chat(HI, temperature=0)


def test_the_score_of_a_text_is_that_of_the_command(
    base: Model, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "def f(x):\r\n    return x\n" * 20
    (project / "text.txt").write_bytes(text.encode())
    shutil.copy("params.yaml", project)
    monkeypatch.chdir(project)
    assert cli.main(["perplexity", "text.txt", "--stride", "32", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["all"]
    score = base.score(text, stride=32)
    assert (score.tokens, score.bytes) == (expected["tokens"], expected["bytes"])
    assert score.figures()["loss"] == pytest.approx(expected["loss"])
    assert base.perplexity(text) == pytest.approx(expected["perplexity"])


def test_a_pt_file_and_a_folder_for_transformers_are_the_same_model(
    project: Path, chat: Model, tmp_path: Path
) -> None:
    answer = chat.chat(HI, temperature=0)
    folder = chat.to_hf(tmp_path / "hf")
    assert antimatter.load(folder).chat(HI, temperature=0) == answer
    torch.save(chat.network.state_dict(), tmp_path / "a.pt")
    config, words = project / "models/tuned/config.json", project / "data/tokenizer"
    loaded = antimatter.load(tmp_path / "a.pt", config=config, tokenizer=words)
    assert loaded.chat(HI, temperature=0) == answer
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"^to_hf\(\): .*has notes\.txt, which"):
        chat.to_hf(tmp_path / "mine")


def test_what_does_not_fit_is_one_line_that_names_it(
    project: Path, tmp_path: Path, base: Model, chat: Model
) -> None:
    other = tmp_path / "tokenizer.json"
    content = files.read_json(project / "data/tokenizer/tokenizer.json")
    content["model"]["merges"] = content["model"]["merges"][::-1]
    files.write_json(other, content)
    cases: list[tuple[Any, str]] = [
        (lambda: antimatter.load(tmp_path / "absent"), "absent.* is missing"),
        (
            lambda: antimatter.load(project / "models/tuned", tokenizer=other),
            "is not the tokenizer of",
        ),
        (lambda: base.chat(HI), "is a base model, which continues text.*generate"),
        (lambda: chat.chat([]), r"messages must be a list such as"),
        (lambda: chat.chat("Hi"), r"messages must be a list such as"),  # type: ignore[arg-type]
        (lambda: chat.chat([{"role": "bot", "content": "Hi"}]), r"messages\[0\] must have a role"),
        (lambda: chat.chat([*HI, {"role": "user"}]), r"messages\[1\] must have a role"),
        (lambda: base.generate("a", temperature=-1), "temperature must be at least 0, got -1"),
        (lambda: base.generate("a", max_new_tokens=0), "max_new_tokens must"),
        *(
            (lambda option=option: base.generate("a", **option), error)
            for option, error in WRONG_OPTIONS
        ),
        (lambda: base.generate(3), "text must be a text, got 3"),  # type: ignore[arg-type]
        (lambda: base.score(3), "text must be a text, got 3"),  # type: ignore[arg-type]
        (lambda: chat.generate(""), "the text is empty, and a chat model"),
        (lambda: antimatter.load(3), "path must be a path, got 3"),  # type: ignore[arg-type]
        (
            lambda: antimatter.load(project / "models/tuned", device="gpu"),
            "device must be auto, cpu or cuda, got 'gpu'",
        ),
        (lambda: base.generate("a", stop=[""]), "stop must not have an empty text"),
        (lambda: base.score(""), "the text is empty"),
        (lambda: base.score("a", stride=0), r"stride must lie in \[1, 64\], got 0"),
    ]
    for call, error in cases:
        with pytest.raises(UserError, match=error) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1


def test_three_lines_of_python_are_enough(project: Path) -> None:
    code = (
        'import antimatter; model = antimatter.load("models/tuned"); '
        'print(model.chat([{"role": "user", "content": "Hi"}], temperature=0))'
    )
    environment = {"PYTHONPATH": str(Path.cwd()), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
