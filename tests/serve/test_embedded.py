"""llama.cpp as a backend."""

import asyncio
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from helpers import gguf_model
from helpers.backends import GENERATION, complete, count, pieces, run
from helpers.gguf_model import CHAT, CONTEXT, TEXT, VOCAB, Tiny, of_model
from helpers.processes import children, is_alive

from antimatter.data.special_tokens import BOS, EOS, USER
from antimatter.errors import UserError
from antimatter.export import gguf
from antimatter.llama.client import BackendError
from antimatter.llama.server import Llama
from antimatter.serve.backend import Finish, Generation
from antimatter.serve.embedded import EmbeddedBackend

PROMPT = "The function returns"
HOT = replace(GENERATION, temperature=2.0, top_k=400, top_p=1.0)
WARM = replace(HOT, temperature=0.5, max_tokens=12, stop=())


@contextmanager
def opened(path: Path, num_ctx: int = 2048, parallel: int = 1) -> Iterator[EmbeddedBackend]:
    backend = EmbeddedBackend(path, num_ctx, parallel)
    try:
        yield backend
    finally:
        backend.close()


@pytest.fixture(scope="module")
def embedded(tiny: Tiny) -> Iterator[EmbeddedBackend]:
    with opened(tiny.path) as backend:
        yield backend


def test_it_continues_as_torch_does(tiny: Tiny, embedded: EmbeddedBackend) -> None:
    import torch

    ids = [1, *tiny.tokenizer.encode(PROMPT)]
    for _ in range(20):
        ids.append(int(tiny.model(torch.tensor([ids]))[0, -1].argmax()))
    expected = tiny.tokenizer.decode(ids[-20:])
    texts = pieces(embedded, PROMPT)
    assert "".join(texts).startswith(expected.split("\ufffd")[0])
    assert len(texts) > 1


def test_the_context_is_that_of_the_model_if_it_is_shorter(
    tiny: Tiny, embedded: EmbeddedBackend
) -> None:
    assert embedded.n_ctx == CONTEXT
    assert "embedded llama.cpp" in embedded.description and str(tiny.path) in embedded.description


def test_tokens_are_counted_as_the_runtime_counts_them(
    tiny: Tiny, embedded: EmbeddedBackend
) -> None:
    for text in ("", "x", TEXT[:500], "é🙂"):
        assert count(embedded, text) == len(tiny.tokenizer.encode(text)) + 1


def test_a_text_that_could_never_fit_is_counted_nearly_right(
    tiny: Tiny, embedded: EmbeddedBackend
) -> None:
    text = TEXT * (200_000 // len(TEXT) + 1)
    expected = len(tiny.tokenizer.encode(text))
    assert count(embedded, text) == pytest.approx(expected, rel=0.001)


def test_parallel_answers_are_those_of_one_alone_each_with_the_whole_context(
    tiny: Tiny, embedded: EmbeddedBackend
) -> None:
    """At temperature 0. A batch of another size may round otherwise, so with another model and
    processor near ties could be decided otherwise.
    """
    generation = replace(GENERATION, max_tokens=30)
    texts = [f"{PROMPT} {'a ' * i}" for i in range(12)]
    alone = [complete(embedded, text, generation)[0] for text in texts]
    with opened(tiny.path, parallel=4) as many:
        assert many.n_ctx == CONTEXT
        with ThreadPoolExecutor(12) as pool:
            answers = pool.map(lambda text: complete(many, text, generation)[0], texts)
            assert list(answers) == alone
        prompt = "x " * ((CONTEXT - 8) // 2)
        while count(many, prompt) < CONTEXT - 5:
            prompt += "x"
        assert pieces(many, prompt, replace(GENERATION, max_tokens=4))


def test_the_finish_has_the_reason_and_the_counts(embedded: EmbeddedBackend) -> None:
    _, finish = complete(embedded, PROMPT, replace(GENERATION, max_tokens=7))
    speed, seconds = finish.tokens_per_second, finish.prompt_seconds
    assert finish == Finish("length", count(embedded, PROMPT), 7, speed, seconds)
    assert speed > 0 and 0 < seconds < 10
    whole, _ = complete(embedded, PROMPT)
    assert complete(embedded, PROMPT, with_stops(GENERATION, whole[6]))[1].reason == "stop"


def test_all_tokens_are_candidates_without_a_top_k(embedded: EmbeddedBackend) -> None:
    flat = replace(GENERATION, temperature=10.0, top_p=1.0, max_tokens=1)

    def first_tokens(top_k: int) -> set[str]:
        some = [replace(flat, top_k=top_k, seed=seed) for seed in range(100)]
        return {complete(embedded, PROMPT, generation)[0] for generation in some}

    assert len(first_tokens(5)) <= 5
    assert len(first_tokens(0)) > 40


def test_a_min_p_of_1_leaves_the_likeliest_token_alone(embedded: EmbeddedBackend) -> None:
    greedy, _ = complete(embedded, PROMPT)
    assert complete(embedded, PROMPT, replace(HOT, min_p=1.0, seed=1))[0] == greedy
    assert complete(embedded, PROMPT, replace(HOT, seed=1))[0] != greedy


@pytest.mark.parametrize(("presence", "frequency"), [(2.0, 0.0), (0.0, 1.0), (-1.0, 0.5)])
def test_penalties_are_subtracted_from_the_logits_of_what_was_written(
    tiny: Tiny, embedded: EmbeddedBackend, presence: float, frequency: float
) -> None:
    """The formula of OpenAI's reference, over prompt and answer."""
    import torch

    ids = [BOS, *tiny.tokenizer.encode(PROMPT)]
    n_prompt = len(ids)
    while len(ids) < n_prompt + 15:
        counts = torch.bincount(torch.tensor(ids), minlength=VOCAB)
        logits = tiny.model(torch.tensor([ids]))[0, -1]
        ids.append(int((logits - counts * frequency - (counts > 0) * presence).argmax()))
    penalties: dict[str, Any] = {
        "presence_penalty": presence,
        "frequency_penalty": frequency,
        "max_tokens": 15,
    }
    answer, _ = complete(embedded, PROMPT, replace(GENERATION, repeat_last_n=CONTEXT, **penalties))
    assert answer == tiny.tokenizer.decode(ids[n_prompt:])
    assert answer != complete(embedded, PROMPT, replace(GENERATION, max_tokens=15))[0]


def test_the_file_of_the_model_is_described(tiny: Tiny, embedded: EmbeddedBackend) -> None:
    file = run(embedded.file())
    content = tiny.path.read_bytes()
    assert (file.size, file.digest) == (len(content), hashlib.sha256(content).hexdigest())
    assert file.keys["general.architecture"] == "mpt"
    modified = datetime.fromisoformat(file.modified).timestamp()
    assert modified == pytest.approx(tiny.path.stat().st_mtime, abs=1e-5)


def test_a_seed_repeats_an_answer(embedded: EmbeddedBackend) -> None:
    answers = [complete(embedded, "The", replace(HOT, seed=seed))[0] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def with_stops(generation: Generation, *stops: str) -> Generation:
    return replace(generation, stop=stops)


def test_a_stop_text_ends_the_answer_and_is_not_shown(embedded: EmbeddedBackend) -> None:
    whole, _ = complete(embedded, PROMPT)
    stop = whole[6:9]
    assert complete(embedded, PROMPT, with_stops(GENERATION, stop))[0] == whole[: whole.index(stop)]


@pytest.fixture(scope="module")
def seeded(embedded: EmbeddedBackend) -> tuple[Generation, str]:
    """A seed whose answer of 12 tokens is plain text that does not repeat one letter."""
    for seed in range(1000):
        generation = replace(WARM, seed=seed)
        text, finish = complete(embedded, PROMPT, generation)
        if finish.reason == "length" and len(set(text)) > 6 and text.isascii():
            return generation, text
    pytest.fail("no such seed")


def test_what_may_become_a_stop_text_and_does_not_is_shown(
    embedded: EmbeddedBackend, seeded: tuple[Generation, str]
) -> None:
    """llama.cpp, when streaming, drops it if the answer ends at its length."""
    generation, whole = seeded
    for i in range(len(whole)):
        text, finish = complete(embedded, PROMPT, with_stops(generation, f"{whole[i:]}ZZ"))
        assert (text, finish.reason) == (whole, "length")
        assert (finish.prompt_tokens, finish.completion_tokens) == (count(embedded, PROMPT), 12)


def test_a_stop_text_ends_the_answer_where_llama_cpp_ends_it(
    tiny: Tiny, embedded: EmbeddedBackend, seeded: tuple[Generation, str]
) -> None:
    """Without streaming, llama.cpp does it right: it decides about text, reason and counts."""
    generation, whole = seeded
    with Llama(tiny.path, CONTEXT) as llama:
        for i in range(len(whole) - 2):
            stops = [f"{whole[i:]}ZZ", whole[i : i + 3], whole[i + 1 : i + 4]]
            body = {"prompt": PROMPT, "n_predict": 12, "stop": stops}
            expected = llama.post("/completion", body | generation.sampling())
            assert expected["stop_type"] == "word"
            text, finish = complete(embedded, PROMPT, with_stops(generation, *stops))
            assert (text, finish.reason) == (expected["content"], "stop")
            assert finish.prompt_tokens == expected["tokens_evaluated"]
            assert finish.completion_tokens == expected["tokens_predicted"]


def test_characters_of_several_tokens_come_out_whole(embedded: EmbeddedBackend) -> None:
    answers = []
    for seed in range(5):
        hot = replace(HOT, temperature=5.0, max_tokens=40, seed=seed)
        answers.append("".join(pieces(embedded, "é", hot)))
        # Half of a character would raise
        assert all(piece.encode("utf-8") for piece in pieces(embedded, "é", hot))
    # Otherwise this would prove nothing
    assert not "".join(answers).isascii()


def test_a_backend_that_got_no_request_stops_too(tiny: Tiny) -> None:
    for _ in range(5):
        before = children(os.getpid())
        with opened(tiny.path, 64):
            (process,) = set(children(os.getpid())).difference(before)
        assert not is_alive(process)


def test_a_backend_that_is_closed_is_one_clear_error(tiny: Tiny) -> None:
    with opened(tiny.path, 64) as backend:
        pass
    with pytest.raises(BackendError, match=r"^llama\.cpp does not answer to /completion .*\?$"):
        complete(backend, "x")


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_an_answer_that_is_ended_early_leaves_the_backend_ready(
    tiny: Tiny, is_cancelled: bool
) -> None:
    async def read_one(backend: EmbeddedBackend) -> None:
        async with aclosing(backend.stream("The", endless)) as stream:
            await anext(stream)
            if is_cancelled:
                asyncio.get_running_loop().call_soon(task.cancel)
                await asyncio.sleep(20)

    async def end_early(backend: EmbeddedBackend) -> None:
        nonlocal task
        task = asyncio.create_task(read_one(backend))
        await asyncio.wait({task})
        assert task.cancelled() is is_cancelled

    task: asyncio.Task[None]
    endless = replace(GENERATION, max_tokens=CONTEXT - 5)
    with opened(tiny.path) as backend:
        for _ in range(3):
            run(end_early(backend))
        assert pieces(backend, "The", replace(GENERATION, max_tokens=5))


def test_a_prompt_beyond_the_context_is_refused_not_cut(embedded: EmbeddedBackend) -> None:
    with pytest.raises(BackendError, match="exceeds the available context size"):
        complete(embedded, "x " * 300)


def test_a_broken_file_never_reaches_llama_cpp(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for content in (b"no model", tiny.path.read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.gguf is (not a GGUF file|a damaged GGUF file)"):
            EmbeddedBackend(path, 64)


def test_a_file_that_llama_cpp_refuses_is_one_line(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(tiny.path.read_bytes().replace(b"blk.1.ffn_up.bias", b"blk.1.ffn_xx.bias"))
    with pytest.raises(UserError, match=r"^[^\n]*a\.gguf is refused by llama\.cpp[^\n]*$"):
        EmbeddedBackend(path, 64)


@pytest.mark.parametrize("end", [EOS, USER])
def test_an_answer_ends_with_the_turn(tiny: Tiny, tmp_path: Path, end: int) -> None:
    """The model says nothing but `end`. A base model has no turns, so [USER] ends nothing there."""
    model = gguf_model.gpt(tied=False)
    # The next token no longer depends on the text before
    model.norm.weight.zero_()
    model.norm.bias.fill_(1.0)
    model.head.weight.zero_()
    model.head.weight[end] = 1.0
    tokenizer = tiny.tokenizer_folder / "tokenizer.json"
    for chat in (CHAT, None):
        path = tmp_path / f"{chat is None}.gguf"
        gguf.write(replace(of_model(model), chat=chat), tokenizer, path, "f16", gguf_model.CONFIG)
        with opened(path, CONTEXT) as backend:
            text, finish = complete(backend, "[USER]Hi[ASSISTANT]", GENERATION)
        ends = end == EOS or chat is not None
        assert (text, finish.reason) == ("", "stop" if ends else "length")
