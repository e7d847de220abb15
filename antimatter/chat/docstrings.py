"""The summary of a docstring in one sentence, and its description of each argument.

Docstrings are written in many styles, for a reader who sees the definition beside them. The rules
here are strict: a sentence is taken only if it makes sense as an answer without the definition,
because a model of a few million parameters learns the form of its answers from faulty ones too.
"""

import re
from collections.abc import Sequence

from antimatter.data.sources.markup import without_markup

SUMMARY_WORDS = range(4, 25)
ARGUMENT_WORDS = range(3, 26)

# First words of a docstring that describe an action
VERBS = set(
    """
    accept accumulate activate add adjust aggregate align allocate allow analyze append apply
    approximate arrange assemble assert assign associate attach attempt augment average balance
    begin bind blit break bring broadcast build calculate call cancel canonicalize capture cast
    change check choose classify clean clear clip clone close coerce collapse collect color
    combine compare compile complete compose compress compute concatenate configure confirm
    conform connect consolidate construct consume contain contract convert convolve copy correct
    count create customize deactivate decide declare decode decompose decompress decorate
    decrease decrement decrypt define delay delete denote dequantize describe deserialize
    destroy detach detect determine differentiate disable disallow disconnect dispatch display
    distribute divide do download draw drop dump duplicate edit eliminate emit emulate enable
    encode encrypt end enforce ensure enter enumerate erase escape estimate evaluate evict
    examine exclude execute expand export expose express extend extract factor factorize fetch
    fill filter finalize find finish fit flatten flip flush fold force form format freeze fuse
    gather generate get give group guess handle hide highlight hold identify implement import
    include increase increment indicate infer initialize inject inline insert inspect install
    instantiate integrate interpolate interpret intersect invert invoke isolate iterate join
    keep label launch lay lift limit linearize list load localize locate log look lower make
    manage map mark mask match materialize maximize measure merge minimize modify monitor move
    multiply negate normalize notify obtain offer open optimize order override pack pad parse
    partition pass patch perform permute pick pickle place plot pop populate predict prepare
    print process produce project propagate provide prune publish push put quantize query raise
    randomize rank read rearrange rebuild recalculate receive recompute reconstruct record
    redirect redraw reduce refine refresh register reindex relabel release reload remove rename
    render reorder repeat replace replay replicate report represent reproduce request resample
    rescale reset reshape resize resolve restore restrict retrieve return reverse rewrite roll
    rotate round run sample save say scale scan scatter schedule search select send separate
    serialize set share shift shorten show shrink shuffle shut simplify simulate skip slice
    solve sort specify split stack start stop store strip submit substitute
    subtract suggest summarize support suppress swap switch synchronize take tell terminate test
    toggle trace track transfer transform translate transpose traverse treat triangulate trigger
    trim truncate try turn undo unflatten unify unpack unpickle unpivot unregister unset update
    upgrade upsample use validate verify visit visualize wait walk warn wrap write yield
    """.split()
)
# Of these, verbs only before an article or the like: "Sort key for ...", "Format of ..." begin with
# a noun
NOUNS = set(
    """
    average balance blit break broadcast cast change check clone color contract copy count
    delay display draw drop dump end estimate export factor filter fit fold force form format
    group guess hold import increase increment indicate join label lift limit list log look map
    mark mask match measure merge move order override pad pass patch place plot pop process
    produce project prune query rank record reduce release repeat report request return
    reverse roll rotate round sample scale scan scatter schedule search set share shift
    slice sort split stack start stop store strip support swap switch test throw toggle trace
    track transfer transform trigger turn upgrade use visit walk warn wrap yield subclass
    
    """.split()
)
ADVERBS = set(
    """
    automatically conditionally directly eagerly efficiently explicitly fully globally greedily
    horizontally immediately implicitly lazily numerically optionally randomly recursively
    symbolically temporarily uniformly vertically
    """.split()
)
OBJECT = set(
    """
    a an the all this that each every its given any whether if to it some one two both out up
    from into and or for new current multiple several values elements data tensors arrays
    """.split()
)


def third_person(verb: str) -> str:
    """The form of a verb after "it"."""
    if verb in ("do", "undo") or verb.endswith(("s", "x", "z", "ch", "sh")):
        return verb + "es"
    if re.search("[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + "s"


THIRD = {third_person(verb): verb for verb in VERBS}
# Nouns that may begin a docstring without their article
HEADS = "|".join(
    """
    accessor adapter array backend callback class collection container converter decorator
    description descriptor enum enumeration event exception factory formatter function generator
    handler helper hook interface iterator layer layout list locator manager method mixin module
    node object operator optimizer parser pass pattern printer property protocol registry routine
    sampler scale strategy structure subclass superclass tool toolbar transform transformation
    tuple type variable version visitor wrapper
    """.split()
)
PROPER = set(
    """
    airy aesara bessel cauchy chebyshev cython dirichlet euclidean fortran fourier gauss
    gaussian hankel hermite hilbert jacobi julia laguerre laplace latex legendre lorentz mathieu
    matplotlib pandas pauli python pytorch struve theano triton
    """.split()
)
NOUN_PHRASE = re.compile(
    rf"(?:[A-Za-z-]+ ){{0,3}}(?:{HEADS})(?= (?:for|of|that|to|which|with|used|representing|from|"
    r"where|holding|containing|describing|in|on|implementing|around)\b|\.$)"
)
PARTS = set(
    """
    amount degree density derivative difference dimension dimensions height identity index
    intersection inverse kind length location logarithm maximum mean minimum name names number order
    origin position product rank ratio rest set shape size sum type union value values width
    """.split()
)
# "This function ", "The class ", or the name of the definition
ITSELF = re.compile(r"(?:(?:This|The|A|An) )?(\w+) ")
IS_NOUN = re.compile("is (?:a|an|the|used) ")
RELATIVE = re.compile(r"\b(?:that|which|who|whose|where|when|if|for|of|to|with|as|in|on)\b")
FINITE = set("is are was has have can will does should must may could would return compute".split())
# Notes of a developer, and words that refer to something outside of the sentence
UNFIT = re.compile(
    r"\b(?:todo|fixme|xxx|hack|internal|internally|private|deprecated|obsolete|legacy|dummy|pytest|"
    r"https?|www|we|our|us|i|let|lets|you|your|yourself|caller|please|self|docstring|eponymous|"
    r"below|above|following|see|here|same as|mirrors|(?:binary|reverse) operator|in-place version|"
    r"notimplemented|e\.g|i\.e|etc|cf)\b",
    re.IGNORECASE,
)
# A sentence cannot end with one of these words: its end was markup, or a list follows
OPEN_END = re.compile(
    r"(?i)\b(?:a|an|the|of|to|for|with|and|or|by|in|on|from|as|is|are|at|that|which|than|where|"
    r"into|between|if|when|follows|using|via|its|be|like|after|before|about|not|has|have|"
    r"pg|p|eq|fig|no|vol|ref)\.$"
)
TYPOGRAPHY = str.maketrans("’‘“”–\u00a0", "''\"\"- ")
ABBREVIATION = r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\betc)(?<!\bcf)(?<!\bal)(?<!\bEq)(?<!\bFig)"
SENTENCE = re.compile(rf"(.+?{ABBREVIATION}\.)(?= +[^a-z ]| *$)")
WORD = re.compile(r"[(\"']*[A-Za-z]+(?:[-/'][A-Za-z]+)*[,.;)\"']*")
# A second sentence, or remains of markup
REMAINDER = re.compile(r"[.!?] |\.\.|,\.|\( | \)| [,.]|\b_|_\b|\(\)| -+ ")
MARK = re.compile(r"[`*|\\\[\]:~#=>_-]")
# Where a paragraph ends without a blank line: a field, a list, a doctest, a directive, a section
BREAK = re.compile(
    r"\s*(?::(?:param|type|arg|keyword|returns?|rtype|raises|math|yields)\b|"
    r"[-*+] |>>>|\.\. |\d+[.)] |[-=~^]{3,}|"
    r"(?:Args|Arguments|Parameters|Returns?|Examples?|Raises|Yields|Notes?|Attributes|Usage|"
    r"Inputs?|Keyword \w+):?\s*$)"
)
SECOND = re.compile(r"(?:\b(?:and|or|then|but|otherwise)|,) (?:then |also |\w+ly )?(\w+) (\w+)")
CAPITAL = re.compile(r"\s*(?:A|An|[A-Z][a-z]+) [a-z]")


def summary(name: str, documentation: str) -> str:
    """The first sentence of the docstring of `name` as an answer to "What does it do?" or "What is
    it?": "It returns the indices that would sort an array." Empty if it is not fit to be one.
    """
    sentence = _first_sentence(without_signature(documentation))
    if not _is_fit(sentence, SUMMARY_WORDS, r"[\w ,.'\"()/-]+", 0.85):
        return ""
    answer = _as_answer(name, sentence)
    if len(answer.split()) not in SUMMARY_WORDS or _has_second_verb(answer):
        return ""
    return answer


def without_signature(documentation: str) -> str:
    """The docstring without the signature that begins that of a compiled function:
    `abs(input) -> Tensor`.
    """
    is_signature = re.match(r"[\w.]+\(", documentation)
    return documentation.partition("\n\n")[2].strip() if is_signature else documentation


def _first_sentence(text: str) -> str:
    lines = text.split("\n")
    end = next((i for i in range(1, len(lines)) if _ends_before(lines, i)), len(lines))
    # Not a heading over its underline, nor the introduction of a list, a formula or code
    if end < len(lines) and re.match(r"\s*[-=~^*+.\d]", lines[end]):
        return ""
    paragraph = " ".join(" ".join(lines[:end]).split()).translate(TYPOGRAPHY)
    plain = without_markup(paragraph) if MARK.search(paragraph) else paragraph
    if not plain or paragraph.endswith(":"):
        return ""
    if not plain.endswith((".", "!", "?")):
        plain += "."
    sentence = SENTENCE.match(plain)
    return sentence[1] if sentence else ""


def _ends_before(lines: Sequence[str], number: int) -> bool:
    """Whether a paragraph ends before a line: at a blank one, at a list, or where a sentence begins
    though the line above it is neither full nor closed, as below a title.
    """
    line, above = lines[number], lines[number - 1].strip()
    is_title = len(above) < 60 and above[-1:] not in ",.;:-("
    if not line.strip() or BREAK.match(line):
        return True
    return is_title and CAPITAL.match(line) is not None


def _is_fit(sentence: str, length: range, characters: str, alphabetic: float) -> bool:
    """Words of plain English, mostly, in one closed sentence."""
    words = sentence.split()
    plain = sum(WORD.fullmatch(word) is not None for word in words)
    return (
        len(words) in length
        and plain >= alphabetic * len(words)
        and sentence.isascii()
        and re.fullmatch(characters, sentence) is not None
        and not UNFIT.search(sentence)
        and not OPEN_END.search(sentence)
        and not REMAINDER.search(sentence)
        and sentence.count("(") == sentence.count(")")
        and sentence.count('"') % 2 == 0
        and len(re.findall(r"(?<!\w)'|'(?!\w)", sentence)) % 2 == 0
    )


def _as_answer(name: str, sentence: str) -> str:
    """The sentence with "It" as its subject; empty if its form is not known."""
    short = name.rpartition(".")[2]
    subject = ITSELF.match(sentence)
    if subject and (subject[1] in ("function", "method", "class", "property", "routine", short)):
        rest = sentence[subject.end() :]
        if rest.split(" ")[0] in THIRD or IS_NOUN.match(rest):
            sentence = f"It {rest}"
    sentence = re.sub("^This is (?=(?:a|an|the) )", "It is ", sentence)
    first, _, rest = sentence.partition(" ")
    if first == "It":
        return sentence if rest.split(" ")[0] in THIRD or IS_NOUN.match(rest) else ""
    adverb = ""
    if first.lower() in ADVERBS:
        adverb = first.lower() + " "
        first, _, rest = rest.partition(" ")
    word, following = first.lower(), re.split(r"[ ,.]", rest)[0]
    # `Returns of the fund` has a noun, `Returns the fund` a verb
    if word in THIRD and following != "of":
        return f"It {adverb}{word} {rest}"
    if word in VERBS and following not in ("of", "is", "are"):
        # `Sort key for rows` has a noun, `Sort the rows` a verb
        if word not in NOUNS or following.lower() in OBJECT or following.endswith("ing"):
            return f"It {adverb}{third_person(word)} {rest}"
        if word == "return":
            return f"It returns {rest}"
        return ""
    if adverb:
        return ""
    if word in ("a", "an", "the"):
        # A whole sentence has a verb before "that", "for", "if" ...
        head = RELATIVE.split(rest)[0].split()
        has_verb = any(part in FINITE for part in head) or any(part in THIRD for part in head[1:])
        return "" if has_verb else f"It is {word} {rest}"
    if word == "whether":
        return f"It tells whether {rest}"
    if word == "true" and following == "if":
        return f"It is True {rest}"
    if word in ("called", "used") and following in ("when", "by", "to", "for", "as", "in"):
        return f"It is {word} {rest}"
    if word in PARTS and following == "of":
        return f"It is the {word} {rest}"
    if word not in VERBS and NOUN_PHRASE.match(sentence):
        start = first if re.search("[A-Z]", first[1:]) or word in PROPER else word
        article = "an" if re.match("[aeiou](?!ni|se)|[AEFHILMNORSX][A-Z]", start) else "a"
        return f"It is {article} {start} {rest}"
    return ""


def _has_second_verb(answer: str) -> bool:
    """Whether a second verb lacks the ending that the first one got: "It creates and return"."""
    for match in SECOND.finditer(answer):
        word, following = match[1].lower(), match[2].lower()
        if word in VERBS and (word not in NOUNS or following in OBJECT):
            return True
    return False


# ---- arguments

SECTION = re.compile(r"(?:Other )?Parameters\n[-=]{4,}\n", re.IGNORECASE)
GOOGLE = re.compile(
    r"^(?:Args|Arguments|Parameters|Keyword [Aa]rg(?:ument)?s|Inputs?):\s*\n",
    re.MULTILINE,
)
FIELD = re.compile(
    r"^:(?:param|arg|argument|keyword)(?: [^:\n]*?)? (\w+):(.*(?:\n[ \t]+\S.*)*)",
    re.MULTILINE,
)
NAME = re.compile("(?!args$|kwargs$|self$)[A-Za-z][A-Za-z0-9_]{0,19}")
ITEM = re.compile(r"(\w+)(?: *\([^()]*(?:\([^()]*\)[^()]*)*\))? *:(?!:) *(.*)")


def arguments(documentation: str) -> list[tuple[str, str]]:
    """The arguments in a docstring of numpy's, Google's or Sphinx's style: the name of each and a
    sentence with a capital and a full stop. Descriptions that are not plain text are left out.
    """
    items = [*_numpy(documentation), *_google(documentation), *FIELD.findall(documentation)]
    described: dict[str, str] = {}
    for name, text in items:
        description = _description(text) if NAME.fullmatch(name) else ""
        if description:
            described.setdefault(name, description)
    return list(described.items())


def _numpy(text: str) -> list[tuple[str, str]]:
    items: list[tuple[str, str]] = []
    for section in SECTION.split(text)[1:]:
        body = re.split(r"\n[^\n]+\n[-=]{3,} *(?:\n|$)", "\n" + section)[0]
        for block in re.split(r"\n(?=\S)", body):
            head, _, description = block.partition("\n")
            items.append((re.split(" *:(?: |$)| *$", head)[0], description))
    return items


def _google(text: str) -> list[tuple[str, str]]:
    items: list[tuple[str, str]] = []
    for section in GOOGLE.split(text)[1:]:
        lines = re.split(r"\n(?=\S)", "\n" + section)[0].strip("\n").split("\n")
        indent = len(lines[0]) - len(lines[0].lstrip())
        for block in re.split(rf"\n {{{indent}}}(?=\S)", "\n" + "\n".join(lines)):
            if item := ITEM.match(block):
                items.append((item[1], block[item.start(2) :]))
    return items


def _description(text: str) -> str:
    sentence = _first_sentence(text.strip())
    is_fit = _is_fit(sentence, ARGUMENT_WORDS, r"[\w ,.;'\"()/+=-]+", 0.75)
    if not is_fit or UNFIT.search(sentence) or not re.match("[A-Za-z][A-Za-z-]*(?=[ ,])", sentence):
        return ""
    return sentence[0].upper() + sentence[1:]
