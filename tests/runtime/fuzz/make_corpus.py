"""Write the fuzzers' first inputs from the test bundles: make_corpus.py BUNDLES CORPUS fills CORPUS/TARGET."""

from __future__ import annotations

import base64
import itertools
import json
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMATS = {"rgb8": (3, 0), "bgr8": (3, 0), "grey8": (1, 0), "rgba8": (4, 0), "bgra8": (4, 0)} | {
    "nv12": (1, 1), "i420": (1, 2), "yuyv": (2, 0), "uyvy": (2, 0)
}  # fmt: skip  # bytes per pixel of the first plane, number of chroma planes


def manifests(bundles: Path) -> Iterator[bytes]:
    for path in sorted(bundles.glob("*/manifest.json")):
        whole = json.loads(path.read_text())
        yield json.dumps(whole).encode()
        for key in ("evidence", "provenance"):
            whole.pop(key, None)
        yield json.dumps(whole, separators=(",", ":")).encode()


def checked_bundles(bundles: Path) -> Iterator[bytes]:
    for text in manifests(bundles):
        manifest = json.loads(text)
        for path in ("model.onnx", "../model.onnx", "/model.onnx", "manifest.json"):
            manifest["files"] = {path: {"size": "@SIZE", "sha256": "@SHA256"}}
            manifest["graphs"][0]["path"] = path
            yield json.dumps(manifest).replace('"@SIZE"', "@SIZE").encode() + b"\0graph"


# SentencePiece's compiled map of one entry: a becomes b.
CHARSMAP = struct.pack(
    "<I512I", 2048, *({0: 256 << 10, 256 ^ 97: 97 | 1 << 8 | 97 << 10, 256: 1 << 31}.get(i, 0) for i in range(512))
)
CHARSMAP += b"b\0"

VARIANTS: dict[str, list[str | int | bool]] = {
    "fit": ["stretch", "letterbox", "crop"],
    "interpolation": ["bilinear", "nearest", "bicubic"],
    "antialias": [True, False],
    "type": ["image", "log_mel", "mfcc", "waveform", "text"],
    "n_fft": [2, 400, 512, 65536],
    "mel_scale": ["htk", "slaney"],
    "log": ["natural", "log10", "db"],
    "samples": [0, 1, 8000],
}


def parameters(bundles: Path) -> Iterator[bytes]:
    for text in manifests(bundles):
        for spec in (entry["preprocess"] for entry in json.loads(text)["inputs"]):
            yield json.dumps(spec).encode()
            for key in [key for key in VARIANTS if key in spec]:
                yield from (json.dumps(spec | {key: value}).encode() for value in VARIANTS[key])


def images() -> Iterator[bytes]:
    sizes = [(16, 16), (17, 13), (64, 48), (1, 1), (255, 3)]
    for (name, (pixel, chroma)), (width, height) in itertools.product(FORMATS.items(), sizes):
        half = (width + 1) // 2
        packed = width * pixel if name not in ("yuyv", "uyvy") else 4 * half
        rows = [(packed, height)]
        rows += [(2 * half if chroma == 1 else half, (height + 1) // 2)] * chroma
        rows += [(0, 0)] * (3 - len(rows))
        for flags, turn in ((3, 0), (2, 1), (3 | 32, 2), (3 | 64, 3)):
            region = struct.pack("<4h", 0, 0, width // 2, height // 2) if flags & 64 else b""
            yield (
                struct.pack("<B2H", flags, 31, 31)
                + struct.pack("<4H", list(FORMATS).index(name), width - 1, height - 1, turn)
                + struct.pack("<2b", 1, 1)
                + region
                + b"".join(struct.pack("<3H", stride, count, 0) for stride, count in rows)
                + random.randbytes(200)
            )


def clips() -> Iterator[bytes]:
    for flags, shape, hop, cut, frames in itertools.product(
        (1, 2, 3, 7, 64 | 3), (0, 1, 0x0A, 0x13, 0x2C), (79, 159), (36, 3999), (199, 8000)
    ):
        kind = struct.pack("<2H", flags & 1, flags % 3)
        rate = struct.pack("<H", 5) if flags & 64 else b""
        yield (
            struct.pack("<2B2H", flags, shape, hop, 300)
            + kind
            + rate
            + struct.pack("<2H", cut, frames)
            + random.randbytes(300)
        )


def sessions() -> Iterator[bytes]:
    image = struct.pack("<2B2H", 0, 0, 40, 30)
    name = {"image": b"\0", "audio": b"\1"}
    clip = struct.pack("<3BH", 1, 0, 1, 8000)
    calls = {
        "image": image + name["image"],
        "audio": b"\1" + clip + name["audio"],
        "push": b"\2" + clip + name["audio"],
        "reset": b"\3" + name["audio"],
        "tensor": struct.pack("<3B", 4, 0, 1) + b"\1" + name["image"],
        "absent": b"\5" + name["audio"],
        "run": b"\6",
        "read": b"\7\0",
    }
    for order in itertools.permutations(calls, 4):
        yield b"\0" + b"".join(calls[call] for call in order) + calls["run"] + calls["read"]
    yield b"\3" + calls["image"] + (calls["push"] + calls["image"] + calls["run"]) * 5


def searches() -> Iterator[bytes]:
    for flags, metric, kind, rows in itertools.product((0, 8, 32, 64), range(3), range(3), (0, 1, 17, 300)):
        padding = struct.pack("<H", 2) if flags & 8 else b""
        yield (
            struct.pack("<B4H", flags, metric, kind, rows, 96) + padding + struct.pack("<H", 5) + random.randbytes(500)
        )


def galleries() -> Iterator[bytes]:
    """Galleries without their SHA-256."""
    for metric, dimension, owners in itertools.product((0, 1, 2), (1, 3, 20), ([], [0], [0, 1, 0, 2])):
        names = b"".join(
            struct.pack("<I", len(name)) + name for name in (b"a", "é".encode(), b"c" * 40)[: len({*owners})]
        )
        yield b"".join(
            (
                struct.pack("<8sII5Q", b"MMEGALRY", 1, metric, dimension, len(owners), len({*owners}), 5, len(names)),
                b"model" + names,
                struct.pack(f"<{len(owners)}I", *owners),
                struct.pack(f"<{len(owners) * dimension}f", *range(len(owners) * dimension)),
            )
        )


TOKEN = {"id": 0, "content": "[PAD]", "single_word": True, "lstrip": True, "rstrip": True, "normalized": True}
MODELS: list[dict[str, Any]] = [
    {"type": "WordLevel", "unk_token": "?", "vocab": {"[PAD]": 0, "?": 1, "a": 2, "▁b": 3}},
    {"type": "WordPiece", "unk_token": "?", "vocab": {"[PAD]": 0, "?": 1, "a": 2, "##b": 3, "é": 4}}
    | {"continuing_subword_prefix": "##", "max_input_chars_per_word": 9},
    {"type": "Unigram", "unk_id": 1, "vocab": [["[PAD]", 0], ["?", -1.5], ["▁", -1e-3], ["ab", -2.25], ["a", -1]]},
]
NORMALIZERS: list[dict[str, Any]] = [
    {"type": "NFC"},
    {"type": "NFKD"},
    {"type": "Lowercase"},
    {"type": "StripAccents"},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    {"type": "Replace", "pattern": {"String": "ab"}, "content": ""},
    {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
    # A map of one entry, a to b.
    {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(CHARSMAP).decode()},
]
PRE_TOKENIZERS: list[dict[str, Any]] = [
    *({"type": name} for name in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation")),
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
]
WORDS = "a b  ab. é e\u0301\u0323 한국 日本 ▁▁a [PAD] 👩\u200d👩 क्षि ﬁ\u0301 İ\0\n".encode()


def tokenizers(bundles: Path) -> Iterator[bytes]:
    for text in (WORDS, WORDS[:-9] + b"\xff", b""):
        yield b"\x0b" + (bundles / "words.mme/tokenizer.json").read_bytes() + b"\0" + text
    for model, normalizer, splitter in itertools.product(MODELS, NORMALIZERS, PRE_TOKENIZERS):
        file = {
            "added_tokens": [TOKEN],
            "normalizer": {"type": "Sequence", "normalizers": [normalizer, normalizer]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [splitter]},
            "post_processor": {"type": "BertProcessing", "sep": ["?", 1], "cls": ["?", 1]},
            "model": model,
        }
        yield b"\x1f" + json.dumps(file).encode() + b"\0" + WORDS


def main(bundles: Path, corpus: Path) -> None:
    random.seed(1)
    for target, inputs in {
        "bundle": checked_bundles(bundles),
        "manifest": manifests(bundles),
        "preprocess": parameters(bundles),
        "image": images(),
        "audio": clips(),
        "session": sessions(),
        "similarity": searches(),
        "gallery": galleries(),
        "tokenizer": tokenizers(bundles),
    }.items():
        folder = corpus / target
        folder.mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(inputs):
            (folder / f"seed-{number:04}").write_bytes(content)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
