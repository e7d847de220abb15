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
from antimatter.report import training

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
SENTENCE = "The keeper of the lighthouse went down to the shore, and he found a small boat that was full of water and old rope."
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
    said = "Returns the value of the value. Return the value of the input value. If the value is the value, the values are the input of the value."
    assert (
        coherence.judge(said, frozenset(said.lower().replace(".", "").replace(",", "").split()))
        == "looping"
    )


def test_invented_words_and_word_salad_are_broken() -> None:
    assert (
        coherence.judge(
            SENTENCE.replace("keeper", "kemper").replace("boat", "bofe").replace("shore", "shume"),
            WORDS,
        )
        == "broken"
    )
    assert (
        coherence.judge(
            "He saw the of a house with and the is in from. The and it went of to the sea with an.",
            WORDS | {"saw", "house", "sea"},
        )
        == "broken"
    )
    shuffled = random.Random(0).sample(" ".join(PARAGRAPHS).split(), 3000)
    verdicts = [
        coherence.judge(" ".join(shuffled[i : i + 100]), KNOWN) for i in range(0, 3000, 100)
    ]
    assert verdicts.count("broken") >= 0.5 * len(verdicts)


def test_a_few_words_are_too_short_to_judge() -> None:
    assert coherence.judge("", WORDS) == coherence.judge("blue.", WORDS) == "short"
    assert coherence.judge(" ".join(SENTENCE.split()[:10]), WORDS) == "fluent"


def test_people_say_very_very_and_a_list_may_name_a_thing_often() -> None:
    assert (
        coherence.judge(SENTENCE.replace("small", "very, very, very small"), WORDS | {"very"})
        == "fluent"
    )


def test_the_words_of_train_are_known(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [
        np.array([1, *tokenizer.encode(text), 2], np.uint16)
        for text in ("return the Action", "never seen")
    ]
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
    assert (
        coherence.sample(model, tokenizer, prompts[1:], replace(CONFIG, seeds=(2,)), frozenset())
        == both[3:]
    )


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)])
def test_seeds_that_are_none_are_refused(seeds: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"seeds must be different whole numbers from 0, at least one, got \["
    ):
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
    result = coherence.summary(
        [
            Sample("k", "p", seed, "x y", [5, 6], verdict)
            for seed, both in verdicts.items()
            for verdict in both
        ]
    )  # type: ignore[arg-type]
    assert [result["seeds"][seed]["fluent"] for seed in ("1", "2", "3")] == [1.0, 0.5, 0.0]
    assert (result["fluent"], result["spread"]["fluent"]) == (0.5, 0.5)
    assert sum(result[verdict] for verdict in coherence.VERDICTS) == pytest.approx(1)


def test_prompts_stand_one_a_line_under_their_kind(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeff# Logic\nOne\n\nTwo\n# Creative\nThree\n")
    assert coherence.read_prompts(path) == [
        ("Logic", "One"),
        ("Logic", "Two"),
        ("Creative", "Three"),
    ]
    path.write_text("# Logic\n")
    with pytest.raises(ValueError, match="holds no prompt"):
        coherence.read_prompts(path)
    with pytest.raises(FileNotFoundError, match=r"none\.txt is missing"):
        coherence.read_prompts(tmp_path / "none.txt")


def test_the_projects_own_prompts_are_of_three_kinds() -> None:
    kinds = [kind for kind, _ in coherence.read_prompts(Path("prompts/coherence.txt"))]
    assert (
        set(kinds) == {"Logic", "Creative", "Technical"} and min(map(kinds.count, set(kinds))) >= 4
    )


def test_text_of_the_model_cannot_become_markup() -> None:
    page = coherence.markdown(
        [Sample("Logic", "Why", 1, "~~~\n# A heading\n~~~~ <b>", [5, EOS], "short")], CONFIG
    )
    assert page.count("~~~~~text") == 1  # longer than any fence inside
    assert "∎" in page and "**Why**" in page and "\nSeed 1: short, repetition 0.00\n" in page


def test_the_picture_of_the_curves_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    (tmp_path / "training.csv").write_text(
        "step,loss,learning_rate,gradient_norm\n1,5.0,1e-3,1\n2,4.0,1e-3,1\n"
    )
    (tmp_path / "validation.csv").write_text("step,loss\n0,6.0\n2,4.5\n")
    (tmp_path / "bins.csv").write_text(
        "at_most,vocabulary,tokens,loss,perplexity\n3,3,5,6.9,1000\n15,5,50,2.3,10\n"
    )
    (tmp_path / "backtracks.csv").write_text("step,loss,back_to,rate_scale\n")
    inputs = [tmp_path / f"{name}.csv" for name in ("training", "validation", "backtracks", "bins")]
    for name in ("a.png", "b.png"):
        training.draw(*inputs, tmp_path / name, tmp_path / "steps.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "validation.csv").write_text("step,loss\n")
    with pytest.raises(ValueError, match=r"validation\.csv holds no row"):
        training.draw(*inputs, tmp_path / "c.png", tmp_path / "steps.png")
