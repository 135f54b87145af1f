"""Every code point, alone and among others, through each step of the tokenizer: judged by `tokenizers`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizer_files import MOST_TOKENS, Pair, byte_tokenizer, charsmap, piece_tokenizer
from tokenizers import normalizers, pre_tokenizers

CODE_POINTS = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
# Alone in a line, with marks of other classes, and at the end of what may hold a grapheme together.
CONTEXTS = [
    "{}",
    "a{}b\u0301",
    "e\u0323{}\u0301",
    "\u0915\u094d{}\u0301",
    "\u00a9\u200d{}\u0301",
    "\u1100{}\u11a8\u0301",
]
CHUNK_BYTES = 12_000  # whatever a normalizer makes of them fits into one tensor

BERT_STEPS = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")


def bert(*steps: str) -> normalizers.BertNormalizer:
    return normalizers.BertNormalizer(**{step: step in steps for step in BERT_STEPS})


NORMALIZERS: dict[str, Any] = {
    "NFC": normalizers.NFC(),
    "NFD": normalizers.NFD(),
    "NFKC": normalizers.NFKC(),
    "NFKD": normalizers.NFKD(),
    "Lowercase": normalizers.Lowercase(),
    "StripAccents": normalizers.StripAccents(),
    "Bert": bert(*BERT_STEPS),
    "Bert's clean_text": bert("clean_text"),
    "Bert's strip_accents": bert("strip_accents"),
    "Bert's handle_chinese_chars": bert("handle_chinese_chars"),
}
WHOLE = ("NFC", "NFKC", "Precompiled")  # those in which neighbours matter most


def chunks(lines: Iterator[str]) -> Iterator[str]:
    chunk: list[str] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line.encode()) + 1
        if size > CHUNK_BYTES:
            yield "\n".join(chunk)
            chunk, size = [], 0
    yield "\n".join(chunk)


def assert_equal_text(normalizer: Any, contexts: list[str], folder: Path) -> None:
    pair = Pair.of(byte_tokenizer(normalizer=normalizer), folder)
    ours = pair.ours(MOST_TOKENS)
    for context in contexts:
        for text in chunks(context.replace("{}", c) for c in CODE_POINTS):
            ids = ours(text, copy=False)
            found = bytes(ids[ids != 256].astype("uint8"))
            expected = pair.reference.normalizer.normalize_str(text).encode()
            assert found == expected, f"in {context!a}"


@pytest.mark.parametrize("name", NORMALIZERS)
def test_every_code_point_is_normalized_as_the_reference_does(name: str, tmp_path: Path) -> None:
    assert_equal_text(NORMALIZERS[name], CONTEXTS[: 3 if name in WHOLE else 1], tmp_path)


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nmt_nfkc_cf"])
def test_every_code_point_passes_sentencepieces_map_as_in_the_reference(rule: str, tmp_path: Path) -> None:
    contexts = CONTEXTS[1:] if rule == "nmt_nfkc" else CONTEXTS[1:2]
    assert_equal_text(normalizers.Precompiled(charsmap(rule)), contexts, tmp_path)


def test_every_composite_is_composed_of_its_parts(tmp_path: Path) -> None:
    pair = Pair.of(byte_tokenizer(normalizer=normalizers.NFC()), tmp_path)
    ours = pair.ours(MOST_TOKENS)
    parts = [unicodedata.normalize("NFD", c) for c in CODE_POINTS if unicodedata.normalize("NFD", c) != c]
    assert len(parts) > 13_000
    for text in chunks(f"{p[0]}{inside}{p[1:]}" for p in parts for inside in ("", "\u0334")):
        ids = ours(text, copy=False)
        expected = pair.reference.normalizer.normalize_str(text).encode()
        assert bytes(ids[ids != 256].astype("uint8")) == expected


@pytest.mark.parametrize(
    "pre_tokenizer",
    [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Whitespace(), pre_tokenizers.WhitespaceSplit()],
    ids=lambda part: type(part).__name__,
)
def test_every_code_point_splits_a_text_as_in_the_reference(pre_tokenizer: Any, tmp_path: Path) -> None:
    pair = Pair.of(piece_tokenizer(pre_tokenizer=pre_tokenizer), tmp_path)
    ours = pair.ours(MOST_TOKENS)
    for c in range(0, len(CODE_POINTS), 3000):
        # Beside a letter and beside a symbol that is no punctuation.
        text = " ".join(f"a{c}{c}\u00a9" for c in CODE_POINTS[c : c + 3000])
        assert (ours(text) == 0).sum() == len(pair.reference.pre_tokenizer.pre_tokenize_str(text))
