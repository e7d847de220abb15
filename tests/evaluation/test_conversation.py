"""Measures on planted answers, and the whole stage on untrained models."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import gguf_model

from antimatter import files, params
from antimatter.chat import held_out, template
from antimatter.chat.conversation import Conversation
from antimatter.chat.template import Message
from antimatter.data.special_tokens import BOS, EOS, USER
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import answers, conversation, conversation_page, next_turn, scripts
from antimatter.evaluation.answers import Answer, Prompt
from antimatter.evaluation.config import AnswersConfig
from antimatter.evaluation.next_turn import Choice
from antimatter.evaluation.scripts import Script
from antimatter.model import weights
from antimatter.model.config import Sampling
from antimatter.model.gpt import GPT
from antimatter.model.sampling import generate, probabilities
from stages import answers as stage

CONFIG = AnswersConfig(
    seeds=(1, 2),
    temperature=0.7,
    top_k=40,
    top_p=0.9,
    max_new_tokens=6,
    items=3,
    choices=3,
    system="",
)


def talk(*texts: str, **values: object) -> Conversation:
    """A user and an assistant in turn."""
    roles = ("user", "assistant") * len(texts)
    messages = tuple(Message(role, text) for role, text in zip(roles, texts, strict=False))
    conversation = Conversation("1", "somewhere", "open", messages, "MIT")
    return replace(conversation, **values)  # type: ignore[arg-type]


def answer(text: str, *ids: int) -> Answer:
    return Answer(text, ids)


def every_kind() -> list[Conversation]:
    """A few conversations of each kind, and enough open ones to choose among."""
    identity, thanks = {"part": "identity"}, {"part": "thanks"}
    who = {"source": "persona", "kind": "persona", "expected": ("antimatter",)}
    text = "depth: How deep. What does"
    docs = {"source": "documentation"}
    recall = {**docs, "kind": "recall", "more": {"name": "find_action"}}
    return [
        *(talk("Who?", "Antimatter.", id=f"w{i}", more=identity, **who) for i in range(4)),
        talk("Thanks!", "Bye.", id="t", more=thanks, **{**who, "expected": ("bye",)}),
        *(talk(f"Hello {i}", f"Well {i * i}", "And?", f"Yes {i}", id=f"o{i}") for i in range(5)),
        *(talk(f"What {i}?", "It finds it.", id=f"q{i}", **recall) for i in range(2)),
        talk("What else?", "It finds it.", id="u", **{**recall, "kind": "question"}),
        talk(f"{text} depth mean?", "How deep.", id="g", kind="grounded", expected=("how deep.",)),
        talk(f"{text} x mean?", "The text does not say.", id="r", kind="refusal", **docs),
        talk("The garden", "Beans grow there.", id="p", kind="passage"),
    ]


# ---- the file


def test_a_file_gives_back_the_conversations_that_were_written(tmp_path: Path) -> None:
    odd = talk("a\u2028b\nc", "é [EOS]", group="g", held_out=True, topic="t", more={"n": 1})
    conversations = [*every_kind(), odd]
    held_out.write(tmp_path / "x.jsonl", conversations)
    assert held_out.read(tmp_path / "x.jsonl") == conversations


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"messages": [], "expected": []}'])
def test_a_line_that_is_not_a_conversation_is_named(tmp_path: Path, line: str) -> None:
    held_out.write(tmp_path / "x.jsonl", every_kind()[:1])
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2 .* `dvc repro conversations`"):
        held_out.read(tmp_path / "x.jsonl")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.jsonl is missing: run `dvc repro"):
        held_out.read(tmp_path / "x.jsonl")


# ---- answers


def test_many_prompts_have_the_answers_that_each_has_alone(
    model: GPT,
    tokenizer: Tokenizer,
) -> None:
    lengths = (1, 40, 7, 59, 63, 20, 2)
    prompts = [tuple((i * 37 + j * j) % 390 + 6 for j in range(n)) for i, n in enumerate(lengths)]
    sampling = answers.greedy(9)
    together = answers.ask(model, tokenizer, [Prompt(ids) for ids in prompts], sampling)
    for prompt, given in zip(prompts, together, strict=True):
        room = min(9, model.config.block_size - len(prompt))
        alone = replace(sampling, max_new_tokens=room)
        (ids,) = generate(model, [*prompt], 1, alone, EOS, torch.Generator())
        assert given.ids == tuple(ids)


def test_a_draw_depends_on_prompt_and_seed_alone(model: GPT, tokenizer: Tokenizer) -> None:
    prompts = [Prompt((BOS, 20, *range(30, 30 + n)), seed) for n in (1, 5, 9) for seed in (1, 2)]
    together = answers.ask(model, tokenizer, prompts, CONFIG)
    alone = [answers.ask(model, tokenizer, [prompt], CONFIG)[0] for prompt in prompts]
    assert together == alone and len(set(together)) > 3


def test_tokens_are_drawn_with_their_probabilities() -> None:
    logits = torch.tensor([0.3, 2.0, -1.0, 1.5, 0.1])
    sampling = Sampling(temperature=0.8, top_k=3, top_p=0.95, max_new_tokens=1)
    noise = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn = answers._draw(logits.expand(1000, 5), sampling, noise)
    shares = torch.bincount(drawn, minlength=5) / 1000
    expected = probabilities(logits, sampling)
    assert shares.tolist() == pytest.approx(expected.tolist(), abs=0.002)


def test_a_prompt_loses_its_oldest_turns_and_never_its_system_text(tokenizer: Tokenizer) -> None:
    turns = talk(*(f"turn {i}" for i in range(9))).messages
    messages = answers.with_system(turns, "be kind")
    whole = template.prompt_tokens(messages, tokenizer)
    least = template.prompt_tokens([messages[0], messages[-1]], tokenizer)

    def prompt(context: int) -> list[int]:
        return [*answers.prompt_ids(messages, tokenizer, context, 8)]

    assert prompt(len(whole) + 8) == whole
    shorter = prompt(len(whole) + 7)
    assert shorter == template.prompt_tokens([messages[0], *messages[3:]], tokenizer)
    assert prompt(len(least) + 1) == least
    assert prompt(len(least)) == [BOS, *least[-(len(least) // 2) :]]


@pytest.mark.parametrize(
    ("given", "ended", "looping", "leaves"),
    [
        (answer("I am well.", 9, EOS), True, False, False),
        (answer("I am well.", 9, 10), False, False, False),
        (answer("I am I am I am", 9), False, True, False),
        (answer("It is very, very, very good.", 9), False, False, False),
        (answer("Fine. Hello!", 9, USER, 9, EOS), True, False, True),
        (answer("Fine. [USER] Hello!", 9, EOS), True, False, True),
    ],
)
def test_the_form_of_an_answer(given: Answer, ended: bool, looping: bool, leaves: bool) -> None:
    assert given.has_ended() == ended
    assert given.is_looping() == looping
    assert given.leaves_role() == leaves
    figures = conversation.form_figures([given, answer("Yes.", 9, EOS)])
    shares = [figures[name]["share"] for name in ("ended", "looping", "leaves_role")]
    assert shares == [(1 + ended) / 2, looping / 2, leaves / 2]


# ---- measures


def test_words_of_names_and_texts_are_compared_by_content() -> None:
    words = conversation.content_words("It finds HTTPServer nodes of the graph_of_nodes, getItem")
    assert sorted(words.elements()) == "finds get graph http item nodes nodes server".split()
    assert conversation.f1("find_nodes", "It finds the nodes.") == 2 * 1 / (2 + 2)
    assert conversation.f1("nodes nodes nodes", "It finds the nodes.") == 2 * 1 / (3 + 2)
    assert conversation.f1("", "It.") == 0


def test_planted_answers_have_the_figures_that_are_computed_by_hand() -> None:
    # Identity, two of four right, and a right good-bye
    texts = ["I am ANTIMATTER!", "I am a student.", "  antimatter", "", "Good bye", *"-----"]
    # Two of documentation: all content words, and some of another answer
    texts += ["It finds it.", "It walks."]
    # One without a question in training
    texts += ["finds"]
    # Word by word, and a refusal
    texts += ["how  DEEP.", "The text does not say."]
    # A passage, which is judged by its likelihood alone
    texts += ["Beans."]
    figures = conversation.answer_figures(every_kind(), [answer(text, 9) for text in texts])
    shares = {name: one.get("share") for name, one in figures.items()}
    assert shares | {"persona_parts": None} == {
        "identity": 0.5,
        "persona": 0.6,
        "persona_parts": None,
        "grounded": 1.0,
        "refusals": 1.0,
        "wrong_refusals": 0.0,
        "documentation": None,
        "documentation_unseen": None,
    }
    assert figures["persona_parts"]["thanks"]["share"] == 1
    assert figures["identity"]["items"] == 4
    documentation = figures["documentation"]
    assert (documentation["f1"], documentation["name_f1"], documentation["gain"]) == (0.5, 0, 0.5)
    assert documentation["gain_low"] <= 0.5 <= documentation["gain_high"]
    assert figures["documentation_unseen"]["f1"] == 1

    always = [answer("the text does not say that", 9)] * len(texts)
    figures = conversation.answer_figures(every_kind(), always)
    assert figures["refusals"]["share"] == figures["wrong_refusals"]["share"] == 1
    assert figures["grounded"]["share"] == 0


def test_a_kind_without_conversations_has_no_figure() -> None:
    assert conversation.answer_figures([talk("a", "b")], [answer("b", 9)]) == {}


# ---- how likely a model finds texts


def nats(model: GPT, ids: Sequence[int]) -> np.ndarray:
    """The loss of each token but the first after those before it."""
    losses = -model(torch.tensor([ids[:-1]])).log_softmax(-1)[0]
    return losses.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].double().numpy()


def test_only_the_turns_of_the_assistant_count(model: GPT, tokenizer: Tokenizer) -> None:
    conversations = [talk("Hello", "Hi"), talk("What is it?", "An action.", "And?", "Nothing é")]
    scores = conversation.likelihood(model, tokenizer, conversations, "be kind")
    for one, score in zip(conversations, scores, strict=True):
        messages = answers.with_system(one.messages, "be kind")
        rendered = template.tokens(messages, tokenizer)
        assert len(rendered.ids) < model.config.block_size
        mask = np.array(rendered.mask[1:])
        assert score.nats == pytest.approx(nats(model, rendered.ids)[mask].sum(), rel=1e-5)
        assert score.tokens == mask.sum()
    assert [score.bytes for score in scores] == [2, 10 + 10]
    figures = conversation.likelihood_figures(conversations, scores)
    bits = sum(score.nats for score in scores) / np.log(2) / 22
    assert figures["all"]["bits_per_byte"] == pytest.approx(bits)
    assert figures["sources"]["somewhere"] == figures["kinds"]["open"] == figures["all"]


def test_a_conversation_longer_than_the_context_counts_whole(
    model: GPT,
    tokenizer: Tokenizer,
) -> None:
    long = talk(*(f"this is the turn number {i}" for i in range(20)))
    rendered = template.tokens(long.messages, tokenizer)
    assert len(rendered.ids) > 2 * model.config.block_size
    (score,) = conversation.likelihood(model, tokenizer, [long], "")
    assert score.tokens == sum(rendered.mask)


def test_an_ending_is_scored_after_its_conversation_and_alone(
    model: GPT,
    tokenizer: Tokenizer,
) -> None:
    context = talk("Hello").messages
    endings = ("Hi there", "No.", "Action", "What?")
    after, alone = next_turn.score_endings(model, tokenizer, [Choice("open", context, endings)], "")
    for i, text in enumerate(endings):
        ids = [*tokenizer.encode(text), EOS]
        for costs, before in ((after, context), (alone, ())):
            prompt = template.prompt_tokens(before, tokenizer)
            expected = nats(model, [*prompt, *ids])[-len(ids) :].sum()
            assert costs[0, i] == pytest.approx(expected, rel=1e-5)


def test_the_conversation_must_speak_for_the_right_ending() -> None:
    texts = ("four", "four", "four", "fo")
    choices = [Choice(kind, (), texts) for kind in ("open", "open", "persona")]
    after = np.array([[8.0, 9, 9, 9], [8, 9, 9, 3], [8, 8, 9, 9]])
    alone = np.array([[9.0, 9, 9, 9], [9, 9, 9, 3.5], [9, 9, 9, 9]])
    figures = next_turn.figures(choices, after, alone)
    # Gains of 1 against 0; 1 against 0.5, though the other is likelier; a tie, which is wrong
    assert figures["share"] == pytest.approx(2 / 3)
    kinds = {kind: own["share"] for kind, own in figures["kinds"].items()}
    assert kinds == {"open": 1.0, "persona": 0.0}
    # 2 a byte against 2.25; against 1.5; a tie
    assert figures["per_byte"] == pytest.approx(1 / 3)


def test_wrong_endings_are_other_texts_of_other_conversations() -> None:
    pairs = [(f"Answer {i}!", f"g{i // 2}") for i in range(12)]
    conversations = [
        *(talk("Hi", text, "?", "Yes.", id=text, group=group) for text, group in pairs),
        talk("Hi", "A much longer answer than any of the others here", id="long"),
        talk("Who?", "Antimatter", kind="persona"),
    ]
    choices = next_turn.choices(conversations, 100)
    assert len(choices) == 25
    groups = {one.messages[1].text: one.group for one in conversations}
    for choice in choices:
        assert len(set(map(str.lower, choice.endings))) == 4 and "Antimatter" not in choice.endings
        own = groups.get(choice.endings[0])
        assert own is None or own not in [groups.get(text) for text in choice.endings[1:]]
        assert choice.context[-1].role == "user"
    assert next_turn.choices(conversations[::-1], 5) == choices[:5]
    assert next_turn.choices(conversations[:6], 5) != []
    assert next_turn.choices(conversations[:2], 5) == []


def test_a_right_answer_to_the_same_topic_is_never_a_wrong_ending() -> None:
    topics = [f"t{i // 3}" for i in range(15)]
    conversations = []
    for i, topic in enumerate(topics):
        turns = ("Hello", "Hi", f"Question {i}?", f"Answer {i}!")
        conversations.append(talk(*turns, id=f"{i}", kind="persona", topic=topic))
    choices = next_turn.choices(conversations, 100)
    # The last turn of each, and not the greeting before it
    assert len(choices) == 15 and {choice.kind for choice in choices} == {"persona"}
    for choice in choices:
        right, *wrong = (topics[int(text[7:-1])] for text in choice.endings)
        assert right not in wrong


def test_a_model_that_knows_nothing_guesses(model: GPT, tokenizer: Tokenizer) -> None:
    words = gguf_model.TEXT.split()
    pieces = [" ".join(words[i : i + 5]) for i in range(0, 600, 5)]
    pairs = zip(pieces[::2], pieces[1::2], strict=True)
    choices = next_turn.choices([talk(*pair, id=pair[0]) for pair in pairs], 60)
    figures = next_turn.figures(choices, *next_turn.score_endings(model, tokenizer, choices, ""))
    assert figures["items"] == 60 and figures["low"] < 1 / next_turn.ENDINGS < figures["high"]


# ---- all of it


def test_the_same_conversations_are_chosen_in_any_order() -> None:
    everything = every_kind()
    chosen = conversation.choose(everything, 3)
    assert conversation.choose(everything[::-1], 3) == chosen
    counts: dict[tuple[str, str], int] = {}
    for one in chosen:
        counts[conversation.category(one)] = counts.get(conversation.category(one), 0) + 1
    assert counts[("persona", "identity")] == counts[("open", "")] == 3
    assert counts[("persona", "thanks")] == counts[("grounded", "")] == 1


def test_a_model_reads_its_own_answers_before_the_next_turn(
    model: GPT,
    tokenizer: Tokenizer,
) -> None:
    script = Script("s", ("Hello", "And?"))
    transcripts = scripts.talk(model, tokenizer, [script, Script("t", ("Hi",))], CONFIG)
    keys = [(one.script.name, one.seed, len(one.answers)) for one in transcripts]
    assert keys == [("s", 1, 2), ("s", 2, 2), ("t", 1, 1), ("t", 2, 1)]
    first, second = transcripts[1].answers
    ids = template.prompt_tokens(talk("Hello", first.text, "And?").messages, tokenizer)
    assert [second] == answers.ask(model, tokenizer, [Prompt(tuple(ids), 2)], CONFIG)


def test_the_prompts_are_conversations_of_four_turns_and_more() -> None:
    own = scripts.read(Path("prompts/conversation.txt"))
    assert len(own) == 8 and all(len(script.turns) >= 4 for script in own)
    assert own[0].turns[0] == "Hello! Who are you?" and own[0].turns[-1] == "Thanks, bye!"


@pytest.mark.parametrize(
    ("key", "value"), [("items", 0), ("choices", 0), ("seeds", ()), ("temperature", -1)]
)
def test_values_that_make_no_sense_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        replace(CONFIG, **{key: value})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def ran(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stage has run."""
    folder = tmp_path_factory.mktemp("answers")
    held_out.write(folder / "conversations" / held_out.NAME, every_kind())
    weights.save(gguf_model.gpt(seed=2), folder / "tuned")
    (folder / "prompts.txt").write_text("# A greeting\nHello\nAnd?\n")
    values = {"answers": CONFIG.__dict__ | {"seeds": [1, 2]}, "runtime": {"device": "cpu"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    run(project, folder, "one")
    return folder


def run(project: Path, folder: Path, name: str) -> None:
    inputs = project / "data" / "tokenizer", project / "models" / "checkpoints", folder / "tuned"
    outputs = folder / name / "metrics", folder / name / "plots"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stage.main(folder / "conversations", *inputs, folder / "prompts.txt", *outputs)


def test_the_stage_writes_the_same_bytes_again(ran: Path, project: Path) -> None:
    run(project, ran, "two")
    written = {path.relative_to(ran / "one") for path in (ran / "one").rglob("*.*")}
    names = "conversations.yaml details.json shares.csv summary.json"
    assert sorted(path.name for path in written) == names.split()
    for path in written:
        assert (ran / "one" / path).read_bytes() == (ran / "two" / path).read_bytes()


def test_base_and_tuned_have_the_same_figures_side_by_side(ran: Path) -> None:
    figures = files.read_json(ran / "one/metrics/details.json")
    assert list(figures) == ["tuned", "base"]
    assert list(figures["tuned"]) == list(figures["base"])
    assert figures["tuned"]["greedy"]["ended"]["items"] == 3 + 1 + 3 + 1 + 2 + 1 + 1 + 1
    # Three open conversations and a script of two turns, with two seeds each
    assert figures["tuned"]["sampled"]["ended"]["items"] == 2 * 3 + 2 * 2
    bits = [figures[name]["likelihood"]["all"]["bits_per_byte"] for name in figures]
    assert bits[0] != bits[1]
    table = (ran / "one/plots/shares.csv").read_text().splitlines()
    assert table[0] == ",".join(conversation_page.HEADER)
    assert len(table) == 1 + len(conversation_page.MEASURES)


def test_the_page_holds_every_script_and_some_of_each_kind(ran: Path) -> None:
    page = params.load(ran / "one/metrics/conversations.yaml")
    names = ["tuned, seed 1", "base, seed 1", "tuned, seed 2", "base, seed 2"]
    assert list(page["conversations"]["A greeting"]) == names
    assert {kind.split()[0] for kind in page["held_out"]} == set(conversation.KINDS)
    shown = [text for texts in page["held_out"].values() for text in texts.values()]
    assert len(shown) == 2 + 1 + 2 + 1 + 2 + 1 + 1 + 1
    for text in shown:
        assert re.search("^> .*^expected: .*^tuned: .*^base: ", text, re.DOTALL | re.MULTILINE)


def test_the_summary_has_two_of_the_figures(ran: Path) -> None:
    figures = files.read_json(ran / "one/metrics/details.json")["tuned"]
    summary = files.read_json(ran / "one/metrics/summary.json")
    assert summary == {name: figures[name]["share"] for name in ("next_turn", "persona")}


def test_identity_can_be_asked_alone(ran: Path, model: GPT, tokenizer: Tokenizer) -> None:
    everything = every_kind()
    assert conversation.identity(model, tokenizer, everything, max_new_tokens=6) == (0, 4)
    # Any answer contains the empty text
    easy = [replace(one, expected=("",)) for one in everything]
    assert conversation.identity(model, tokenizer, easy, max_new_tokens=6) == (4, 4)


def test_a_model_of_another_vocabulary_is_refused(ran: Path, project: Path) -> None:
    config = gguf_model.gpt().config
    weights.save(GPT(replace(config, vocab_size=401)), ran / "other" / "tuned")
    held_out.write(ran / "other" / "conversations" / held_out.NAME, every_kind())
    for name in ("params.yaml", "prompts.txt"):
        (ran / "other" / name).write_bytes((ran / name).read_bytes())
    with pytest.raises(ValueError, match=r"tuned was trained with 401 tokens.* `dvc repro tuned`"):
        run(project, ran / "other", "out")
