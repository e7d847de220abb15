"""The configuration of the cleaning.

Separate from the code that uses it, so that values are checked without importing datatrove.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from antimatter.data.cleaning.pii import PersonalConfig
from antimatter.data.sources.paths import FilesConfig, Part, parts
from antimatter.errors import UserError
from antimatter.params import Count, Fraction, PositiveInt, Section, Within

# The labels of fastText's lid.176: ISO 639-1 where a language has such a code, else ISO 639-3 or
# the name of its Wikipedia
LANGUAGES = frozenset(
    """
    af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb
    co cs cv cy da de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv
    he hi hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb
    lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new
    nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl
    so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf
    yi yo yue zh
    """.split()
)


@dataclass(frozen=True, kw_only=True)
class RepairConfig(Section):
    """What ftfy does to good characters. Mojibake, entities and the like are always repaired."""

    straight_quotes: bool  # curly quotes become " and '
    # Full-width letters, digits and marks become the usual ones, half-width katakana full-width
    usual_width: bool


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(Section):
    """fastText's lid.176 (Joulin et al. 2016) on the first 1,000 characters."""

    enabled: bool  # drop documents in other languages
    # ISO 639-1, also for the rules that need a language (languages.py); "any": several, or unknown
    code: str
    min_score: Fraction  # FineWeb: 0.65

    def validate(self) -> None:
        if self.code not in LANGUAGES | {"any"}:
            # Not the nearest by letters: that of deu would be eu, which is Basque
            near = sorted(code for code in LANGUAGES if code[0] == self.code[:1].lower())
            codes = ", ".join(near or sorted(LANGUAGES))
            raise UserError(
                f"code must be the language of the text as fastText's lid.176 names it, such as "
                f'en, or any for another one or several, got "{self.code}"; known: {codes}'
            )
        if self.enabled and self.code == "any":
            fix = "set enabled to false, or code to the language to keep"
            raise UserError(f"code is any, which drops no language: {fix}")


@dataclass(frozen=True, kw_only=True)
class C4Config(Section):
    """Rules of C4 (Raffel et al. 2020). Lines that mention cookies or policies are dropped too."""

    enabled: bool
    terminal_punctuation: bool  # drop lines that do not end like a sentence
    min_words_per_line: Count  # drop shorter lines
    javascript: bool  # drop lines that mention it
    curly_bracket: bool  # drop documents that contain one
    min_sentences: Count  # in the remaining lines of a document


@dataclass(frozen=True, kw_only=True)
class GopherConfig(Section):
    """Quality rules of Gopher (Rae et al. 2021, table A1). A threshold of 0 disables its rule."""

    enabled: bool
    min_words: Count
    max_words: int
    min_word_length: float  # mean, in characters
    max_word_length: float
    max_symbol_ratio: Fraction  # hashes, and ellipses, per word
    max_bullet_lines: Fraction
    max_ellipsis_lines: Fraction
    min_alphabetic_words: Fraction
    min_stop_words: int

    def validate(self) -> None:
        if self.min_words > self.max_words:
            raise UserError(
                f"min_words must lie in [0, max_words = {self.max_words}], got {self.min_words}"
            )


@dataclass(frozen=True, kw_only=True)
class RepetitionConfig(Section):
    """Repetition rules of Gopher, by shares of lines or characters. 0 disables the first two."""

    enabled: bool
    max_duplicate_lines: float
    max_duplicate_line_chars: float
    max_top_ngram_chars: tuple[float, ...]  # of the commonest 2-, 3-, 4-gram
    max_duplicate_ngram_chars: tuple[float, ...]  # of all repeated 5-, 6-, ... 10-grams

    def validate(self) -> None:
        for name, length in (("max_top_ngram_chars", 3), ("max_duplicate_ngram_chars", 6)):
            values = getattr(self, name)
            if len(values) != length or not all(0 <= value <= 1 for value in values):
                raise UserError(f"{name} must be {length} shares in [0, 1], got {list(values)}")


@dataclass(frozen=True, kw_only=True)
class FineWebConfig(Section):
    """Rules that FineWeb (Penedo et al. 2024) adds to those of C4 and Gopher."""

    enabled: bool
    min_punctuated_lines: Fraction
    short_line_length: int  # characters
    max_short_lines: Fraction
    max_duplicate_line_chars: Fraction
    max_lines_per_word: Fraction


@dataclass(frozen=True, kw_only=True)
class JunkConfig(Section):
    """A document that reaches a threshold is dropped. A threshold of 0 disables its rule."""

    enabled: bool
    # Banners, terms of use, error pages: geometric mean of the share of words about a site and the
    # share of words that address its reader
    site_notice: Fraction
    markup: Fraction  # tags, of HTML or BBCode, per word
    code: Fraction  # share of words that are code
    code_lines: Fraction  # share of lines that begin with a comment, a docstring or a JSON key
    filler: Fraction  # share of words of the placeholder text "lorem ipsum dolor ..."
    price_list: Fraction  # prices per word
    keyword_spam: Fraction  # share of words that are in one phrase, of two or three
    foreign: Fraction  # share of 3 windows beyond the first 1,000 characters that are not English
    gibberish: Fraction  # 1 - fastText's score for English, without stop words


@dataclass(frozen=True, kw_only=True)
class ConversationConfig(Section):
    enabled: bool
    min_turns: Annotated[int, Within("[2, inf)")]  # of a run of good turns, to be kept
    max_turn_words: PositiveInt
    max_short_turns: Fraction  # share of turns of one or two words
    max_non_ascii: Fraction  # share of the characters of a turn
    biography: Literal["keep", "drop"]  # turns in which people tell who and where they are


@dataclass(frozen=True, kw_only=True)
class NearDuplicatesConfig(Section):
    """MinHash with banding (Broder 1997): documents of Jaccard similarity s share a band with
    probability 1 - (1 - s^rows)^bands.
    """

    enabled: bool
    ngram: PositiveInt  # words in a shingle
    bands: PositiveInt
    rows: PositiveInt
    seed: Count


@dataclass(frozen=True, kw_only=True)
class DecontaminationConfig(Section):
    # Glob patterns of evaluation texts, as in raw.files; if empty, nothing is dropped
    texts: tuple[str, ...]
    text_column: str  # of JSON and parquet files
    ngram: PositiveInt  # adjacent words that a document must share with a text


@dataclass(frozen=True, kw_only=True)
class CleanConfig(Section):
    repair: RepairConfig
    language: LanguageConfig
    c4: C4Config
    gopher: GopherConfig
    repetition: RepetitionConfig
    fineweb: FineWebConfig
    junk: JunkConfig
    conversation: ConversationConfig  # replaces every rule above, for conversations
    personal: PersonalConfig  # of text
    exact_duplicates: bool  # equal except for case and white space
    near_duplicates: NearDuplicatesConfig
    decontamination: DecontaminationConfig


def texts(config: DecontaminationConfig) -> list[Part]:
    """The evaluation texts. paths.located() resolves their paths.

    Raises:
        UserError: a pattern matches no file.
    """
    sources = [
        FilesConfig(pattern=pattern, text_column=config.text_column, licence="")
        for pattern in config.texts
    ]
    return parts(sources, 0, "cleaned.decontamination.texts")
