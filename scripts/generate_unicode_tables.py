"""Write runtime/src/tokenizer/unicode_*.inc: what Hugging Face's `tokenizers` does with each Unicode code point.

The library takes its Unicode data from several crates, each of another Unicode version, and some of its properties are
none that the standard has. So nothing is read from the standard: every table is measured from the installed package,
and is what tests/runtime/test_tokenizer_unicode.py checks the C++ against. Run it when constraints.txt moves to a new
`tokenizers`: .venv/bin/python scripts/generate_unicode_tables.py
"""

from __future__ import annotations

import collections
import itertools
import struct
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

import tokenizers
from tokenizers import normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)
ACUTE, ZWJ = "\u0301", "\u200d"
KA, VIRAMA = "\u0915", "\u094d"  # a consonant and the linker that joins it to the next
FOLDER = Path(__file__).parents[1] / "runtime/src/tokenizer"

# Bits of a class, as unicode.h has them.
WHITESPACE, REMOVED, PUNCTUATION, NONSPACING, MARK, WORD = (1 << bit for bit in range(6))
GRAPHEMES = ["other", "control", "extend", "zwj", "spacing", "prepend", "l", "v", "t", "pictographic"]
CONJUNCTS = ["none", "consonant", "linker", "extend"]


def precompiled(key: str, content: str) -> Callable[[str], str]:
    """A SentencePiece character map of one entry: what begins with `key`, inside a grapheme, becomes `content`."""
    units = [0] * (256 * (len(key.encode()) + 2))
    units[0] = 256 << 10
    base = 256
    for byte in key.encode():
        position = base ^ byte
        base += 256
        units[position] = byte | (position ^ base) << 10
    units[position] |= 1 << 8
    units[base] = 1 << 31
    table = struct.pack(f"<I{len(units)}I", 4 * len(units), *units)
    return normalizers.Precompiled(table + content.encode() + b"\0").normalize_str


def matching(probe: Callable[[str], bool]) -> set[int]:
    return {c for c in CODE_POINTS if probe(chr(c))}


def graphemes() -> tuple[dict[int, int], dict[int, int]]:
    """Of each code point the class that decides where graphemes end, and the part it plays between consonants.

    A map applies to the whole of a grapheme of at most five bytes, else to each of its code points: so the text after
    a possible boundary comes out in another way when it begins a grapheme of its own. Regional indicators take four
    bytes each, so where their pairs end never shows: they are "other".
    """
    a, acute, copyright = precompiled("a", "!"), precompiled(ACUTE, "!"), precompiled("©", "!")
    syllable, vowel, final, consonant = (precompiled(c, "!") for c in ("\uac01", "\u1160", "\u11a8", KA))

    def joins(text: Callable[[str], str], before: str, after: str) -> set[int]:
        return matching(lambda c: text(before.replace("c", c) + after + ACUTE).endswith(ACUTE))

    prepend = joins(a, "c", "a")
    control = matching(lambda c: acute(c + ACUTE + "\u0300") == c + "!")
    extending = matching(lambda c: a("a" + c) == "!")
    extend = joins(copyright, "©c" + ZWJ, "©") & extending
    pictographic = joins(copyright, "c" + ZWJ, "©") - prepend - extending - control
    before_syllable = joins(syllable, "c", "\uac01") - prepend
    before_vowel, before_final = joins(vowel, "c", "\u1160") - prepend, joins(final, "c", "\u11a8") - prepend
    classes = dict.fromkeys(CODE_POINTS, 0)
    for name, members in {
        "control": control,
        "extend": extend,
        "spacing": extending - extend,
        "prepend": prepend,
        "l": before_syllable,
        "v": (before_vowel & before_final) - set(HANGUL),
        "t": before_final - before_vowel - set(HANGUL),
        "pictographic": pictographic,
    }.items():
        classes |= dict.fromkeys(members, GRAPHEMES.index(name))
    classes[ord(ZWJ)] = GRAPHEMES.index("zwj")

    linker = joins(consonant, KA + "c", KA) - prepend
    conjuncts = dict.fromkeys(CODE_POINTS, 0)
    consonants = joins(consonant, "c" + VIRAMA, KA) - prepend - extending
    conjuncts |= dict.fromkeys(consonants, CONJUNCTS.index("consonant"))
    between = joins(consonant, KA + "c" + VIRAMA, KA) & extending
    conjuncts |= dict.fromkeys(between - linker, CONJUNCTS.index("extend"))
    conjuncts |= dict.fromkeys(linker, CONJUNCTS.index("linker"))
    return classes, conjuncts


def combining_classes(nfd: Callable[[str], str]) -> dict[int, int]:
    """The canonical combining class, 0 where none: by what a mark may change places with."""
    marks = [c for c in map(chr, CODE_POINTS) if nfd(c) == c and nfd("\u0345" + c) != "\u0345" + c]
    known = {unicodedata.combining(mark): mark for mark in marks if unicodedata.combining(mark)}
    result = {0x0345: 240}
    for mark in marks:
        # Only marks of one class keep their order both ways.
        result[ord(mark)] = next(
            value
            for value, other in known.items()
            if nfd(other + mark) == other + mark and nfd(mark + other) == mark + other
        )
    return result


def rows(numbers: Iterable[int]) -> str:
    lines = [""]
    for text in (f"{number}," for number in numbers):
        if len(lines[-1]) + len(text) > 118:
            lines.append("")
        lines[-1] += text
    return "".join(f"    {line}\n" for line in lines).replace("    ", "  ")


def write(name: str, what: str, tables: dict[str, str]) -> None:
    text = f"// {what} Written by scripts/generate_unicode_tables.py from tokenizers {tokenizers.__version__}.\n"
    for declaration, body in tables.items():
        text += f"constexpr {declaration}[] = {{\n{body}}};\n"
    (FOLDER / name).write_text(text)


def write_properties(nfd: Callable[[str], str]) -> None:
    def bert(**options: bool) -> Callable[[str], str]:
        chosen = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
        return normalizers.BertNormalizer(**chosen | options).normalize_str  # type: ignore[arg-type]

    cleaned, stripped, unmarked = bert(clean_text=True), bert(strip_accents=True), normalizers.StripAccents()
    punctuation, whitespace = pre_tokenizers.Punctuation(), pre_tokenizers.WhitespaceSplit()
    words = pre_tokenizers.Whitespace()
    flags = {
        WHITESPACE: matching(lambda c: len(whitespace.pre_tokenize_str(f"a{c}a")) == 2),
        REMOVED: matching(lambda c: cleaned(f"a{c}") == "a"),
        PUNCTUATION: matching(lambda c: len(punctuation.pre_tokenize_str(f"a{c}a")) == 3),
        NONSPACING: matching(lambda c: nfd(c) == c and stripped(c) == ""),
        MARK: matching(lambda c: unmarked.normalize_str(c) == ""),
        WORD: matching(lambda c: words.pre_tokenize_str(f"a{c}")[0][0] == f"a{c}"),
    }
    assert flags[WHITESPACE] == matching(lambda c: words.pre_tokenize_str(c) == [])
    marks = combining_classes(nfd)
    grapheme, conjunct = graphemes()
    keys = []
    for c in range(0x110000):
        if c in HANGUL:  # in the code: an algorithm tells its two kinds of syllables apart
            key = (WORD, 0, 0, 0)
        elif 0xD800 <= c < 0xE000:
            key = (0, 0, 0, 0)
        else:
            bits = sum(flag for flag, members in flags.items() if c in members)
            key = (bits, grapheme[c], conjunct[c], marks.get(c, 0))
        keys.append(key)
    classes = [key for key, _ in collections.Counter(keys).most_common()]
    runs = [(sum(1 for _ in group), classes.index(key)) for key, group in itertools.groupby(keys)]
    write(
        "unicode_properties.inc",
        "What each code point is; most are of the first class.",
        {
            "CodePointClass kClasses": "".join(
                f"    {{{bits}, Grapheme::k{GRAPHEMES[g].title()}, Conjunct::k{CONJUNCTS[k].title()}, {ccc}}},\n"
                for bits, g, k, ccc in classes
            ),
            "uint32_t kRuns": rows(number for run in runs for number in run),
        },
    )


def mapping(entries: dict[int, str]) -> str:
    """Runs of entries that follow each other: how far the first is from the last of the run before, how many they are,
    the length of each, and then their contents, each code point less that of the run's entry before."""
    runs: list[tuple[int, list[str]]] = []
    for c, content in sorted(entries.items()):
        if runs and c == runs[-1][0] + len(runs[-1][1]) and len(content) == len(runs[-1][1][0]):
            runs[-1][1].append(content)
        else:
            runs.append((c, [content]))
    numbers, end = [], 0
    for first, contents in runs:
        numbers += [first - end, len(contents), len(contents[0])]
        before = [0] * len(contents[0])
        for content in contents:
            points = [ord(c) for c in content]
            numbers += [point - earlier for point, earlier in zip(points, before, strict=True)]
            before = points
        end = first + len(contents)
    return rows(numbers)


def changed(normalize: Callable[[str], str]) -> dict[int, str]:
    return {c: normalize(chr(c)) for c in CODE_POINTS if c not in HANGUL and normalize(chr(c)) != chr(c)}


def write_mappings() -> None:
    nfd, nfc = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
    canonical, compatible = changed(nfd), changed(normalizers.NFKD().normalize_str)
    # The first code points of a composite compose too, so that the last one alone is missing.
    composites = [c for c, content in canonical.items() if nfc(content) == chr(c)]
    assert all(len(nfc(canonical[c][:-1])) == 1 for c in composites)
    never = [c for c, content in canonical.items() if len(content) > 1 and c not in composites]
    write(
        "unicode_mappings.inc",
        "What a code point becomes; decompositions are full ones, and compatible ones follow where they differ.",
        {
            "int32_t kLowercase": mapping(changed(normalizers.Lowercase().normalize_str)),
            "int32_t kCanonical": mapping(canonical),
            "int32_t kCompatible": mapping({c: s for c, s in compatible.items() if canonical.get(c) != s}),
            "int32_t kNotComposed": rows(never),
        },
    )


def main() -> None:
    nfd = normalizers.NFD().normalize_str
    write_properties(nfd)
    write_mappings()


if __name__ == "__main__":
    main()
