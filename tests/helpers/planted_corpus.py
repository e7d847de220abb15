"""A corpus whose truth is known, to hold the cleaning against: clean documents, duplicates of measured similarity, and rubbish by class.

Everything is written from the banks at the foot. There `(a|b)` is a choice and `@name` stands for an entry of the slot of that name.
"""

import base64
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from textwrap import wrap

SHINGLE = 5  # words
TOLERANCE = 0.01  # how far the similarity of near duplicates may lie from the one wanted
MIN_NEAR_WORDS = 110  # a shorter document has too few shingles to come that near


@dataclass(frozen=True, kw_only=True)
class Planted:
    id: str
    text: str
    kind: str  # clean/..., exact/..., near/... or rubbish/...
    twin: str | None  # the clean document that a duplicate was made of
    similarity: float | None  # to that one, measured


def plant(seed: int, size: int, seeds: Sequence[str] = ()) -> list[Planted]:
    """About `size` documents: two fifths clean, three tenths duplicates of these, three tenths rubbish, the same number of each class.

    They are mixed, but a duplicate lies at least a fifth of the list before or behind its twin: in another file, if the list is cut into seven or
    more. `seeds` are clean texts to take in place of our own, each once.
    """
    random = Random(seed)
    placed: list[tuple[float, Planted]] = []

    def add(kind: str, text: str, place: float, twin: Planted | None = None) -> None:
        similar = jaccard(text, twin.text) if twin else None
        placed.append(
            (
                place,
                Planted(
                    id=f"{len(placed):05d}",
                    text=text,
                    kind=kind,
                    twin=twin.id if twin else None,
                    similarity=similar,
                ),
            )
        )

    given = iter(random.sample(seeds, len(seeds)))
    for number in range(2 * size // 5):
        genre = "given" if seeds else GENRES[number % len(GENRES)]
        text = next(given) if seeds else article(random, genre)
        special = random.choice(list(SPECIAL)) if random.random() < 0.15 else None
        add(
            f"clean/{special or genre}",
            SPECIAL[special](random, text) if special else text,
            random.random(),
        )
    plain = [
        (place, one) for place, one in placed if one.kind.removeprefix("clean/") not in SPECIAL
    ]
    random.shuffle(plain)
    for kind, (share, make) in DUPLICATES.items():
        for _ in range(round(size * share)):
            n = next(
                n
                for n, (_, one) in enumerate(plain)
                if kind.startswith("exact") or len(one.text.split()) >= MIN_NEAR_WORDS
            )
            place, twin = plain.pop(n)
            add(kind, make(random, twin.text), (place + random.uniform(0.2, 0.8)) % 1, twin)
    for kind, write in RUBBISH.items():
        for _ in range(3 * size // 10 // len(RUBBISH)):
            add(f"rubbish/{kind}", write(random), random.random())
    return [one for _, one in sorted(placed, key=lambda pair: pair[0])]


def jaccard(a: str, b: str) -> float:
    """Similarity of the sets of shingles of lower-case words."""
    first, second = shingles(a), shingles(b)
    return len(first & second) / len(first | second)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


# ---- clean documents

CHOICE = re.compile(r"\(([^()|]*\|[^()]*)\)|@([a-z]+)")
ARTICLE = re.compile(r"\b([Aa])(?= (?:[aeio]|un[^i]|um|8\d*\b|1[18]\b))")


def say(random: Random, template: str) -> str:
    """A sentence of a template."""
    text = ARTICLE.sub(r"\1n", fill(random, template))
    start = 1 if text.startswith('"') else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]


def fill(random: Random, template: str) -> str:
    text = ""
    while template != text:
        text = template
        template = CHOICE.sub(
            lambda match: random.choice(
                SLOTS.get(match[2], [match[0]]) if match[2] else match[1].split("|")
            ),
            text,
        )
    return text


def article(random: Random, genre: str) -> str:
    """60 to 800 words, short ones more often, dressed as the web dresses its kind."""
    wanted = 60 * (800 / 60) ** random.random()
    own, common, paragraphs = shuffled(random, genre), shuffled(random, "common"), list[str]()
    while sum(len(paragraph.split()) for paragraph in paragraphs) < wanted:
        sentences = []
        for _ in range(1 if genre == "dialogue" else random.randint(1, 6)):
            own, common = (
                own or shuffled(random, random.choice(("essay", "story"))),
                common or shuffled(random, "common"),
            )
            sentences.append(say(random, own.pop() if random.random() < 0.6 else common.pop()))
        paragraphs.append(" ".join(sentences))
    text = random.choice(("\n", "\n\n")).join(_dressed(random, genre, paragraphs))
    if random.random() < 0.4:
        text = re.sub(r'(^|\s)"', r"\1“", text, flags=re.M).replace('"', "”").replace("'", "’")
    return text


def shuffled(random: Random, bank: str) -> list[str]:
    return random.sample(BANKS[bank], len(BANKS[bank]))


def _dressed(random: Random, genre: str, paragraphs: list[str]) -> list[str]:
    name, title = say(random, "@first @last"), say(random, random.choice(BANKS["title"]))
    some = [random.random() < 0.2 for _ in paragraphs]
    if genre == "news":
        return [title, *random.sample([f"By {name}"], random.randint(0, 1)), *paragraphs]
    if genre == "howto":
        style = random.choice(("{text}", "Step {n}: {text}", "{n}. {text}"))
        return [
            f"How To {title.title()}",
            *(style.format(n=n, text=text) for n, text in enumerate(paragraphs, 1)),
        ]
    if genre == "review":
        return [title, f"{random.randint(1, 5)} out of 5 stars", *paragraphs, f"Reviewed by {name}"]
    if genre == "forum":
        smiley = random.choice((" :)", " ;-)", " lol", "..", ""))
        return [
            f"Re: {title}",
            *(text + smiley * one for one, text in zip(some, paragraphs, strict=True)),
        ]
    if genre == "encyclopedia":
        return [
            title,
            *(
                text + f"[{random.randint(1, 40)}]" * one
                for one, text in zip(some, paragraphs, strict=True)
            ),
        ]
    if genre == "letter":
        return [
            say(random, "Dear (@first|Mr. @last|Mrs. @last|Dr. @last|all|friends),"),
            *paragraphs,
            "Yours sincerely,",
            name,
        ]
    if genre == "recipe":
        return [title, f"Serves {random.randint(2, 8)}", *paragraphs]
    # With a list: the sentences of its second paragraph
    if genre == "essay" and random.random() < 0.5:
        bullet = random.choice(("\n- ", "\n• ", "\n* "))
        paragraphs[1:2] = [
            re.sub(r"^|(?<=[.!?]) ", bullet, text).strip() for text in paragraphs[1:2]
        ]
    return paragraphs


def _told(random: Random, text: str, sentence: str) -> str:
    """With one more sentence, at the start or the end of some line."""
    lines = text.split("\n")
    number = random.choice([number for number, line in enumerate(lines) if line])
    lines[number] = random.choice((f"{sentence} {lines[number]}", f"{lines[number]} {sentence}"))
    return "\n".join(lines)


def _furnished(random: Random, text: str) -> str:
    """With the furniture of its page."""
    above = [say(random, random.choice(BANKS[one])) for one in ("menu", "cookies", "menu")]
    below = [
        say(random, random.choice(BANKS[one]))
        for one in ("calls to action", "javascript notice", "menu", "menu")
    ]
    return "\n".join([*random.sample(above, 2), text, *random.sample(below, 3)])


def _shared(random: Random, text: str) -> str:
    """With a first and a last paragraph that others have as well, on the same event or by the same author."""
    return "\n".join([random.choice(BANKS["agency"]), text, random.choice(BANKS["author"])])


def _broken(random: Random, text: str) -> str:
    """UTF-8 that was read as something else, once or twice."""
    whole = _told(
        random,
        text,
        say(
            random,
            "The (café|fiancée|naïve painter|jalapeño) “@place” cost @number € – or £@number… at @number °C.",
        ),
    )
    broken = mojibake(whole, random.choice(("cp1252", "latin-1")))
    return mojibake(broken, "cp1252") if random.random() < 0.2 else broken


def mojibake(text: str, codec: str) -> str:
    """As browsers do it: the five bytes that cp1252 leaves open stay control characters."""
    return "".join(
        bytes([byte]).decode(codec, errors="ignore") or chr(byte) for byte in text.encode()
    )


def _tokens(random: Random, text: str) -> str:
    """With the name of a special token in it."""
    token = random.choice(TOKENS)
    told = _told(random, text, f"Each answer of the model ends with {token} and a new line.")
    return random.choice((told, told, f"{text}{token}", f"{text}\n{token}", f"{token}{text}"))


TOKENS = ("[EOS]", "<|endoftext|>", "[PAD]", "[BOS]", "<s>", "</s>")
SPECIAL: dict[str, Callable[[Random, str], str]] = {
    "furnished": _furnished,
    "shared": _shared,
    "mojibake": _broken,
    "tokens": _tokens,
}


# ---- duplicates


def near(similarity: float, random: Random, text: str) -> str:
    """`text` edited until the two are `similarity` alike, within TOLERANCE: words reworded here and there or in a row, some cut, or others added."""
    parts = re.split(r"(\s+)", text.strip())  # words, and the white space between them
    length = len(parts) // 2 + 1

    def edited(n: int) -> str:  # in n words
        if manner == "cut":
            return "".join(parts[: 2 * start] + parts[2 * (start + n) :])
        if manner == "add":
            return "".join(
                [*parts[: 2 * start], *(f"{word} " for word in fresh[:n]), *parts[2 * start :]]
            )
        changed = dict(zip(order[:n], fresh, strict=False))
        return "".join(
            changed.get(i // 2, part) if i % 2 == 0 else part for i, part in enumerate(parts)
        )

    for _ in range(1000):
        manner, start = (
            random.choice(("here and there", "here and there", "in a row", "cut", "add")),
            random.randrange(length),
        )
        run = length if manner == "in a row" else random.randint(1, 4)  # words
        starts = (
            [start]
            if manner == "in a row"
            else random.sample(range(0, length, run), -(-length // run))
        )
        order = [(i + j) % length for i in starts for j in range(run)]
        fresh = " ".join(article(random, "essay") for _ in range(length // 60 + 1)).split()
        n = bisect_left(range(length), -similarity, key=lambda n: -jaccard(text, edited(n)))
        if abs(jaccard(text, edited(n)) - similarity) <= TOLERANCE:
            return edited(n)
    raise ValueError(f"no edit of {text[:60]!r} is {similarity} alike")


def _spaced(spaces: Sequence[str], random: Random, text: str) -> str:
    return re.sub(" ", lambda _: random.choice(spaces), text)


def _wrapped(random: Random, text: str) -> str:
    width = random.randint(50, 90)
    return "\n".join("\n".join(wrap(paragraph, width)) for paragraph in text.split("\n"))


# Kind: its share of the corpus, and how it is made
DUPLICATES: dict[str, tuple[float, Callable[[Random, str], str]]] = {
    "exact/same": (0.012, lambda random, text: text),
    "exact/spaces": (0.008, partial(_spaced, (" ", "  ", "\t", " \t "))),
    "exact/no-break spaces": (0.008, partial(_spaced, (" ", " ", "\u00a0", "\u2009"))),
    "exact/line ends": (0.008, lambda random, text: text.replace("\n", "\r\n\r\n")),
    "exact/one line": (0.008, lambda random, text: " ".join(text.split())),
    "exact/wrapped": (0.008, _wrapped),
    "exact/upper case": (0.008, lambda random, text: text.upper()),
    "exact/lower case": (0.008, lambda random, text: text.lower()),
    "exact/title case": (0.008, lambda random, text: text.title()),
    "near/0.7": (0.04, partial(near, 0.7)),
    "near/0.8": (0.1, partial(near, 0.8)),
    "near/0.9": (0.04, partial(near, 0.9)),
}


# ---- rubbish


def _some(bank: str, least: int, most: int, breaks: Sequence[str], random: Random) -> str:
    """So many lines of a bank, with the same break behind each or with any."""
    number = random.randint(least, most)
    templates = (
        random.sample(BANKS[bank], number)
        if number <= len(BANKS[bank])
        else random.choices(BANKS[bank], k=number)
    )
    used = breaks if random.random() < 0.3 else [random.choice(breaks)]
    write = fill if bank.startswith(("code", "html")) else say
    return "".join(write(random, template) + random.choice(used) for template in templates)


def _page(bank: str, random: Random) -> str:
    """A page of nothing but such sentences."""
    return _some(bank, 4, len(BANKS[bank]), (" ", "\n", "\n\n"), random)


def _lorem(random: Random) -> str:
    text = random.choice(("", "Lorem ipsum dolor sit amet, consectetur adipiscing elit. ")) + _page(
        "lorem ipsum", random
    )
    return random.choice(
        (text, f"{article(random, 'review')}\n{text}", f"{text}\n{article(random, 'essay')}")
    )


def _code(bank: str, random: Random) -> str:
    text = _some(bank, 8, 25, ("\n",), random).replace("\\n", "\n")
    # On one line, as it is left by an extractor that knows no <pre>
    return random.choice((text, text, " ".join(text.split())))


def _tagged(random: Random) -> str:
    """Prose with a tag every few words, its lines ending like sentences."""
    start, end = random.choice(
        (
            ("<b>", "</b>"),
            ('<a href="/page.php?id=7">', "</a>"),
            ("[url=http://forum.example/t/9]", "[/url]"),
        )
    )
    words = article(random, "forum").split(" ")
    return "<br />" + " ".join(
        f"{start}{word}{end}" if random.random() < 0.3 and word[-1:].isalpha() else word
        for word in words
    )


def _json(random: Random) -> str:
    rows = [
        {
            "id": n,
            "title": say(random, "@quality @thing"),
            "text": say(random, random.choice(BANKS["common"])),
        }
        for n in range(random.randint(4, 12))
    ]
    return random.choice(
        (
            json.dumps(rows),
            json.dumps(rows, indent=2),
            "\n".join(f'"{key}": "{row[key]}"' for row in rows for key in row),
        )
    )


def _short(random: Random) -> str:
    text, most = "Nothing here yet.", random.randint(8, 48)
    while len((longer := f"{text} {say(random, random.choice(BANKS['common']))}").split()) <= most:
        text = longer
    return text


def _symbols(random: Random) -> str:
    symbols = [
        random.choice(SLOTS["symbol"]) * random.randint(1, 4)
        for _ in range(random.randint(40, 200))
    ]
    return "".join(
        symbol + random.choice((" ", " ", f" {say(random, random.choice(BANKS['menu']))}! ", ".\n"))
        for symbol in symbols
    )


def _table(random: Random) -> str:
    separator, end = random.choice((" ", "\t", " | ")), random.choice(("", ".", "%", " |"))
    cells = "(@number,@number0|@number.@number|@few|-|@number%|@month @year|€@number)" + separator
    rows = range(random.randint(10, 50))
    return "\n".join(
        say(random, f"(@place|@thing|@month){separator}{cells * random.randint(4, 8)}").strip()
        + end
        for _ in rows
    )


def _spam(random: Random) -> str:
    """Full of one keyword: several times in a sentence, or once in most."""
    keyword, dense = (
        say(random, random.choice(BANKS["keyword"])).lower(),
        random.choice((0.0, 0.3, 1.0)),
    )
    text = _some("spam", 8, len(BANKS["spam"]), (" ", "\n"), random)
    again = re.sub(
        "(?<=KEYWORD)([^.?\n]*?)KEYWORD",
        lambda match: match[1] + ("KEYWORD" if random.random() < dense else "it"),
        text,
    )
    return again.replace("KEYWORD", keyword)


def _tags(random: Random) -> str:
    keyword = say(random, random.choice(BANKS["keyword"])).lower()
    return (
        ", ".join(
            say(random, f"(@quality {keyword}|{keyword} in @place|{keyword} @year)")
            for _ in range(random.randint(25, 90))
        )
        + "."
    )


def _repeated(unit: str, random: Random) -> str:
    lines = [line for line in article(random, "story").split("\n") if line]
    if unit == "lines":
        chorus = [
            say(random, template) for template in shuffled(random, "common")[: random.randint(1, 3)]
        ]
        return "\n".join(
            random.sample(
                some := lines + random.choices(chorus, k=len(lines) + random.randint(4, 20)),
                len(some),
            )
        )
    if unit == "paragraphs":
        return "\n\n".join(random.choices(lines, k=len(lines)) + lines)
    words = " ".join(lines).split()
    phrase = " ".join(words[: random.randint(2, 9)])
    return (
        " ".join(
            f"{word} {phrase}" if random.random() < 0.25 else word
            for word in words[: random.randint(60, 200)]
        )
        + "."
    )


def _gibberish(random: Random) -> str:
    style = random.choice(("letters", "syllables", "keys", "with stop words"))
    letters = "asdfjkl;ghqwe" if style == "keys" else "abcdefghijklmnopqrstuvwxyz"

    def word() -> str:
        if style == "with stop words" and random.random() < 0.4:
            return random.choice(
                ("the", "of", "and", "to", "in", "is", "that", "with", "have", "be")
            )
        if style == "syllables":
            return "".join(
                random.choice("bcdfghjklmnprstvwz")
                + random.choice("aeiou")
                + random.choice("  nrx")
                for _ in "xxx"
            ).replace(" ", "")
        return "".join(random.choices(letters, k=random.randint(2, 9)))

    return " ".join(
        " ".join(word() for _ in range(random.randint(4, 16))).capitalize() + "."
        for _ in range(random.randint(8, 40))
    )


def _blob(random: Random) -> str:
    data = random.randbytes(random.randint(300, 3000))
    blob = base64.b64encode(data).decode()
    blob = random.choice(
        (blob, "\n".join(wrap(blob, 76)), " ".join(wrap(blob, 64)), data.hex(" "), data.hex(" ", 4))
    )
    return (
        random.choice(
            (
                "",
                "Content-Transfer-Encoding: base64\n\n",
                "-----BEGIN CERTIFICATE-----\n",
                "This is an encoded file. ",
            )
        )
        + blob
    )


def _binary(random: Random) -> str:
    alphabet = (
        [chr(i) for i in range(random.choice((64, 256)))]
        + ["\0"] * 40
        + ["\ufffd"] * random.choice((0, 60))
    )
    return "".join(random.choices(alphabet, k=random.randint(200, 3000))) + random.choice(
        ("", " endobj stream ", "%PDF-1.4")
    )


def _foreign(language: str, random: Random) -> str:
    return "".join(
        say(random, sentence) + random.choice("  \n")
        for sentence in random.choices(LANGUAGES[language], k=random.randint(4, 30))
    )


def _late(random: Random) -> str:
    """1,000 characters of English and a little more, then twice as much in other languages."""
    english, others = "", [sentence for sentences in LANGUAGES.values() for sentence in sentences]
    while len(english) < 1000:
        english += say(random, random.choice(BANKS["common"])) + " "
    foreign = "".join(
        say(random, sentence) + random.choice("  \n") for sentence in random.sample(others, 45)
    )
    return f"{english}\n{foreign}"


# ---- banks


def _words(text: str) -> dict[str, list[str]]:
    """`name: entry|entry`, over several lines."""
    return {
        name: entries.strip().replace("\n", "|").split("|")
        for name, entries in re.findall(r"^(\w+): (.*?)(?=^\w+: |\Z)", text, re.M | re.S)
    }


def _lines(text: str) -> dict[str, list[str]]:
    """`[name]`, and an entry on each line that follows."""
    return {
        name: entries.strip().split("\n")
        for name, entries in re.findall(
            r"^\[([\w ]+)\]\n(.*?)(?=^\[[\w ]+\]\n|\Z)", text, re.M | re.S
        )
    }


SLOTS = _words("""
first: Anna|Ben|Carla|David|Elena|Frank|Grace|Henry|Ines|Jacob|Karen|Luis|Maria|Nadia|Oscar|Paula|Quentin|Rosa|Samir|Tessa|Victor|Wendy|Yusuf|Zoe
last: Abbott|Barrow|Castillo|Dunmore|Ellis|Farley|Garrison|Holloway|Ingram|Jarvis|Keller|Langley|Mercer|Norwood|Okafor|Quill|Rossi|Sato|Thorpe|Weber
place: Ashford|Bristol|Calgary|Dover|Edinburgh|Galway|Halifax|Ipswich|Kingston|Lisbon|Marlow|Nantes|Oakland|Portsmouth|Ravenna|Salem|Trieste|Utrecht
Valencia|Whitby|Zagreb|Cape Town|Denver|Genoa|Hobart|Leeds|Milford|Naples|Osaka|Perth|Riga|Seattle|Tampa|Vienna|Wellington|Boston
month: January|February|March|April|May|June|July|August|September|October|November|December
day: Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday
few: two|three|four|five|six|seven|eight|nine|ten|eleven|a dozen|twenty
body: council|hospital board|school|ministry|orchestra|police department|railway company|museum|university|harbour authority|water board|football club
charity|court|fire brigade|parish|theatre|bank|regional government|trade association|library trust
project: bridge|tram line|library|swimming pool|wind farm|hospital wing|cycle path|market hall|reservoir|bus station|observatory|flood barrier
ferry terminal|archive|concert hall|footbridge|recycling plant
thing: lantern|bicycle|notebook|kettle|ladder|clock|suitcase|violin|blanket|mirror|camera|basket|key|map|radio|sewing machine|telescope|wallet|chair
teapot|typewriter|shovel|candle|coat|parcel|newspaper|piano|rope|spoon|window|stove|drawer|envelope|painting|cupboard|whistle|compass|hammock
animal: heron|badger|terrier|goat|hedgehog|mare|crow|otter|tabby cat|spaniel|fox|swan|donkey|squirrel|owl|hen|tortoise|hare|pigeon|seal|beaver|lizard
plant: willow|fern|rosemary|oak|tomato|dahlia|lavender|pear tree|ivy|thistle|birch|rhubarb|poppy|clover|mint|juniper|walnut|orchid|chestnut|barley
food: carrots|lentils|butter|mushrooms|cream|onions|chicken|rice|potatoes|cheddar|garlic|spinach|beans|apples|flour|eggs|honey|parsley|bacon|walnuts
noodles|cabbage|salmon|ginger|yoghurt|peppers|leeks|oats|plums|cinnamon|chickpeas|celery|pumpkin|thyme|olives
job: plumber|nurse|baker|retired teacher|bus driver|carpenter|librarian|surgeon|gardener|fisherman|accountant|photographer|shepherd|waitress|cook
mechanic|translator|clerk|midwife|postman|farmer|cellist|geologist|tailor|pilot|mayor|architect|janitor|dentist|sailor
quality: quiet|cheap|heavy|reliable|narrow|cheerful|rusty|elegant|fragile|enormous|modest|damp|famous|clumsy|bright|hollow|ancient|ordinary|sturdy
warm|crooked|splendid|faded|practical|wooden|comfortable|dusty|gentle|stubborn|expensive|thin|noisy|smooth|neglected|remarkable
feeling: relief|surprise|regret|pride|impatience|joy|doubt|envy|gratitude|fear|amusement|grief|curiosity|shame|hope|anger|boredom|affection|delight
matter: housing|traffic|the water supply|public transport|school meals|noise at night|the price of fuel|the harbour|music lessons|the old town wall
street lighting|bird protection|the winter fair|coastal erosion|local history|apprenticeships|the night bus|allotments|the forest|the census
where: near the old mill|behind the station|by the river|at the edge of town|on the second floor|in the back garden|under the bridge|beside the church
along the coast road|at the top of the hill|across the square|in the cellar|next to the bakery|outside the school gate|beyond the orchard|in the attic
when: last @day|in early @month|late at night|after the first frost|before breakfast|on @day morning|during the long winter|at the end of @month
a week later|in the summer of @year|just before noon|as the sun went down|at half past @few|when the rain had stopped|towards midnight
why: because the roof was leaking|since nobody else had the time|because it costs far less than people think|as the weather was getting worse
because her brother had promised it|since the trains were not running|because children learn best that way|as there was only one key
because the soil is poor and stony|since the original had been lost|as the neighbours had complained|since half of the money was already spent
how: slowly|with great care|without a word|in a hurry|more or less by accident|with both hands|one by one|to everybody's surprise|in secret
against all advice|twice a week|in broad daylight|with a borrowed @thing|for the third time|with some @feeling|more quietly than usual
did: repaired|painted|carried|sold|forgot|borrowed|described|measured|cleaned|hid|photographed|examined|lost|admired|replaced|wrapped|drew|bought
noun: glacier|enzyme|treaty|monastery|comet|dialect|canal|fungus|alloy|migration|manuscript|volcano|currency|peninsula|parasite|fortress|legend
field: astronomy|botany|medicine|engineering|trade|navigation|music|law|agriculture|architecture|chemistry|geography|education|mining|printing|weaving
gadget: vacuum cleaner|headset|tent|blender|keyboard|rain jacket|coffee machine|bread knife|desk lamp|backpack|tablet|pair of boots|mattress
part: hinge|battery|valve|cable|filter|handle|switch|gasket|chain|motor|lid|strap|screen|pedal|zip|bracket|fuse|spring|hose|axle|button|seal
ident: total|node|buffer|index|parse|load|user|config|item|render|count|stack|value|path|token|queue|merge|split|row|cache|handler|event|width|result
symbol: ★|♥|🔥|✨|😂|👍|🎉|>>>|===|$$$|###|~*~|☆彡|►|•|!?|^_^|¯\\_(ツ)_/¯|...|⚡|💯|#sale|%|→|▓▒░
""") | {"number": [str(n) for n in range(12, 98)], "year": [str(n) for n in range(1790, 2024, 3)]}

LANGUAGES = _words("""
German: Der Zug nach @place hatte wieder @number Minuten Verspätung.|Wir haben lange über den Preis gesprochen, aber niemand wollte nachgeben.
Im Garten blühen die ersten Rosen, und die Kinder spielen bis zum Abend.|Die Stadt will bis @year eine neue Brücke bauen.|Wer fragt, lernt mehr.
French: Le train de @place est arrivé avec @number minutes de retard.|Nous avons longtemps parlé du prix, mais personne ne voulait céder.
Les premières roses fleurissent et les enfants jouent jusqu'au soir.|La ville veut construire un pont avant @year.|Il faut goûter la soupe.
Spanish: El tren de @place llegó con @number minutos de retraso.|Hablamos mucho del precio, pero nadie quiso ceder.
En el jardín florecen las primeras rosas y los niños juegan hasta la noche.|La ciudad quiere construir un puente nuevo antes del año @year.
Italian: Il treno per @place è arrivato con @number minuti di ritardo.|Abbiamo parlato a lungo del prezzo, ma nessuno voleva cedere.
Nel giardino fioriscono le prime rose e i bambini giocano fino a sera.|La città vuole costruire un nuovo ponte entro il @year.
Portuguese: O comboio de @place chegou com @number minutos de atraso.|Falámos muito sobre o preço, mas ninguém quis ceder.
No jardim florescem as primeiras rosas e as crianças brincam até à noite.|A cidade quer construir uma nova ponte até @year.
Dutch: De trein naar @place had weer @number minuten vertraging.|We hebben lang over de prijs gepraat, maar niemand wilde toegeven.
In de tuin bloeien de eerste rozen en de kinderen spelen tot de avond.|De stad wil voor @year een nieuwe brug bouwen.
Swedish: Tåget till @place var återigen @number minuter försenat.|Vi pratade länge om priset, men ingen ville ge sig.
I trädgården blommar de första rosorna och barnen leker till kvällen.|Staden vill bygga en ny bro före @year.
Polish: Pociąg do @place znów miał @number minut spóźnienia.|Długo rozmawialiśmy o cenie, ale nikt nie chciał ustąpić.
W ogrodzie kwitną pierwsze róże, a dzieci bawią się do wieczora.|Miasto chce zbudować nowy most do roku @year.
Turkish: @place treni yine @number dakika gecikti.|Fiyat hakkında uzun uzun konuştuk ama kimse vazgeçmek istemedi.
Bahçede ilk güller açıyor ve çocuklar akşama kadar oynuyor.|Şehir @year yılına kadar yeni bir köprü yapmak istiyor.
Indonesian: Kereta ke @place terlambat @number menit lagi.|Kami lama berbicara tentang harga, tetapi tidak ada yang mau mengalah.
Di kebun bunga mawar mulai mekar dan anak-anak bermain sampai malam.|Kota itu ingin membangun jembatan baru sebelum tahun @year.
Russian: Поезд опять опоздал на @number минут.|Мы долго говорили о цене, но никто не хотел уступать.
В саду цветут первые розы, и дети играют до вечера.|Город хочет построить новый мост к @year году.
Greek: Το τρένο είχε πάλι @number λεπτά καθυστέρηση.|Μιλήσαμε πολλή ώρα για την τιμή, αλλά κανείς δεν ήθελε να υποχωρήσει.
Στον κήπο ανθίζουν τα πρώτα τριαντάφυλλα και τα παιδιά παίζουν ως το βράδυ.|Η πόλη θέλει να χτίσει μια νέα γέφυρα ως το @year.
Chinese: 开往城里的火车又晚点了@number分钟。|我们谈了很久的价格，但是谁也不愿意让步。|花园里的玫瑰开了，孩子们一直玩到晚上。|汤要先尝一尝再放盐。
Japanese: 町へ行く電車はまた@number分遅れました。|値段について長い間話しましたが、誰も譲ろうとしませんでした。|庭では最初のバラが咲いています。
Korean: 시내로 가는 기차가 또 @number분 늦었습니다.|우리는 가격에 대해 오래 이야기했지만 아무도 양보하지 않았습니다.|정원에는 첫 장미가 피었습니다.
Arabic: تأخر القطار مرة أخرى @number دقيقة.|تحدثنا طويلا عن السعر ولكن لم يرد أحد أن يتنازل.|تتفتح الورود الأولى في الحديقة ويلعب الأطفال حتى المساء.
""")

BANKS = _lines(r'''
[title]
the (truth|facts|story) about @matter
(mend|choose|clean|paint|store) (a|your) @quality @thing
@few (lessons|letters|walks|notes) from @place
what the @body did @when
[common]
Nobody in @place (had expected|could explain|was ready for) it, (least of all|not even|and certainly not) the @job who lived @where.
It took @few (days|weeks|months|attempts) and (a great deal of|no small amount of|rather more) patience.
(People|Visitors|Strangers) often (ask|wonder) why the @thing (stands|was left|is kept) @where, and the answer is (simple|longer than one thinks).
(Most|Some|Many) of us (remember|know|have met) a @job who @did a @thing @how.
There was (only|always|usually) one (problem|question|exception): the @part of the @gadget (kept breaking|did not fit|had worn out).
In @year, about @number (families|workers|students) (lived|met|worked) @where, and (fewer|more) than half of them (left|stayed) @why.
(My sister|My uncle|A friend|Our neighbour) @first, a @job from @place, (swears|says|believes) that @plant and @plant grow better @where.
The (cost|price|bill) (came to|was almost|was just under) @number (dollars|pounds|euros), which (seemed|felt|was) (fair|too much|like a bargain) then.
(Even so|All the same|Still|Nevertheless), the @quality @thing (remained|stayed|was found) @where, (exactly|more or less) as @first had left it.
On the (left|right) you could see a @quality @project, and beyond it the (roofs|lights|fields|chimneys) of @place.
A @animal (sat|slept|was waiting) @where and (watched|ignored) everything that happened with (an air of|what looked like) @feeling.
Whether that is (good|bad) news depends on (whom you ask|how you look at @matter|what you hoped for).
(After|Before) (lunch|the meeting|the storm|school), @first and @first (walked|drove|cycled) to @place to look at a @quality @thing.
It is (easy|hard|tempting) to forget how (much|little) @matter (mattered|meant|cost) to (people|families) in @year.
We (talked|argued|laughed) about @matter until the (candles|lamps|lights) went out, and then about @matter until it was light again.
If you (ever|happen to) pass through @place @when, (look for|ask about|do not miss) the @quality @project @where.
What surprised (me|us|the @job) (most|more than anything) was the @feeling in the voice of the @job.
@first, who had (never|always|once) worked as a @job, knew (nothing|everything|a little) about @matter.
The rain (fell|came down) on the @plant and the @plant, and the (street|yard|path) @where turned to mud.
(Two|Three|Four) things are worth (knowing|remembering|noting) about the @project: it is @quality, it is @quality, and it (closes|opens) @when.
For @few years the @thing (hung|lay|stood) @where, until a @job from @place took it away @how.
(Looking back|In hindsight|Thinking about it now), the (signs|clues|warnings) were there @when.
The (smell|taste|thought) of @food and @food still (reminds|takes) me (of|back to) @place.
A (second|third|later) (letter|report|visit) (confirmed|denied|changed) (all of it|most of that|what @first had said about @matter).
The (road|path|railway) from @place to @place (winds|runs|climbs) through @number kilometres of @plant and @plant.
[news]
The @body of @place (said|announced|confirmed) @when that its new @project will (open|be finished|cost more than planned|be delayed) until @month.
"We have (waited|worked|argued) @few years for this @project," said @first @last, a @job who lives @where.
(Police|Officials|Witnesses) said that @number people were (rescued|evacuated|treated) after a (fire|flood|landslide|collision) @where @when.
A spokesman for the @body (declined|refused|was unable) to (comment|say) on (reports|claims) that the @part had failed @when.
The (vote|ruling|decision), @few to @few, (ends|follows|reopens) a (dispute|debate) over @matter that began in @year.
Unemployment in @place (fell|rose) to @few percent in @month, according to (figures|a study) (published|released) by the @body.
@first @last, @number, was (elected|appointed|named) head of the @body @when after @first @last (resigned|retired|stepped down) @why.
The (train|ferry|bus) service between @place and @place will (resume|stop|be reduced) @when, the operator said in a statement.
(Farmers|Shopkeepers|Teachers|Parents) in the region have (protested|warned|complained) for months about @matter and @matter.
"It is a (sad|great|strange) day for @place," @last (told reporters|said|added), "and we shall remember it with @feeling."
Heavy (rain|snow|winds) (closed|damaged|cut off) roads @where, and about @number homes were without (power|water) @when.
The home side from @place won by @few points to @few after @first @last was (injured|sent off|replaced) @when.
A court in @place (cleared|fined|convicted) a former @job who had @did a @thing belonging to the @body.
[howto]
(First|To begin|Before you start), (unplug|empty|clean) the @gadget and (lay|put|place) it on a @quality surface @where.
(Loosen|Remove|Check) the @part with a (screwdriver|wrench|coin|soft cloth), and (keep|put) the screws in a (cup|bowl|jar).
Do not (force|bend|pull) the @part; if it (sticks|resists), warm it (gently|for a minute) and try again.
(Measure|Mark|Cut) twice the length that you need, and (leave|allow) about @number millimetres at either end.
You can (buy|find|order) a new @part for less than @number dollars in (any|most) hardware (shop|store), or ask a @job.
(Wait|Leave it|Let it dry) for @few hours before you (touch|move|use) it, even if it (looks|feels) (dry|ready|fine).
Plant the @plant in (sandy|rich|damp) soil @where, and water it @few times a week until @month.
(Hold|Turn|Push) the (lid|handle|lever) (firmly|gently) until you (hear|feel) a click.
When you have finished, (wipe|sweep|rinse) everything with warm water and (hang|put) the @thing back @where.
A common mistake is to (tighten|paint|fill) the @part before the @part, which makes it (impossible|hard) to (adjust|clean) later.
If nothing (happens|moves), (check|look at) the @part again: in @few cases out of ten, that is where the (fault|trouble) lies.
To keep (moths|mice|damp|rust) away, put a little @plant in the drawer and change it (every|each) @month.
You will (need|want) a @thing, some @quality string, a sharp knife and about @few metres of tape.
[review]
I (bought|ordered|picked up) this @gadget @when @why, and (so far|overall|on the whole) I am (pleased|disappointed|impressed).
The @part feels (solid|flimsy|cheap|well made), and after @few weeks of daily use it (still works|came loose|started to squeak).
(Delivery|Shipping) took @few days, and the box was (dented|intact|far too big).
Compared with my old @gadget, this one is (quieter|heavier|faster|smaller), and the @part is much easier to clean.
My (wife|husband|son|daughter|flatmate) (hates|loves|hardly notices) the colour, but then it is only a @gadget.
I would (happily|never|probably) buy it again, (especially|but only) at @number dollars.
(Staff|The people at the desk|The owners) were (friendly|rude|helpful), and our room had a view of the @project.
The second chapter, in which @first @last @did a @thing in @place, is the (best|weakest|funniest) of the book.
(Customer service|Support) (answered|replied|called back) within @few hours and sent a new @part @how.
It (survived|failed) a (week|night) of rain @where, which is (more|less) than I can say of my last @gadget.
Battery life is (poor|excellent|acceptable): I got @few hours with everything switched on, and @number in standby.
At this price there are (better|worse|few other) choices, and @first @last of our local club agrees.
[forum]
Hi all, (long time reader|first post here|new member), I've got a @gadget from @year and the @part is driving me (mad|crazy|up the wall).
Has anyone (tried|managed|had any luck) to (swap|fix|replace) the @part on one of these without (breaking|removing) the @part?
I took it to a @job in @place and he (told|charged) me something like @number bucks just to look at it.
Don't bother with the cheap @part, I (went|got) through @few of them in a month.
My @animal (ate|hid|knocked over) the @part, so I'm back to square one, and yes, I know it's my own fault.
@first, you were (right|wrong) about the @part, it (was|wasn't) the @part after all, thanks (a lot|anyway|again)!
Same (problem|thing|story) here, (started|happened) @when, and it only does it if you've got the @gadget @where.
(Anyway|Well|So), here's what I did: took the @part off, cleaned it with vinegar, put it back @how, and it's been fine since @month.
Sorry for the (late|long|silly) reply, I've been in @place with the kids and there's no signal @where.
That's (nonsense|not true|half true), mate, I've been a @job for @number years and I've never seen a @part fail like that.
I (read|heard) somewhere that you shouldn't (store|wash|charge) a @gadget near a @thing, is that (true|still true|a myth)?
Great thread, I've learned more about @matter in @few pages than in @few years of owning a @gadget.
[encyclopedia]
The @noun of @place is a (large|small|well-preserved|little-known) @noun (first described|mentioned|recorded) in @year by the @job @first @last.
It (lies|is situated|stands) about @number kilometres (north|south|east) of @place, (between|close to) a @quality canal and a forest of @plant.
During the reign of his successor, @field and @field (flourished|declined|were encouraged), and the @noun became a centre of (learning|trade).
The (term|name|word) is (thought|said|believed) to derive from an older (name|word) for a @thing or, in another account, for a @animal.
In @year the @body (bought|restored|demolished) the building, (whose|of which the) western wing (dates|survives) from @year.
The adult @animal reaches a length of @number centimetres and feeds (mainly|almost entirely) on @plant, seeds and small insects.
Its population, estimated at @number thousand in @year, has since (declined|doubled|recovered) owing to changes in @field.
(Early|Later|Medieval) sources (disagree|are silent) on the cause of the @noun, which has been (linked|attributed) to drought, war and @feeling.
@first @last (1790 to 1853|1811 to 1879|1846 to 1902|1888 to 1967) was a @job and writer on @field who (taught|died|was born) in @place.
The (festival|market|procession) is held each @month and (attracts|draws) some @number thousand visitors from as far away as @place.
The (first|second|oldest) edition was printed in @place in @year and contains @number woodcuts of a @animal, a @thing and a @noun.
Under the (act|charter|constitution) of @year, the @body is (elected|appointed) for a term of @few years and answers to the court of @place.
The climate is (mild|continental|dry), with an average of @number rainy days a year and frost from @month to @month.
[letter]
Thank you (so much|very much|again) for your (letter|parcel|kind words) of @month, which (reached|found) me in @place.
I am (writing|sorry) to (tell|inform) you that the @thing you (lent|sold|gave) us has (arrived|disappeared|broken) @how.
We (hope|trust) that you and @first are well and that the trouble with your @part is (over|behind you).
Would you be (willing|able) to (come|speak|stay) with us @when, or does your work as a @job keep you in @place?
As you (know|may have heard), the @body has (refused|agreed) to pay for the @project, and I cannot hide my @feeling.
Your mother (sends|gave) me her regards and (says|writes) that the @plant you planted @where is now taller than the house.
It has (rained|snowed|been hot) here for @few weeks, and the @plant has (suffered|never looked better).
Please (let me know|write and tell me) by the end of @month whether @number chairs will be (enough|too many).
I (often|still|sometimes) think of the evening when you @did the @thing and we all laughed until we cried.
With regard to your invoice of @month, I must point out that only @few of the @few items were ever delivered.
Forgive me for not having written (sooner|before), but @matter has kept me busy from morning to night.
[dialogue]
"Where did you (find|put|leave) the @thing?" (asked|said|whispered) @first.
"@where, (I think|of course|as always)," said @first, and @did the @thing @how.
"I don't know," said @first.
"(You can't be serious|You never told me that|That's impossible), @first. What did the @job say about @matter?"
"(Nothing|Not a word|Only that it would rain)," @first (replied|answered|muttered). "He just looked at the @animal and left @when."
@first (put down|picked up|stared at) the @thing. "And you (believed|trusted|paid) him?"
"Why not? He has been a @job for @number years, and he knows more about @field than the whole @body."
"Listen," said @first, (leaning forward|closing the door|lowering his voice). "There is something I should have told you about @place."
For a while (neither of them|nobody) spoke, and there was only the sound of the @animal @where.
"If you go to @place @when," @first (warned|advised|promised), "take a coat, a @thing and somebody who can cook @food."
"(Tell|Ask|Show) me again," said the @job with (some|a little) @feeling, "and this time (begin|start) with the @animal."
@first laughed. "You sound like your father. He also (hated|mended|sold) every @gadget that came into the house."
"(How|And how) much did you pay for it?" "@number, and they threw in a @thing."
"Then it is (settled|decided)," said @first, "and I shall (write|speak) to the @body about @matter myself, @how."
[recipe]
(Peel|Chop|Slice|Wash) the @food and (fry|soften|brown) them in a little (oil|butter) for @few minutes over a (low|medium|gentle) heat.
Add the @food and a (pinch|spoonful|handful) of @food, stir well, and let everything (simmer|rest|bubble) until it (thickens|smells sweet).
In a large bowl, (mix|beat|whisk) @few eggs with @number grams of @food until (pale|smooth|light).
My grandmother in @place always (added|used) @food here, but @food (does|works) just as well.
Pour in about @number millilitres of (stock|milk|water|white wine), cover the pan and (wait|leave it) for @number minutes.
Preheat the oven to 2@number degrees, and (grease|line) a tin with butter.
(Serve|Eat) it (hot|warm|cold) with @food, a green salad and (bread|potatoes|a glass of cider).
(Sprinkle|Cover) the top with @food and bake until the edges are (crisp|brown) and a knife comes out clean.
If you cannot find fresh @food, take frozen, but (drain|squeeze) it well or the base turns soggy.
Cut the @food into pieces the size of a (thumb|walnut|matchbox), so that they cook at the same speed.
This is a dish for a cold @day in @month, when the (market|garden) has little to offer but @food and @food.
For @few people you need about @number grams of @food, half as much @food and one (large|small) onion.
[essay]
There are (two|three) ways to think about @matter, and (most|almost all) of us use the wrong one.
(Consider|Take|Think of) the @job who @did a @thing @when: was that courage, or only @feeling?
What we call @feeling is (often|rarely|sometimes) nothing but the memory of a @quality @thing.
(Politicians|Economists|Journalists) speak of @matter as if it were weather, something that cannot be (changed|argued with).
(Small|Great) towns such as @place live from @matter, and they (die|change) when @field (leaves|moves) to @place.
An hour spent (watching|drawing|feeding) a @animal teaches (more|less) about patience than @few years of @field.
(Freedom|Comfort|Progress), like @food, is best in small portions, and it spoils when it is left @where.
I do not (mean|claim) that @place was better in @year; it was merely slower, and slowness has its own kind of @feeling.
A city that cannot (afford|spare) a @project for its children will (soon|one day) pay for it @how.
The statistics on @matter are (clear|dull|misleading) enough, yet they leave out the @feeling of those who live @where.
(Somebody|A reader) will object that @matter is too (complicated|costly|serious) to be left to a @job.
To (travel|read|garden) is to discover that one's own @quality habits are somebody else's @noun.
[story]
The @thing had been standing @where for as long as @first could remember.
@first woke @when with the feeling that somebody had @did the @thing @how.
There was a knock at the door, and outside stood a @job with a @animal under one arm and a @thing under the other.
She (ran|crept|walked) down to the (harbour|river|station), where the last (boat|train) to @place was about to leave.
He had @few coins in his pocket, a @quality coat and a letter that he did not dare to open.
By the time they reached @place, the (snow|fog|dust) was so thick that they could no longer see the @animal.
The (old|young|tall) @job (unlocked|climbed over|looked behind) the @quality gate and called her name, but only a @animal answered.
They (hid|buried|shared) the @thing @where and swore never to (mention|look for) it again.
"I will (wait|come back|find it)," he had said, and for @number years she had (believed|almost forgotten) it.
The @animal looked at him with @feeling, turned round @few times and lay down on the @thing.
Behind the @project they found a staircase, @number steps of (stone|wet iron|rotten wood), leading down into the dark.
And so the @thing went from @first to @first, and from @place to @place, until @when it came back to the shelf @where.
[agency]
A storm that crossed the western counties overnight left thousands without power, and rail operators warned passengers not to travel before Thursday.
The long-running inquiry into the harbour tunnel heard on Tuesday that two of its three pumps had not been inspected since the day they were built.
More than forty choirs from nine countries will sing in the cathedral this weekend, the largest meeting of its kind since the festival began.
[author]
The author has written about small towns for more than twenty years and lives by the sea with two cats. She is working on a novel.
The views in this article are those of the writer and do not reflect those of the paper. Letters to the editor may be shortened.
If you enjoyed this story, tell a friend about it, or come to our monthly reading in the library, where there is always tea.
[cookies]
(This website|Our site|We) (uses cookies|use cookies) to (improve your experience|analyse traffic|personalise content and ads).
By continuing to (browse|use) this site you (agree|consent) to our (use of cookies|cookie policy|privacy policy).
We and our @number partners store and access information on a device, such as unique identifiers, to process personal data.
You (may accept or manage|can change) your choices at any time by clicking (below|on the settings button), including your right to object.
(Cookies|These technologies) help us (deliver our services|remember your preferences|understand how visitors use our pages).
Some of our partners process your data on the basis of legitimate interest and do not ask for your consent.
(Click|Press|Select) "Accept all" to consent to the (processing|storage) of your data, or "Reject" to (decline|continue without accepting).
Strictly necessary cookies cannot be switched off, because the site would not work without them.
Targeting cookies may be set through our site by our advertising partners to build a profile of your interests.
You can withdraw your consent at any time with effect for the future.
If you do not allow these cookies, you will (experience|see) less targeted advertising.
Accept all (Reject all|Manage preferences)
[javascript notice]
(Please enable JavaScript|You need to enable JavaScript|JavaScript must be enabled) to (view|use|run) this (page|site|app).
(Your browser does not support|It appears that you have disabled|This page requires) JavaScript.
Scripts are (disabled|blocked) in your browser, so (some|most) of the features of this page will not work.
Please turn on scripts in the settings of your browser and reload the page.
This (site|application) works best with a modern browser such as the latest version of Chrome, Firefox, Safari or Edge.
Checking your browser before accessing the website.
This process is automatic, and your browser will redirect to your requested content shortly.
(Enable|Allow) scripts and (cookies|pop-ups), then (press|click) (refresh|reload) to continue.
If you are using an ad blocker, please switch it off or add this site to the list of exceptions.
You are seeing this (message|page) because (scripting|active content) is not available on your device.
[calls to action]
(Sign up|Subscribe|Register) (now|today|here) for our (free|weekly) newsletter and never miss (an offer|a story|our news)!
(Click|Tap) here to (read more|see all comments|leave a reply|download the app|share this page).
(Follow|Like|Find) us on Facebook, Twitter, Instagram and YouTube!
Share this (article|story|page) with your friends.
(Log in|Sign in) or create an account to (leave|post|write) a comment.
(Call|Email|Contact) us today for a free, no-obligation quote!
(Book|Order|Reserve) online now and save @number percent on your first (order|stay|visit).
Enter your email address to follow this (blog|shop) and receive notifications of new posts by email.
Your email address will not be published, and required fields are marked.
All rights reserved, and no part of this page may be reproduced without permission.
Thank you for (visiting|reading), and do not forget to rate us with five stars!
Add to (wish list|basket|compare), or ask a question about this (item|product).
[terms of use]
These terms (govern|apply to) your access to and use of the (service|website|software), and by using it you accept them in full.
(The company|We) may (modify|amend|suspend) these terms at any time, and your continued use of the (service|website) constitutes acceptance.
The (service|website) is provided "as is" without warranties of any kind, either express or implied.
In no event shall the company be liable for any indirect, incidental, special or consequential damages.
You agree to indemnify and hold harmless the company, its officers, directors and employees from any claim or demand.
If any provision of this agreement is held to be invalid, the remaining provisions shall remain in full force and effect.
This agreement shall be governed by the laws of (Delaware|England and Wales|California), without regard to conflict of law principles.
You are granted a limited, non-exclusive, non-transferable and revocable licence to access the (service|website).
You may not reproduce, distribute, modify or create derivative works without our prior written consent.
We reserve the right to terminate your account at our sole discretion, without notice or liability.
Our privacy policy explains how we collect, use and disclose information about you.
The failure to enforce any right or provision of these terms of use will not be considered a waiver of those rights.
[error page]
(404|Error 404|Oops): the page you (requested|are looking for) (could not be found|has moved or no longer exists).
Please check the address for errors, or go back to the home page.
You do not have permission to access this resource on this server.
Please complete the security check to continue, and prove that you are not a robot.
This domain (is for sale|has expired|is parked free of charge).
Your session has (expired|timed out), so please log in again to continue.
This content is not available in your (country|region).
The server encountered an internal error and was unable to complete your request.
Your IP address has been logged, and the reference number is @number@number@number.
Sorry, something went wrong, and our team has been notified.
[lorem ipsum]
Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore magna aliqua.
Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo consequat.
Duis aute irure dolor in reprehenderit in voluptate velit esse cillum dolore eu fugiat nulla pariatur.
Excepteur sint occaecat cupidatat non proident, sunt in culpa qui officia deserunt mollit anim id est laborum.
Sed ut perspiciatis unde omnis iste natus error sit voluptatem accusantium doloremque laudantium.
Pellentesque habitant morbi tristique senectus et netus et malesuada fames ac turpis egestas.
[menu]
(Home|About us|Contact|Products|News|Blog|FAQ|Careers|Support|Search|Sale|Sitemap|RSS|Print|English|Returns|Weather|Sports|Politics|Opinion)
(Log in|Sign up|My account|Basket: 0|Store locator|Gift cards|Help centre|Next|Previous|View all|Read more|Back to top|Terms of use|Privacy)
(Men's shoes|Women's coats|Kids|@month @year|Comments: @few|Share on Facebook|Follow us|Photos of @place|Jobs in @place|Hotels in @place)
[products]
@quality @thing, size @number - $@number.99
@quality @gadget in @quality black, was $@number.00, now only $@number.50.
Add to cart.
In stock. Ships within @few days.
SKU: @number@number-@number | Weight: 0.@number kg | Colour: black
@gadget with @part and @part, pack of @few, £@number.95 incl. VAT
Free delivery on orders over $@number!
Price: €@number,@number Qty: 1 Add to basket
Buy @few @thing sets and get one free.
Spare @part for @gadget, model @number@number, $@number.
[keyword]
cheap (flights|hotels) @place
best (payday|car|home) loans
(discount|luxury|used) @gadget
(plumber|locksmith|dentist) @place
(weight loss pills|online casino bonus|essay writing service)
[spam]
Are you looking for KEYWORD? Then you have found the best place for KEYWORD on the internet.
Our KEYWORD is the best KEYWORD that you can get, and KEYWORD has never been so easy.
With KEYWORD you save time and money, because KEYWORD from us is the number one KEYWORD.
KEYWORD, KEYWORD reviews, top KEYWORD, KEYWORD near me, KEYWORD @year.
Many customers search for KEYWORD every day and choose our KEYWORD for its quality.
Do not wait, get your KEYWORD today with our KEYWORD guarantee.
When it comes to KEYWORD, nobody knows KEYWORD like we do.
Why choose KEYWORD? Because KEYWORD is trusted by thousands of people who need KEYWORD.
Read our guide to KEYWORD to learn all about KEYWORD and how KEYWORD can help you.
If you want KEYWORD in @place, our KEYWORD team is ready to help with any KEYWORD.
Everybody loves KEYWORD, and with our KEYWORD coupons you will love KEYWORD too.
[html]
<div class="@ident-@ident">
</div>
<li><a href="/@ident/@number">@thing</a></li>
<img src="/img/@ident@number.jpg" alt="A @quality @thing." />
<td align="right">@number</td><td>@month</td>
<meta name="description" content="All about @matter in @place.">
<!-- @ident: begin of the @ident -->
<p>&nbsp;The @quality @thing (is|was) (sold|made) @where.</p>
[code Python]
import @ident\nfrom @ident.@ident import @ident, @ident
def @ident(@ident, @ident=None):\n    """Return the @ident of the @ident."""\n    return @ident[@number] + @ident
class @ident(@ident):\n    """Keeps a @ident for every @ident until it is old."""\n\n    def __init__(self, @ident):\n        self.@ident = @ident
# The @ident must be sorted before the @ident is read.\nfor @ident in sorted(self.@ident):\n    @ident.append(@ident * @number)
if not @ident:\n    raise ValueError("the @ident is empty")\nprint("done with the @ident.")
with open(@ident) as @ident:\n    @ident = [line.strip() for line in @ident if line]
assert @ident == @number  # see the note on the @ident above.
[code SQL and shell]
SELECT @ident, COUNT(*) AS n FROM @ident WHERE @ident > @number GROUP BY @ident;
-- The @ident of each @ident, with the newest first.\nCREATE TABLE @ident (id INTEGER PRIMARY KEY, @ident TEXT NOT NULL);
#!/bin/sh\nset -e\ncd /var/@ident || exit 1\ngrep -r "@ident" . > /tmp/@ident.txt
echo "The @ident has been removed."
[code with brackets]
function @ident(@ident) { return @ident.map(x => x * @number); }
// Frees the @ident when the last @ident is gone.\nvoid @ident_@ident(struct @ident *p) { free(p->@ident); }
#include <@ident.h>\n#define @ident @number
.@ident > .@ident { margin: 0 @numberpx; color: #fff; }
fn @ident(&self) -> Result<@ident, Error> { self.@ident.get(@number).ok_or(Error::@ident) }
const { @ident, @ident } = require("./@ident");
[code logs]
@year-01-@number 12:@number:@number,@number INFO [@ident-@few] org.@ident.@ident - Started the @ident in @number ms.
Traceback (most recent call last):\n  File "/srv/@ident/@ident.py", line @number, in @ident\n    @ident(@ident)\nKeyError: "@ident"
10.0.@number.@number - - [@number/Mar/@year] "GET /@ident/@ident.png HTTP/1.1" 200 @number@number
diff --git a/@ident.c b/@ident.c\n@@ -@number,6 +@number,7 @@\n-  @ident = @number;\n+  @ident = @number + 1;
''')

GENRES = (
    "news",
    "howto",
    "review",
    "forum",
    "encyclopedia",
    "letter",
    "dialogue",
    "recipe",
    "essay",
    "story",
)
PAGES = ("cookies", "javascript notice", "calls to action", "terms of use", "error page")
RUBBISH: dict[str, Callable[[Random], str]] = {
    **{bank: partial(_page, bank) for bank in PAGES},
    **{bank: partial(_code, bank) for bank in BANKS if bank.startswith("code")},
    "html": partial(_some, "html", 15, 60, ("\n", "", " ")),
    "tagged prose": _tagged,
    "json": _json,
    "lorem ipsum": _lorem,
    "menu": partial(_some, "menu", 30, 90, ("\n", " | ", " » ", " ", " · ", "\n* ", ".\n")),
    "products": partial(_some, "products", 12, 50, ("\n",)),
    "links": lambda random: "\n".join(
        fill(random, "http://www.@ident.example/@quality/@number.html")
        for _ in range(random.randint(10, 60))
    ),
    "too short": _short,
    "symbols": _symbols,
    "tables": _table,
    "spam": _spam,
    "tags": _tags,
    **{f"repeated {unit}": partial(_repeated, unit) for unit in ("lines", "paragraphs", "phrases")},
    "gibberish": _gibberish,
    "blob": _blob,
    "shouting": lambda random: (
        (_page("calls to action", random) + _page("spam", random).replace("KEYWORD", "pills"))
        .upper()
        .replace(".", "!!!")
    ),
    "empty": lambda random: random.choice(
        ("", " ", "\n\n", "\t \n", "\u00a0\u2003\n", "\0", "\ufeff")
    ),
    "binary": _binary,
    **{f"foreign {language}": partial(_foreign, language) for language in LANGUAGES},
    "foreign after English": _late,
}
