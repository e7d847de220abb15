"""OpenAI's API, called by OpenAI's own Python client wherever that can send the request."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from helpers.backends import GENERATION, ScriptedBackend, complete, count
from helpers.http_server import COMPLETE, Served, events, question, serving

from antimatter.llama.header import ChatFacts
from antimatter.serve.embedded import EmbeddedBackend

TEXT = "The function returns"
ASKED: list[Any] = [{"role": "user", "content": TEXT}]
HOT: dict[str, Any] = {"temperature": 2, "top_p": 1, "max_tokens": 8}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{served.port}/v1", api_key="none") as client:
        yield client


@pytest.fixture
def scripted() -> Iterator[tuple[ScriptedBackend, openai.OpenAI]]:
    """A backend that keeps its prompts, behind a client of its own."""
    backend = ScriptedBackend(piece=" x", repeats=2, chat=ChatFacts("Be kind.", "Hello!", ()))
    with serving(backend) as served:
        url = f"http://127.0.0.1:{served.port}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            yield backend, client


def test_an_empty_prompt_is_for_base_models(
    scripted: tuple[ScriptedBackend, openai.OpenAI], client: openai.OpenAI
) -> None:
    """A chat model repeats [BOS] there, which is no text."""
    backend, chat = scripted
    empty: list[Any] = ["", ["Hello", ""]]
    for prompt in empty:
        with pytest.raises(openai.BadRequestError, match=r"empty.*: write the beg") as caught:
            chat.completions.create(model="antimatter", prompt=prompt)
        assert caught.value.param == "prompt"
    assert not backend.prompts
    answer = client.completions.create(model="antimatter", prompt="", temperature=0)
    assert answer.choices[0].text


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert model.id == "antimatter"
    for name in ("antimatter", "antimatter:latest"):
        assert client.models.retrieve(name) == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-5")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_an_answer_is_that_of_the_backend_streamed_or_not(
    client: openai.OpenAI, embedded: EmbeddedBackend
) -> None:
    expected, _ = complete(embedded, TEXT)
    asked: dict[str, Any] = {"model": "antimatter", "messages": ASKED}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == expected
    options = {"include_usage": True}
    *chunks, last = client.chat.completions.create(**asked, stream=True, stream_options=options)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert (last.choices, last.usage) == ([], whole.usage)
    with client.chat.completions.stream(**asked) as stream:
        (choice,) = stream.until_done().current_completion_snapshot.choices
        assert choice.message.content == expected


def test_the_asynchronous_client_gets_the_same(served: Served, embedded: EmbeddedBackend) -> None:
    async def ask() -> str:
        url = f"http://127.0.0.1:{served.port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
            chat = client.chat.completions
            stream = await chat.create(model="antimatter", messages=ASKED, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(ask()) == complete(embedded, TEXT)[0]


def test_a_text_is_continued_streamed_or_not(
    client: openai.OpenAI, embedded: EmbeddedBackend
) -> None:
    expected, _ = complete(embedded, TEXT)
    asked: dict[str, Any] = {"model": "antimatter", "prompt": TEXT}
    assert client.completions.create(**asked).choices[0].text == expected
    chunks = client.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected


def test_choice_i_of_a_seed_is_the_answer_to_the_seed_that_is_i_higher(
    client: openai.OpenAI, embedded: EmbeddedBackend
) -> None:
    asked: dict[str, Any] = {"model": "antimatter", "messages": ASKED, **HOT}
    alone = [client.chat.completions.create(**asked, seed=5 + i) for i in range(3)]
    texts = [answer.choices[0].message.content for answer in alone]
    assert len(set(texts)) == 3
    answer = client.chat.completions.create(**asked, seed=5, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == texts
    # A prompt counts once
    assert answer.usage and alone[0].usage
    assert answer.usage.prompt_tokens == alone[0].usage.prompt_tokens
    assert answer.usage.completion_tokens == 24
    found = [""] * 3
    for chunk in client.chat.completions.create(**asked, seed=5, n=3, stream=True):
        (choice,) = chunk.choices
        found[choice.index] += choice.delta.content or ""
    assert found == texts


def test_answers_without_a_seed_differ(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="antimatter", messages=ASKED, n=3, **HOT)
    assert len({choice.message.content for choice in answer.choices}) == 3


def test_a_list_of_prompts_has_the_answers_that_each_would_have_alone(
    client: openai.OpenAI, embedded: EmbeddedBackend
) -> None:
    prompts = [TEXT, "A list"]
    alone = [
        complete(embedded, text, replace(GENERATION, max_tokens=6, temperature=2, seed=seed))[0]
        for text in prompts
        for seed in (1, 2)
    ]
    asked: dict[str, Any] = {"model": "antimatter", "prompt": prompts, "max_tokens": 6, "n": 2}
    asked |= {"temperature": 2, "seed": 1}
    answer = client.completions.create(**asked, best_of=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == [*enumerate(alone)]
    assert answer.usage
    assert answer.usage.prompt_tokens == sum(count(embedded, text) for text in prompts)
    assert answer.usage.completion_tokens == 24
    found = [""] * 4
    for chunk in client.completions.create(**asked, stream=True):
        found[chunk.choices[0].index] += chunk.choices[0].text
    assert found == alone
    # As LangChain's OpenAI sends a single one
    one = client.completions.create(model="antimatter", prompt=[TEXT])
    assert one.choices[0].text == complete(embedded, TEXT)[0]


def test_a_stream_of_several_answers_has_one_usage_and_ends_each_once(served: Served) -> None:
    body = {"prompt": ["a", "b"], "max_tokens": 2, "stream_options": {"include_usage": True}}
    with served.stream(body, COMPLETE) as lines:
        (*chunks, last, done), _ = events(lines)
    assert done == "[DONE]" and last["choices"] == [] and last["usage"]["completion_tokens"] == 4
    ends = [
        chunk["choices"][0]["index"] for chunk in chunks if chunk["choices"][0]["finish_reason"]
    ]
    assert ends == [0, 1]


def test_other_forms_of_a_conversation_make_the_same_prompt(
    scripted: tuple[ScriptedBackend, openai.OpenAI],
) -> None:
    backend, client = scripted
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": " there"}]
    brief = {"role": "system", "content": "Be brief."}
    plain = [brief, {"role": "user", "content": "Hi there"}]
    for messages in (
        [brief, {"role": "user", "content": parts}],
        [{**brief, "role": "developer"}, plain[1]],
        [brief, {**plain[1], "name": "ann"}],
        [{**brief, "content": [{"type": "text", "text": "Be brief."}]}, plain[1]],
        plain,
    ):
        client.chat.completions.create(model="antimatter", messages=messages)
    assert set(backend.prompts) == {"[SYSTEM]Be brief.[USER]Hi there[ASSISTANT]"}
    assert len(backend.prompts) == 5


def test_an_answer_can_be_sent_back_as_the_client_has_it(
    scripted: tuple[ScriptedBackend, openai.OpenAI],
) -> None:
    backend, client = scripted
    answer = client.chat.completions.create(model="antimatter", messages=ASKED).choices[0].message
    for message in (answer, answer.model_dump(), {"role": "assistant", "content": None}):
        messages = [*ASKED, message, {"role": "user", "content": "And?"}]
        client.chat.completions.create(model="antimatter", messages=messages)
    begin, end = f"[SYSTEM]Be kind.[USER]{TEXT}[ASSISTANT]", "[EOS][USER]And?[ASSISTANT]"
    assert backend.prompts[1:] == [f"{begin}x x{end}"] * 2 + [f"{begin}{end}"]


def test_every_option_of_sampling_reaches_the_backend(
    scripted: tuple[ScriptedBackend, openai.OpenAI],
) -> None:
    backend, client = scripted
    own = {"top_k": 0, "min_p": 0.1, "typical_p": 0.9, "repeat_penalty": 1.2, "repeat_last_n": 9}
    client.chat.completions.create(
        model="antimatter",
        messages=ASKED,
        temperature=0.3,
        top_p=0.4,
        presence_penalty=0.5,
        frequency_penalty=-0.6,
        max_tokens=7,
        max_completion_tokens=7,
        seed=3,
        stop=["a", "", "b"],
        extra_body=own,
    )
    client.chat.completions.create(
        model="antimatter", messages=ASKED, extra_body={"top_k": -1, "repeat_last_n": -1}
    )
    first, second = backend.generations
    given = {"temperature": 0.3, "top_p": 0.4, "presence_penalty": 0.5, "frequency_penalty": -0.6}
    assert vars(first).items() >= (own | given | {"max_tokens": 7, "seed": 3}).items()
    assert first.stop == ("[EOS]", "a", "b")
    # As many tokens as the model can read
    assert (second.top_k, second.repeat_last_n) == (0, backend.n_ctx)
    assert second.max_tokens == 20


def test_no_maximum_means_as_many_tokens_as_fit(served: Served) -> None:
    for key in ("max_tokens", "max_completion_tokens"):
        _, answer = served.post(question(stop=["\0never"], **{key: -1}))
        assert answer["usage"]["total_tokens"] == 64


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"messages": [*ASKED, {"role": "tool", "tool_call_id": "1", "content": "3"}]}, "tool"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    client: openai.OpenAI, options: dict[str, Any], word: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=f"{word}.* is not supported"):
        client.chat.completions.create(**{"model": "antimatter", "messages": ASKED} | options)


def test_a_conversation_that_does_not_fit_has_the_code_that_clients_know(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError, match="prompt is too long") as caught:
        client.chat.completions.create(
            model="antimatter", messages=[{"role": "user", "content": "word " * 500}]
        )
    assert caught.value.code == "context_length_exceeded"


def test_a_wrong_token_is_an_authentication_error() -> None:
    with serving(ScriptedBackend(repeats=1), token="a-Token-of-16-chars") as served:
        url = f"http://127.0.0.1:{served.port}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                client.models.list()
            assert caught.value.code == "invalid_api_key"
            right = client.with_options(api_key="a-Token-of-16-chars")
            assert [model.id for model in right.models.list()] == ["antimatter"]


def test_an_unknown_route_is_an_error_in_openais_form(
    served: Served, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/embeddings"):
        client.embeddings.create(model="antimatter", input="x")
    _, _, body = served.request("GET", "/v1/absent")
    assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
