"""The tokenizer of a run: a file of the user's, or one trained on the train split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

from mmedge.runtime.errors import DataError, RecipeError

TOKENIZER_FILE = "tokenizer.json"

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@dataclass(frozen=True)
class Vocabulary:
    """What an encoder has to know of a tokenizer: one more than the largest id, and the id that fills up a text."""

    size: int
    pad_id: int


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: Path) -> None:
    """Write a lower-case WordPiece tokenizer of at most `vocab_size` tokens (Wu et al. 2016, 4.1) trained on `texts`;
    the same texts give the same file.

    Raises:
        DataError: no text has a word in it.
    """
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(vocab_size=vocab_size, special_tokens=list(_SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(_in_lots(texts), trainer)
    if tokenizer.get_vocab_size() <= len(_SPECIAL):
        raise DataError("the texts of the train split have no word to train a tokenizer on; expected some")
    special = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    tokenizer.save(str(path))


def _in_lots(texts: Iterable[str]) -> Iterator[list[str]]:
    lot: list[str] = []
    for text in texts:
        lot.append(text)
        if len(lot) == 1000:
            yield lot
            lot = []
    yield lot


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary of the tokenizer file `path`.

    Raises:
        RecipeError: not a file of HF's tokenizers, or one without a pad token.
    """
    try:
        text = path.read_text(encoding="utf-8")
        ids: dict[str, int] = Tokenizer.from_str(text).get_vocab(with_added_tokens=True)
        padding = json.loads(text).get("padding")
    except Exception as error:  # tokenizers raises no narrower class
        raise RecipeError(f"{path} cannot be read as a tokenizer ({error}); expected HF's tokenizer.json") from error
    if padding:
        return Vocabulary(max(ids.values()) + 1, int(padding["pad_id"]))
    for token in ("[PAD]", "<pad>"):
        if token in ids:
            return Vocabulary(max(ids.values()) + 1, ids[token])
    raise RecipeError(f"{path} has no pad token; expected a padding entry, or a token [PAD] or <pad>")
