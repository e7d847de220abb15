"""The verdict on real and on broken English, and the figures and the page of samples."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from antimatter.data.special_tokens import EOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation import coherence
from antimatter.evaluation.coherence import Sample
from antimatter.evaluation.config import CoherenceConfig
from antimatter.model.gpt import GPT

CONFIG = CoherenceConfig(temperature=0.7, top_k=40, top_p=0.9, max_new_tokens=8, seeds=(1, 2))

# Real English: our own pages, and the licence, without their code, tables and headings.
PAGES = [
    Path("LICENSE"),
    Path("README.md"),
    Path("CONTRIBUTING.md"),
    *sorted(Path("docs").glob("**/*.md")),
]
PARAGRAPHS = [
    text
    for page in PAGES
    for text in page.read_text(encoding="utf-8").split("\n\n")
    if len(text.split()) >= 40 and not {"|", "```", "    ", "- "} & {text[:n] for n in (1, 2, 3, 4)}
]
KNOWN = frozenset(word for text in PARAGRAPHS for word in coherence.WORD.findall(text.lower()))
SENTENCE = (
    "The keeper of the lighthouse went down to the shore, and he found a small boat that was full "
    "of water and old rope."
)
WORDS = KNOWN | frozenset(coherence.WORD.findall(SENTENCE.lower()))


def test_real_english_is_fluent() -> None:
    assert len(PARAGRAPHS) > 50
    verdicts = [coherence.judge(text, KNOWN) for text in PARAGRAPHS]
    assert verdicts.count("fluent") >= 0.97 * len(PARAGRAPHS)
    # Long texts repeat themselves more, which is why windows are judged
    assert coherence.judge("\n\n".join(PARAGRAPHS[:20]), KNOWN) == "fluent"


@pytest.mark.parametrize(
    ("phrase", "times"), [(1, 10), (2, 6), (3, 4), (5, 4), (8, 3), (12, 3), (24, 3)]
)
def test_a_loop_at_the_end_of_good_english_is_looping(phrase: int, times: int) -> None:
    words = SENTENCE.split()
    looping = " ".join([*words, *(words[:phrase] * times)])
    assert coherence.judge(SENTENCE, WORDS) == "fluent"
    assert coherence.judge(looping, WORDS) == "looping"
    # After a thousand words too
    assert coherence.judge(f"{' '.join(PARAGRAPHS[:9])} {looping}", WORDS) == "looping"


def test_going_round_in_circles_without_an_exact_loop_is_looping() -> None:
    text = (
        "Returns the value of the value. Return the value of the input value. If the value is the "
        "value, the values are the input of the value."
    )
    assert coherence.judge(text, frozenset(coherence.WORD.findall(text.lower()))) == "looping"


def test_invented_words_and_word_salad_are_broken() -> None:
    invented = SENTENCE.replace("keeper", "kemper").replace("boat", "bofe")
    invented = invented.replace("shore", "shume")
    assert coherence.judge(invented, WORDS) == "broken"
    salad = "He saw the of a house with and the is in from. The and it went of to the sea with an."
    assert coherence.judge(salad, WORDS | {"saw", "house", "sea"}) == "broken"
    shuffled = random.Random(0).sample(" ".join(PARAGRAPHS).split(), 3000)
    texts = [" ".join(shuffled[i : i + 100]) for i in range(0, 3000, 100)]
    verdicts = [coherence.judge(text, KNOWN) for text in texts]
    assert verdicts.count("broken") >= 0.5 * len(verdicts)


def test_a_few_words_are_too_short_to_judge() -> None:
    assert coherence.judge("", WORDS) == coherence.judge("blue.", WORDS) == "short"
    assert coherence.judge(" ".join(SENTENCE.split()[:10]), WORDS) == "fluent"


def test_people_say_very_very_and_a_list_may_name_a_thing_often() -> None:
    text = SENTENCE.replace("small", "very, very, very small")
    assert coherence.judge(text, WORDS | {"very"}) == "fluent"


def test_the_words_of_train_are_known(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ("return the Action", "never seen")
    ids = [np.array([1, *tokenizer.encode(text), 2], np.uint16) for text in texts]
    assert coherence.lexicon(ids, tokenizer) == {"return", "the", "action", "never", "seen"}
    monkeypatch.setattr(coherence, "LEXICON", len(ids[0]))
    assert coherence.lexicon(ids, tokenizer) == {"return", "the", "action"}


def test_each_seed_has_its_own_draw(model: GPT, tokenizer: Tokenizer) -> None:
    prompts = [("k", "import os"), ("k", "return")]
    both = coherence.sample(model, tokenizer, prompts, CONFIG, frozenset())
    assert [(item.prompt, item.seed) for item in both] == [
        ("import os", 1),
        ("import os", 2),
        ("return", 1),
        ("return", 2),
    ]
    assert both[0].ids != both[1].ids and all(item.verdict == "short" for item in both)
    second = replace(CONFIG, seeds=(2,))
    assert coherence.sample(model, tokenizer, prompts[1:], second, frozenset()) == both[3:]


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)])
def test_bad_seeds_are_refused(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"seeds must be .*, got \["):
        replace(CONFIG, seeds=seeds)


def test_figures_at_points_worked_out_by_hand() -> None:
    # 4-grams: abab, baba, abab -> one of three repeats
    looping = Sample("k", "p", 1, "a b a b a b", [10, 11, 10, 11, 10, 11], "looping")
    # Two 4-grams, both new
    fluent = Sample("k", "p", 1, "c d e f", [12, 13, 14, 15, EOS], "fluent")
    result = coherence.summary([looping, fluent])
    assert result["repetition"] == pytest.approx((1 / 3 + 0) / 2)
    assert result["distinct_1"] == pytest.approx(6 / 10)
    # Ab, ba, cd, de, ef of five and three pairs
    assert result["distinct_2"] == pytest.approx(5 / 8)
    assert result["ended"] == result["fluent"] == result["looping"] == 0.5
    assert result["broken"] == result["short"] == 0 and "spread" not in result


def test_the_mean_over_seeds_comes_with_their_spread() -> None:
    verdicts = {1: ("fluent", "fluent"), 2: ("fluent", "looping"), 3: ("looping", "short")}
    samples = [
        Sample("k", "p", seed, "x y", [5, 6], verdict)  # type: ignore[arg-type]
        for seed, both in verdicts.items()
        for verdict in both
    ]
    result = coherence.summary(samples)
    assert [result["seeds"][seed]["fluent"] for seed in ("1", "2", "3")] == [1.0, 0.5, 0.0]
    assert (result["fluent"], result["spread"]["fluent"]) == (0.5, 0.5)
    assert sum(result[verdict] for verdict in coherence.VERDICTS) == pytest.approx(1)


def test_a_prompt_is_a_line_under_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeff# Logic\nOne\n\nTwo\n# Creative\nThree\n")
    assert coherence.read_prompts(path) == [
        ("Logic", "One"),
        ("Logic", "Two"),
        ("Creative", "Three"),
    ]


def test_the_projects_own_prompts_are_of_three_kinds() -> None:
    kinds = [kind for kind, _ in coherence.read_prompts(Path("prompts/coherence.txt"))]
    assert set(kinds) == {"Logic", "Creative", "Technical"}
    assert min(map(kinds.count, set(kinds))) >= 4


def test_the_page_has_each_sample_under_its_kind_and_prompt() -> None:
    samples = [
        Sample("Logic", "Why", 1, "Because.", [5, EOS], "short"),
        Sample("Logic", "Why", 1, "Why not?", [5], "short"),
        Sample("Other", "Why", 2, "It is.", [5], "short"),
    ]
    about, content = coherence.page(samples, CONFIG)
    assert "seeds 1, 2" in about[0] and "± spread" in about[1]
    caption = "seed 1, short, repetition 0.00"
    assert content["samples"] == {
        "Logic": {"Why": {caption: "Because. ∎", f"{caption} (2)": "Why not?"}},
        "Other": {"Why": {"seed 2, short, repetition 0.00": "It is."}},
    }
    lines = content["figures"].splitlines()
    assert [line.split()[0] for line in lines] == ["kind", "all", "Logic", "Other"]
