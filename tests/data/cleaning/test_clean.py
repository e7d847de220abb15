"""The cleaning as a whole: what it drops and why, and that it accounts for every byte."""

import dataclasses
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import stages.cleaned
from antimatter import files, params
from antimatter.data.cleaning import config as clean_config
from antimatter.data.cleaning.config import CleanConfig, DecontaminationConfig
from antimatter.data.cleaning.pipeline import clean
from antimatter.errors import UserError

RULES = """
cleaned:
  repair: {straight_quotes: true, usual_width: true}
  language: {enabled: true, code: en, min_score: 0.65}
  c4: {enabled: true, terminal_punctuation: true, min_words_per_line: 3, javascript: true,
    curly_bracket: true, min_sentences: 4}
  gopher: {enabled: true, min_words: 50, max_words: 1000, min_word_length: 3, max_word_length: 10,
    max_symbol_ratio: 0.1, max_bullet_lines: 0.9, max_ellipsis_lines: 0.3,
    min_alphabetic_words: 0.8, min_stop_words: 2}
  repetition: {enabled: true, max_duplicate_lines: 0.3, max_duplicate_line_chars: 0.2,
    max_top_ngram_chars: [0.2, 0.18, 0.16],
    max_duplicate_ngram_chars: [0.15, 0.14, 0.13, 0.12, 0.11, 0.1]}
  fineweb: {enabled: true, min_punctuated_lines: 0.12, short_line_length: 30, max_short_lines: 0.67,
    max_duplicate_line_chars: 0.01, max_lines_per_word: 0.3}
  junk: {enabled: true, site_notice: 0.09, markup: 0.1, code: 0.12, code_lines: 0.5,
    filler: 0.05, price_list: 0.04, keyword_spam: 0.13, foreign: 0.5, gibberish: 0.7}
  conversation: {enabled: true, min_turns: 2, max_turn_words: 60, max_short_turns: 0.5,
    max_non_ascii: 0.0, biography: drop}
  personal: {email: false, phone: false, ip: false, key: false}
  exact_duplicates: true
  near_duplicates: {enabled: true, ngram: 3, bands: 20, rows: 6, seed: 1}
  decontamination: {texts: [], text_column: text, ngram: 13}
"""
LIGHTHOUSE = (
    "The lighthouse on the northern cape was built in the year of the great storm, when eleven "
    "ships were lost in a single night. Its keeper climbed two hundred steps every evening to "
    "light the lamp. In winter the wind shook the tower so hard that his cup slid across the "
    "table. He wrote down the weather, the passing vessels and, now and then, what he had dreamed. "
    "After forty years he handed the key to his daughter."
)
BREAD = (
    "Good bread needs little more than flour, water, salt and time. Mix them in the evening and "
    "leave the dough in a cool place until morning. The yeast works slowly in the cold, and slow "
    "work gives flavour. Fold the dough a few times, let it rise again and bake it in a very hot "
    "oven. When the crust sings as it cools, you have done everything right, and you should wait "
    "an hour before you cut it."
)
COMET = (
    "Every seventy-six years a lump of dirty ice comes close enough to the sun to grow a tail. "
    "People have seen it since before there were telescopes. Some thought it foretold the death of "
    "kings, and some sold pills against its gas. An astronomer noticed that three old reports "
    "described one orbit. He predicted the return and did not live to see it, but the comet came "
    "back on time and has carried his name ever since."
)
CLEAN = {"lighthouse": LIGHTHOUSE, "bread": BREAD, "comet": COMET}
# Name -> reason, text
NOISE = {
    "lorem": (
        "lorem_ipsum",
        LIGHTHOUSE.replace("lighthouse", "mill")
        + "\nLorem ipsum dolor sit amet, consectetur adipiscing elit.",
    ),
    "code": (
        "curly_bracket",
        f"{BREAD.replace('bread', 'cake')}\nfunction bake() {{ return heat(oven); }} ends it.",
    ),
    "javascript": (
        "too_few_sentences",
        "Please enable JavaScript to see this page.\n"
        "This site needs JavaScript. It does. Turn it on. Now. Please.",
    ),
    "cookies": (
        "too_few_sentences",
        "This site uses cookies to serve you. Do you accept?\n"
        "Read our privacy policy. It is long. It is fun. It is safe.",
    ),
    "menu": (
        "too_few_sentences",
        "Home\nProducts\nAbout us\nContact\nSign in\nBasket (0)\nThe best shop in the whole town",
    ),
    "short": (
        "gopher_short_doc",
        "This is short. It is also good. It was written by hand. There is no more to say.",
    ),
    "numbers": (
        "gopher_below_alpha_threshold",
        f"The table of the year says that it was so. {LIGHTHOUSE.replace('lighthouse', 'tower')} "
        + " ".join(f"{n}." for n in range(1000, 1060)),
    ),
    "german": (
        "language",
        "Der Leuchtturm am nördlichen Kap wurde im Jahr des großen Sturms gebaut. Sein Wärter "
        "stieg jeden Abend zweihundert Stufen hinauf. Im Winter rüttelte der Wind am Turm. Er "
        "schrieb das Wetter auf und was er geträumt hatte. Nach vierzig Jahren gab er den "
        "Schlüssel ab.",
    ),
    "chant": (
        "duplicated_5_n_grams",
        BREAD + " Row, row, row your boat gently down the stream." * 4,
    ),
    "repeats": (
        "char_dup_ratio",
        "\n".join(
            [
                *["We have the lowest prices of the town, so be quick and buy with us today."] * 9,
                COMET,
            ]
        ),
    ),
    "empty": ("empty", " \n\u0000 "),
}
DUPLICATES = {
    "exact": ("exact_duplicate", COMET.replace("Every", "EVERY").replace(". ", ".  ")),
    "near": (
        "near_duplicate",
        BREAD.replace("an hour before you cut it", "an hour before you eat it"),
    ),
}


PLANTED = NOISE | DUPLICATES
ALL = CLEAN | {name: text for name, (_, text) in PLANTED.items()}


@pytest.fixture
def rules(tmp_path):
    (tmp_path / "params.yaml").write_text(RULES)
    return params.read(CleanConfig, "cleaned", tmp_path / "params.yaml")


def write_raw(folder, texts, kind="text"):
    """Two files, so that duplicates are in different tasks."""
    folder.mkdir()
    rows = [
        {"id": name, "text": text, "source": "tests", "licence": "MIT", "kind": kind}
        for name, text in texts.items()
    ]
    half = (len(rows) + 1) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{number:05d}.parquet")
    return folder


def read(folder):
    tables = (pq.read_table(path) for path in sorted(folder.glob("*.parquet")))
    return {row["id"]: row["text"] for table in tables for row in table.to_pylist()}


def examples(folder):
    lines = (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_noise_is_dropped_for_its_reason_and_good_text_kept(tmp_path, rules, runtime):
    report = clean(write_raw(tmp_path / "raw", ALL), tmp_path / "work", rules, runtime)
    assert read(tmp_path / "work" / "cleaned") == CLEAN
    expected = [reason for reason, _ in PLANTED.values()]
    assert report.dropped == {reason: expected.count(reason) for reason in expected}
    assert (report.documents_in, report.documents_out) == (len(ALL), len(CLEAN))
    assert report.bytes_out == sum(len(text.encode()) for text in CLEAN.values())
    assert report.lines_dropped["javascript"] == 2 and report.lines_dropped["policy"] == 2


@pytest.mark.parametrize("name", NOISE)
def test_if_every_document_is_dropped_the_error_names_the_commonest_reason(
    tmp_path, rules, runtime, name
):
    reason, text = NOISE[name]
    with pytest.raises(UserError, match=rf"1 documents, 1 .* {reason}: .* params\.yaml"):
        clean(write_raw(tmp_path / "raw", {name: text}), tmp_path / "work", rules, runtime)


def test_every_byte_is_accounted_for(tmp_path, rules, runtime):
    report = clean(write_raw(tmp_path / "raw", ALL), tmp_path / "work", rules, runtime)
    dropped = sum(report.dropped_bytes.values())
    assert report.bytes_in == report.bytes_out + report.bytes_trimmed + dropped
    assert report.dropped_bytes["language"] == len(NOISE["german"][1].encode())
    # No line of a kept document is dropped here
    assert report.bytes_trimmed == 0
    assert sum(n for _, n, _ in report.lengths) == report.documents_in
    assert sum(n for _, _, n in report.lengths) == report.documents_out


def test_each_reason_has_an_example_and_a_duplicate_its_original(tmp_path, rules, runtime):
    clean(write_raw(tmp_path / "raw", ALL), tmp_path / "work", rules, runtime)
    shown = {example["id"]: example for example in examples(tmp_path / "work/cleaned")}
    reasons = {name: example["reason"] for name, example in shown.items()}
    assert reasons == {name: reason for name, (reason, _) in PLANTED.items()}
    originals = {n: example["repeats"] for n, example in shown.items() if "repeats" in example}
    assert originals == {"exact": "comet", "near": "bread"}
    # As it was before the cleaning
    assert shown["code"]["text"] == NOISE["code"][1]


def test_documents_that_quote_an_evaluation_text_are_dropped(tmp_path, rules, runtime):
    quote = re.sub(r"[.,]", "", COMET.split(". ")[1]).upper()
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": f"Answer: {quote}"}))
    texts = DecontaminationConfig(texts=(str(tmp_path / "*.jsonl"),), text_column="text", ngram=9)
    config = dataclasses.replace(rules, decontamination=texts)
    report = clean(write_raw(tmp_path / "raw", CLEAN), tmp_path / "work", config, runtime)
    assert report.dropped == {"contaminated": 1}
    assert set(read(tmp_path / "work" / "cleaned")) == {"lighthouse", "bread"}
    absent = dataclasses.replace(texts, texts=(str(tmp_path / "none/*"),))
    with pytest.raises(UserError, match=r"cleaned\.decontamination\.texts: .*none/\*"):
        clean_config.texts(absent)


CHAT = [
    *("hello there my friend", "hi, how are you today?", "im doing fine, and you?", "great lol"),
    *("what is your major?", "i study at BYU"),
    *("what do you like to read?", "I like books about ships.", "Those are good.", "They are."),
]


def test_a_conversation_is_cut_at_its_bad_turns(tmp_path, rules, runtime):
    raw = write_raw(tmp_path / "raw", {"one": "\n\n".join(CHAT)}, "conversation")
    report = clean(raw, tmp_path / "work", rules, runtime)
    assert read(tmp_path / "work" / "cleaned") == {
        "one/0": "Hello there my friend.\n\nHi, how are you today?\n\nI'm doing fine, and you?"
        "\n\nGreat.",
        "one/2": "What do you like to read?\n\nI like books about ships.\n\nThose are good."
        "\n\nThey are.",
    }
    assert report.dropped == {"conversation_biography": 1}
    assert report.turns_dropped == {"biography": 2}
    assert (report.turns_in, report.turns_changed) == (10, 7)
    assert (report.documents_in, report.documents_out) == (3, 2)
    dropped = sum(report.dropped_bytes.values())
    assert report.bytes_in == report.bytes_out + report.bytes_trimmed + dropped
    (example,) = examples(tmp_path / "work/cleaned")
    assert example["text"] == "\n\n".join(CHAT[4:6])
    (table,) = map(pq.read_table, (tmp_path / "work/cleaned").glob("*.parquet"))
    assert table["kind"].to_pylist() == ["conversation"] * 2


def test_of_the_rules_for_documents_conversations_have_duplicates_and_decontamination(
    tmp_path, rules, runtime
):
    (tmp_path / "test.txt").write_text("I like books about ships.")
    quoted = DecontaminationConfig(texts=(str(tmp_path / "*.txt"),), text_column="text", ngram=5)
    config = dataclasses.replace(rules, decontamination=quoted)
    texts = {
        "one": "\n\n".join(CHAT[:4]),
        "two": "\n\n".join(CHAT[:4]),
        "three": "\n\n".join(CHAT[6:]),
    }
    raw = write_raw(tmp_path / "raw", texts, "conversation")
    report = clean(raw, tmp_path / "work", config, runtime)
    assert report.dropped == {"contaminated": 1, "exact_duplicate": 1}
    assert report.documents_out == 1


def test_personal_data_in_text_is_replaced_and_counted(tmp_path, rules, runtime):
    texts = {"a": LIGHTHOUSE + " Write to keeper@cape.org or to keeper@cape.net."}
    kept = clean(write_raw(tmp_path / "raw", texts), tmp_path / "kept", rules, runtime)
    assert kept.personal == {} and read(tmp_path / "kept" / "cleaned") == texts
    config = dataclasses.replace(rules, personal=dataclasses.replace(rules.personal, email=True))
    report = clean(tmp_path / "raw", tmp_path / "work", config, runtime)
    expected = LIGHTHOUSE + " Write to email@example.com or to email@example.com."
    assert report.personal == {"email": 2}
    assert read(tmp_path / "work" / "cleaned") == {"a": expected}
    assert report.bytes_in == report.bytes_out + report.bytes_trimmed


def test_only_a_failed_task_runs_again(tmp_path, rules, runtime):
    """The first task succeeds, the second finds its file damaged. After a repair only that runs."""
    raw = write_raw(tmp_path / "raw", ALL)
    expected = clean(raw, tmp_path / "undisturbed", rules, runtime)
    whole = (raw / "00001.parquet").read_bytes()
    (raw / "00001.parquet").write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"00001\.parquet"):
        clean(raw, tmp_path / "work", rules, runtime)
    before = (tmp_path / "work/passed/00000.parquet").stat().st_mtime_ns
    (raw / "00001.parquet").write_bytes(whole)
    assert clean(raw, tmp_path / "work", rules, runtime) == expected
    assert (tmp_path / "work/passed/00000.parquet").stat().st_mtime_ns == before
    cleaned = contents(tmp_path / "work/cleaned")
    assert cleaned == contents(tmp_path / "undisturbed/cleaned") and len(cleaned) > 1


def test_workers_do_not_change_the_bytes(tmp_path, rules, runtime):
    raw = write_raw(tmp_path / "raw", ALL)
    one, two = (
        clean(raw, tmp_path / str(n), rules, dataclasses.replace(runtime, workers=n))
        for n in (1, 2)
    )
    assert one == two
    cleaned = contents(tmp_path / "1/cleaned")
    assert cleaned == contents(tmp_path / "2/cleaned") and len(cleaned) > 1


def test_broken_unicode_is_repaired(tmp_path, rules, runtime):
    quoted = LIGHTHOUSE.replace("the year", "the “year”")
    broken = quoted.encode().decode("windows-1252", errors="ignore")
    assert broken != LIGHTHOUSE
    raw = write_raw(tmp_path / "raw", {"a": broken.replace("cup", "cafe\u0301 &amp; cup")})
    clean(raw, tmp_path / "work", rules, runtime)
    text = read(tmp_path / "work" / "cleaned")["a"]
    assert "caf\u00e9 & cup" in text and "â€" not in text


def test_disabled_rules_drop_nothing(tmp_path, rules, runtime):
    off = {
        field.name: dataclasses.replace(rule, enabled=False)
        for field in dataclasses.fields(rules)
        if hasattr(rule := getattr(rules, field.name), "enabled") and field.name != "conversation"
    }
    config = dataclasses.replace(rules, **off, exact_duplicates=False)
    texts = {name: text for name, text in ALL.items() if name != "empty"}
    report = clean(write_raw(tmp_path / "raw", texts), tmp_path / "work", config, runtime)
    assert report.dropped == {}
    assert read(tmp_path / "work" / "cleaned") == texts


def test_an_empty_folder_is_an_error(tmp_path, rules, runtime):
    with pytest.raises(UserError, match=r"raw .*\.parquet.*`dvc repro raw`"):
        clean(tmp_path / "raw", tmp_path / "work", rules, runtime)


def test_a_broken_raw_file_is_named(tmp_path, rules, runtime):
    write_raw(tmp_path / "raw", CLEAN)
    path = tmp_path / "raw" / "00001.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"00001\.parquet.*`dvc repro --force raw`"):
        clean(tmp_path / "raw", tmp_path / "work", rules, dataclasses.replace(runtime, workers=2))


def test_a_stage_that_dies_just_after_publishing_can_run_again(tmp_path, monkeypatch):
    """DVC deletes the output before it runs a stage again. The marks of completed tasks must not
    refer to deleted files.
    """
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    raw, link = write_raw(tmp_path / "raw", CLEAN), files.link
    outputs = [tmp_path / name for name in ("cleaned", "metrics", "plots")]

    def die(paths, folder):
        link(paths, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "link", die)
    with pytest.raises(KeyboardInterrupt):
        stages.cleaned.main(raw, *outputs)
    assert read(outputs[0]) == CLEAN
    files.remove(outputs[0])
    monkeypatch.setattr(files, "link", link)
    stages.cleaned.main(raw, *outputs)
    assert read(outputs[0]) == CLEAN
    assert not list((tmp_path / ".state").iterdir())
