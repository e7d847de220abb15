"""The code page of a text without a mark is found by its language."""

from pathlib import Path

import pytest
from helpers.own_reader import read, texts

from antimatter.data.sources import local, paths
from antimatter.data.sources.faults import Report
from antimatter.data.sources.paths import FilesConfig
from antimatter.errors import UserError

SENTENCES = {
    "hu": (
        "A folyó partján állt egy kis falu, ahol az emberek korán keltek és a földeken "
        "dolgoztak. Esténként a nagy diófa alatt ültek, történeteket meséltek, és a "
        "gyerekek köveket dobáltak a vízbe. Őszintén szólva senki sem tudta, hová tűnt az "
        "öreg molnár."
    ),
    "hr": (
        "Na obali rijeke stajalo je malo selo u kojem su ljudi rano ustajali i radili u "
        "poljima. Navečer su sjedili pod velikim stablom, pričali priče, a djeca su "
        "bacala kamenčiće u vodu. Nitko nije znao gdje je nestao stari mlinar, čovjek iz "
        "priče."
    ),
    "ro": (
        "Pe malul râului era un sat mic în care oamenii se trezeau devreme şi munceau pe "
        "câmp. Seara stăteau sub un copac mare, spuneau poveşti, iar copiii aruncau "
        "pietricele în apă. Nimeni nu ştia unde dispăruse bătrânul morar."
    ),
    "pl": (
        "Nad brzegiem rzeki stała mała wieś, w której ludzie wstawali wcześnie i "
        "pracowali na polach. Wieczorami siadali pod dużym drzewem, opowiadali historie, "
        "a dzieci rzucały kamyki do wody. Nikt nie wiedział, gdzie zniknął stary młynarz, "
        "który śpiewał."
    ),
    "he": (
        "על גדת הנהר עמד כפר קטן שבו אנשים קמו מוקדם ועבדו בשדות. בערב הם ישבו מתחת לעץ "
        "גדול וסיפרו סיפורים, והילדים זרקו אבנים למים."
    ),
    "lt": (
        "Ant upės kranto stovėjo mažas kaimas, kuriame žmonės anksti keldavosi ir "
        "dirbdavo laukuose. Vakarais jie sėdėdavo po dideliu medžiu, pasakodavo "
        "istorijas, o vaikai mėtydavo akmenukus į vandenį."
    ),
    "el": (
        "Στην όχθη του ποταμού βρισκόταν ένα μικρό χωριό όπου οι άνθρωποι ξυπνούσαν νωρίς "
        "και δούλευαν στα χωράφια."
    ),
    "tr": (
        "Nehrin kıyısında insanların erken kalkıp tarlalarda çalıştığı küçük bir köy "
        "vardı. Akşamları büyük bir ağacın altında oturup hikâyeler anlatırlardı."
    ),
    "fr": (
        "Au bord de la rivière se trouvait un petit village où les gens se levaient tôt "
        "et travaillaient dans les champs. Le soir, ils s'asseyaient sous un grand arbre, "
        "racontaient des histoires, et les enfants jetaient des cailloux dans l'eau."
    ),
    "ja": (
        "川のほとりに小さな村があり、人々は朝早く起きて畑で働いていました。夕方になる"
        "と大"
        "きな木の下に座って物語を語り、子どもたちは水に石を投げていました。"
    ),
    "ko": (
        "강가에 작은 마을이 있었는데 사람들은 일찍 일어나 들에서 일했습니다."
        " 저녁이면 큰 나무 아래에 앉아 이야기를 나누고 아이들은 물에 돌을 "
        "던졌습니다."
    ),
    "uk": (
        "На березі річки стояло маленьке село, де люди рано вставали і працювали в полі. "
        "Увечері вони сиділи під великим деревом і розповідали казки."
    ),
}
PAGES = {
    "hu": ("cp1250", "iso8859_2"),
    "hr": ("cp1250", "iso8859_2"),
    "ro": ("cp1250", "iso8859_2"),
    "pl": ("cp1250", "iso8859_2"),
    "he": ("cp1255",),
    "lt": ("cp1257",),
    "el": ("cp1253",),
    "tr": ("cp1254",),
    "fr": ("cp1252",),
    "ja": ("cp932", "euc_jp"),
    "ko": ("euc_kr",),
    "uk": ("cp1251",),
}


@pytest.mark.parametrize(
    ("language", "codec"), [(name, codec) for name, codecs in PAGES.items() for codec in codecs]
)
def test_a_text_is_read_by_its_language(tmp_path: Path, language: str, codec: str) -> None:
    text = SENTENCES[language]
    (tmp_path / "a.txt").write_bytes(text.encode(codec))
    assert texts(tmp_path) == [text]
    # Far into a file, among other lines
    far = "plain words\n" * 9000 + f"{text}\n" * 50 + "more words\n" * 9000
    (tmp_path / "a.txt").write_bytes(far.encode(codec))
    assert texts(tmp_path) == [far]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.json", "a.html"])
def test_a_named_encoding_decides(tmp_path: Path, name: str) -> None:
    text = "Ő és űr in a good long text of two words that are not English"
    content = {
        "a.txt": text,
        "a.csv": f"id,text\n1,{text}\n",
        "a.json": f'{{"text": "{text}"}}',
        "a.html": f"<meta charset=koi8-r><p>{text}</p>",
    }[name]
    (tmp_path / name).write_bytes(content.encode("iso8859-2"))
    config = FilesConfig(pattern=str(tmp_path), text_column="", licence="", encoding="iso8859-2")
    (part,) = paths.parts([config], 1, "k")
    report = Report()
    assert [document.text for document in local.read(part, report)] == [text]
    assert report.summary()["encodings"] == {"iso8859-2": 1} and not report.guesses


def test_files_with_a_guessed_encoding_are_named(tmp_path: Path) -> None:
    for n in range(7):
        (tmp_path / f"{n}.txt").write_bytes(SENTENCES["hu"].encode("cp1250"))
    (tmp_path / "8.txt").write_text(SENTENCES["hu"], encoding="utf-8-sig")
    _, report = read(tmp_path)
    names = [f"{tmp_path}/{n}.txt (cp1250)" for n in range(7)]
    assert report.summary()["guessed_encodings"] == names
    (line,) = [line for line in report.lines() if "guessed" in line]
    assert ", ".join(names[:5]) + " and more; " in line and names[5] not in line


@pytest.mark.parametrize("encoding", ["cp9999", "base64"])
def test_an_unknown_encoding_is_an_error(encoding: str) -> None:
    with pytest.raises(UserError, match=f"encoding '{encoding}' is unknown: name one"):
        FilesConfig(pattern="a", text_column="", licence="", encoding=encoding)
