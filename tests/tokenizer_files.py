"""Tokenizer files for tests, and the two that read them: ours and Hugging Face's `tokenizers`, which judges."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models

from mmedge.runtime.preprocessor import Preprocessor

MOST_TOKENS = 1 << 16


@dataclass
class Pair:
    """One file read by both."""

    folder: Path
    reference: Tokenizer
    made: dict[int, Preprocessor] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: Tokenizer | dict[str, Any], folder: Path) -> Pair:
        """Write a tokenizer, or what is a tokenizer file's content, into a folder and read it again."""
        text = json.dumps(tokenizer) if isinstance(tokenizer, dict) else tokenizer.to_str()
        (folder / "tokenizer.json").write_text(text)
        return cls(folder, Tokenizer.from_str(text))

    def ours(self, max_length: int) -> Preprocessor:
        if max_length not in self.made:
            parameters = {"type": "text", "tokenizer": "tokenizer.json", "max_length": max_length}
            self.made[max_length] = Preprocessor(parameters, self.folder)
        return self.made[max_length]

    def theirs(self, text: str, max_length: int, padding: int) -> npt.NDArray[Any]:
        self.reference.enable_truncation(max_length)
        self.reference.enable_padding(length=max_length, pad_id=padding)
        return np.array(self.reference.encode(text).ids)


def byte_tokenizer(**parts: Any) -> Tokenizer:
    """A tokenizer whose ids are the bytes of what the model is given: so they show what was done to the text."""
    vocabulary = [(f"<0x{byte:02X}>", -1.0) for byte in range(256)] + [("<unk>", -1.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 256, True))
    tokenizer.enable_padding(pad_id=256, pad_token="<unk>")
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def piece_tokenizer(**parts: Any) -> Tokenizer:
    """A tokenizer that makes one token, 0, of every piece: so they show how often the text was split."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, "<unk>"))
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


@cache
def charsmap(rule: str) -> bytes:
    """SentencePiece's own compiled character map of a normalization rule, such as the "nmt_nfkc" of XLM-R."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = io.BytesIO()
    sentences = iter(["the cat sat on the mat", "a dog ran after a cat", "what is the colour of the mat"] * 20)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences, model_writer=model, vocab_size=25, normalization_rule_name=rule, minloglevel=2
    )
    trained = proto.ModelProto()
    trained.ParseFromString(model.getvalue())
    return bytes(trained.normalizer_spec.precompiled_charsmap)
