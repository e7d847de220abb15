"""What params.yaml says of the cleaning.

Apart from the code that it steers, so that values are checked without importing datatrove.
"""

from dataclasses import dataclass, fields
from typing import Literal

from antimatter.data.cleaning.pii import PersonalConfig
from antimatter.data.sources.paths import FilesConfig, Part, parts
from antimatter.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """fastText's lid.176 (Joulin et al. 2016) on the first 1,000 characters."""

    enabled: bool
    code: str  # ISO 639-1
    min_score: float  # FineWeb: 0.65

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise UserError(f"min_score must lie in [0, 1], got {self.min_score}")


@dataclass(frozen=True, kw_only=True)
class C4Config:
    """Rules of C4 (Raffel et al. 2020): the first two drop lines, as do lines that speak of cookies and policies; the others documents."""

    enabled: bool
    terminal_punctuation: bool  # drop lines that do not end like a sentence
    min_words_per_line: int
    javascript: bool  # drop lines that mention it
    curly_bracket: bool  # drop documents that hold one
    min_sentences: int  # in what is left of a document

    def __post_init__(self) -> None:
        for name in ("min_words_per_line", "min_sentences"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class GopherConfig:
    """Quality rules of Gopher (Rae et al. 2021, table A1). A threshold of 0 switches its rule off."""

    enabled: bool
    min_words: int
    max_words: int
    min_word_length: float  # mean, in characters
    max_word_length: float
    max_symbol_ratio: float  # hashes, and ellipses, per word
    max_bullet_lines: float
    max_ellipsis_lines: float
    min_alphabetic_words: float
    min_stop_words: int

    def __post_init__(self) -> None:
        if not 0 <= self.min_words <= self.max_words:
            raise UserError(
                f"min_words must lie in [0, max_words = {self.max_words}], got {self.min_words}"
            )
        for name in (
            "max_symbol_ratio",
            "max_bullet_lines",
            "max_ellipsis_lines",
            "min_alphabetic_words",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class RepetitionConfig:
    """Repetition rules of Gopher: shares of lines and of characters. A share of lines of 0 switches its rule off."""

    enabled: bool
    max_duplicate_lines: float
    max_duplicate_line_chars: float
    max_top_ngram_chars: tuple[float, ...]  # of the commonest 2-, 3-, 4-gram
    max_duplicate_ngram_chars: tuple[float, ...]  # of all repeated 5-, 6-, ... 10-grams

    def __post_init__(self) -> None:
        for name, length in (("max_top_ngram_chars", 3), ("max_duplicate_ngram_chars", 6)):
            values = getattr(self, name)
            if len(values) != length or not all(0 <= value <= 1 for value in values):
                raise UserError(f"{name} must be {length} shares in [0, 1], got {list(values)}")


@dataclass(frozen=True, kw_only=True)
class FineWebConfig:
    """Rules that FineWeb (Penedo et al. 2024) adds to those of C4 and Gopher."""

    enabled: bool
    min_punctuated_lines: float
    short_line_length: int  # characters
    max_short_lines: float
    max_duplicate_line_chars: float
    max_lines_per_word: float

    def __post_init__(self) -> None:
        for name in (
            "min_punctuated_lines",
            "max_short_lines",
            "max_duplicate_line_chars",
            "max_lines_per_word",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class RubbishConfig:
    """A document that reaches a threshold is dropped. A threshold of 0 switches its rule off."""

    enabled: bool
    # Banners, terms of use, error pages: geometric mean of two shares of words, those of a site and
    # those to its reader
    site_notice: float
    markup: float  # tags, of HTML or BBCode, per word
    code: float  # share of words that are code
    code_lines: float  # share of lines that begin with a comment, a docstring or a JSON key
    filler: float  # share of words of the placeholder text "lorem ipsum dolor ..."
    price_list: float  # prices per word
    keyword_spam: float  # share of words that are in one phrase, of two or three
    foreign: float  # share of 3 windows beyond the first 1,000 characters that are not English
    gibberish: float  # 1 - fastText's score for English, without stop words

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name != "enabled"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ConversationConfig:
    enabled: bool
    min_turns: int  # of a conversation that stays
    max_turn_words: int
    max_short_turns: float  # share of turns of one or two words
    max_non_ascii: float  # share of the characters of a turn
    biography: Literal["keep", "drop"]  # turns in which people tell who and where they are

    def __post_init__(self) -> None:
        if self.min_turns < 2:
            raise UserError(f"min_turns must be at least 2, got {self.min_turns}")
        if self.max_turn_words < 1:
            raise UserError(f"max_turn_words must be at least 1, got {self.max_turn_words}")
        for name in ("max_short_turns", "max_non_ascii"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie in [0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class NearDuplicatesConfig:
    """MinHash with banding (Broder 1997): documents of Jaccard similarity s share a band with probability 1 - (1 - s^rows)^bands."""

    enabled: bool
    ngram: int  # words in a shingle
    bands: int
    rows: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("ngram", "bands", "rows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class DecontaminationConfig:
    # Glob patterns of evaluation texts, as raw.files has them; none: nothing is dropped
    texts: tuple[str, ...]
    text_column: str  # of JSON and parquet among them
    ngram: int  # words that a document must share with one of them in a row

    def __post_init__(self) -> None:
        if self.ngram < 1:
            raise UserError(f"ngram must be at least 1, got {self.ngram}")


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    language: LanguageConfig
    c4: C4Config
    gopher: GopherConfig
    repetition: RepetitionConfig
    fineweb: FineWebConfig
    rubbish: RubbishConfig
    conversation: ConversationConfig  # in place of all rules above, for conversations
    personal: PersonalConfig  # of text
    exact_duplicates: bool  # equal but for case and white space
    near_duplicates: NearDuplicatesConfig
    decontamination: DecontaminationConfig


def texts(config: DecontaminationConfig) -> list[Part]:
    """The evaluation texts. Their paths are names that paths.located() takes.

    Raises:
        FileNotFoundError: a pattern matches no file.
    """
    sources = [
        FilesConfig(pattern=pattern, text_column=config.text_column, licence="")
        for pattern in config.texts
    ]
    return parts(sources, 0, "cleaned.decontamination.texts")
