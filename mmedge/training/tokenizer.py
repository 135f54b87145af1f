"""The tokenizer of a run: a file of the user's, or one trained on the train split."""

from __future__ import annotations

import json
from collections.abc import Iterable
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

_UNKNOWN, _INSIDE = "[UNK]", "##"
_SPECIAL = ("[PAD]", _UNKNOWN, "[CLS]", "[SEP]")


@dataclass(frozen=True)
class Vocabulary:
    """What an encoder has to know of a tokenizer: one more than the largest id, and the id that fills up a text."""

    size: int
    pad_id: int


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: Path) -> None:
    """Write a lower-case WordPiece tokenizer (Wu et al. 2016, 4.1) trained on `texts`, of at most `vocab_size` tokens,
    or as many as its letters need; the same texts give the same file.

    Raises:
        DataError: no text has a word in it.
    """
    texts = list(texts)
    tokenizer = _untrained(WordPiece(unk_token=_UNKNOWN))
    letters = sorted({letter for text in set(texts) for letter in tokenizer.normalizer.normalize_str(text)} - {" "})
    if not letters:
        raise DataError("the texts of the train split have no word to train a tokenizer on; expected some")
    # The trainer numbers these in an order of chance, and merges by number, unless it is told of them first.
    inside = [_INSIDE + letter for letter in letters]
    trainer = WordPieceTrainer(
        vocab_size=max(vocab_size, len(_SPECIAL) + 2 * len(letters)),
        limit_alphabet=len(letters) + 1,
        special_tokens=[*_SPECIAL, *inside],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    trained = _untrained(WordPiece(tokenizer.get_vocab(), unk_token=_UNKNOWN, continuing_subword_prefix=_INSIDE))
    trained.add_special_tokens(list(_SPECIAL))
    special = [(token, trained.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    trained.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    trained.save(str(path))


def _untrained(model: WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


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
