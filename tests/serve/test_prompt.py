import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from helpers.backends import GENERATION, ScriptedBackend, run
from helpers.gguf_model import Tiny

from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.errors import UserError
from antimatter.llama.header import ChatFacts
from antimatter.serve import prompt


def words(messages: Sequence[Message]) -> int:
    return len(template.continued(messages).split()) + 1


Count = Callable[[Sequence[Message]], int]


def fit(messages: Sequence[Message], room: int, count: Count = words) -> list[Message]:
    async def count_async(some: Sequence[Message]) -> int:
        return count(some)

    fitting, n_tokens = run(prompt.fit(messages, room, count_async))
    assert n_tokens == count(fitting)
    return fitting


def test_the_fewest_oldest_turns_are_dropped() -> None:
    system, turns = (
        Message("system", "be kind"),
        [Message("user", f"one two {i}") for i in range(5)],
    )
    messages = [system, *turns]
    assert fit(messages, 18) == messages
    assert fit(messages, 17) == [system, *turns[1:]]
    assert fit(messages, 6) == [system, turns[-1]]
    assert fit(turns, 6) == turns[-1:]


def test_an_answer_is_dropped_with_its_question() -> None:
    turns = [
        Message("user", "a b"),
        Message("assistant", "c d e f"),
        Message("user", "g"),
        Message("assistant", "h"),
        Message("user", "i j"),
    ]
    assert fit(turns, 11) == turns
    # Never turns[1:], though 9 would hold it
    for room in range(5, 11):
        assert fit(turns, room) == turns[2:]
    assert fit(turns, 4) == turns[4:]
    # A last turn stays, whatever its role
    unanswered = [*turns[:3], Message("assistant", "k l")]
    assert fit(unanswered, 3) == unanswered[3:]


def fit_by_trying(messages: list[Message], room: int, count: Count) -> list[Message] | None:
    """What `fit` does, in the plainest way: try every cut from the oldest on."""
    system = [message for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    for start in range(max(len(turns), 1)):
        if start in (0, len(turns) - 1) or turns[start].role == "user":
            rest = [*system, *turns[start:]]
            if count(rest) <= room:
                return rest
    return None


@pytest.mark.parametrize("render", [template.continued, template.prompt])
def test_bisection_finds_the_cut_that_trying_all_finds(tiny: Tiny, render: prompt.Render) -> None:
    """With a tokenizer that merges across the borders of turns, so their counts do not add up."""
    generator = random.Random(2)
    pieces = ["the function", " returns", "\n", "é", "x", "  ", ": int", "[EOS]", ""]
    roles = ["user", "assistant", "user", "assistant", "system"]

    def count(messages: Sequence[Message]) -> int:
        return len(tiny.tokenizer.encode(render(messages))) + 1

    n_cut = 0
    for _ in range(250):
        messages = [
            Message(role, "".join(generator.choices(pieces, k=generator.randint(0, 6))))
            for role in generator.choices(roles, k=generator.randint(0, 12))
        ]
        room = generator.randint(1, 60 if render is template.continued else 120)
        expected = fit_by_trying(messages, room, count)
        if expected is None:
            with pytest.raises(UserError, match="shorten it"):
                fit(messages, room, count)
        else:
            assert fit(messages, room, count) == expected
            n_cut += len(expected) < len(messages)
    assert n_cut > 25


def test_a_thousand_turns_are_cut_with_a_dozen_counts() -> None:
    counted = []

    def count(messages: Sequence[Message]) -> int:
        counted.append(messages)
        return words(messages)

    turns = [Message("user", f"turn {i}") for i in range(1000)]
    assert fit(turns, 101, count) == turns[-50:]
    # One of them by the helper above
    assert len(counted) <= 13


def test_a_last_turn_that_is_too_long_is_an_error_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"has 12 tokens, .* can read 8 .*: shorten it"):
        fit([Message("user", "old"), Message("user", "x " * 11)], 8)


def build(backend: ScriptedBackend, messages: list[Message], max_tokens: int) -> prompt.Prompt:
    generation = replace(GENERATION, max_tokens=max_tokens)
    return run(prompt.build(backend, messages, generation))


def test_room_is_kept_for_the_answer_and_old_turns_are_dropped() -> None:
    messages = [Message("user", f"turn {i} says") for i in range(6)]
    built = build(ScriptedBackend(n_ctx=20), messages, 100)
    # 9 words and [BOS]: half of the context
    assert built.messages == messages[3:]


def test_prompt_and_answer_never_exceed_the_context_and_use_all_of_it_if_asked() -> None:
    generator, n_refused = random.Random(0), 0
    for _ in range(500):
        n_ctx, max_tokens = generator.randint(4, 60), generator.randint(1, 80)
        roles = ("user", "assistant", "user")
        messages = [Message(role, "x " * generator.randint(1, 20)) for role in roles]
        try:
            built = build(ScriptedBackend(n_ctx=n_ctx), messages, max_tokens)
        except UserError:
            n_refused += 1
            continue
        n_prompt = len(built.text.split()) + 1
        assert built.generation.max_tokens == min(max_tokens, n_ctx - n_prompt)
        assert built.generation.max_tokens >= min(max_tokens, n_ctx // 2)
    assert 50 < n_refused < 450


FACTS = ChatFacts("Be kind.", "Hello!", ())


def test_a_text_to_continue_has_no_roles_whatever_the_model_is() -> None:
    backend, messages = ScriptedBackend(chat=FACTS), [Message("user", "one")]
    assert run(prompt.build(backend, messages, GENERATION)).text == "[USER]one[ASSISTANT]"
    built = run(prompt.build(backend, messages, GENERATION, render=template.continued))
    assert built.text == "one"


def test_a_model_gets_its_system_text_unless_the_messages_have_one() -> None:
    question, own = Message("user", "x"), Message("system", "Be brief.")
    assert prompt.prepare([question], FACTS) == [Message("system", "Be kind."), question]
    assert prompt.prepare([own, question], FACTS) == [own, question]
    # An empty text means none
    assert prompt.prepare([Message("system", ""), question], FACTS) == [question]
    for facts in (None, ChatFacts("", "Hello!", ())):
        assert prompt.prepare([question], facts) == [question]


def test_answers_are_as_in_the_tuning_data_and_the_text_of_a_user_stays() -> None:
    messages = [Message("user", " x "), Message("assistant", " y\n"), Message("user", "")]
    prepared = prompt.prepare(messages, ChatFacts("", "", ()))
    assert prepared == [messages[0], Message("assistant", "y"), messages[2]]
    assert prompt.prepare(messages, None) == messages
