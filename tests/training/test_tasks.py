"""Every head through a short run, on a set of coloured blobs with a question, a mask and several labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from mmedge.models import load_checkpoint
from mmedge.runtime.errors import DataError, RecipeError
from mmedge.training.build import build_model, read_data, write_tokenizer
from mmedge.training.dataset import TrainingStream, collate
from mmedge.training.inference import predictor
from mmedge.training.qat import QuantizationAware, qat_recipe
from mmedge.training.recipe import Recipe, read_recipe
from mmedge.training.tokenizer import read_vocabulary, train_tokenizer
from mmedge.training.train import train

IMAGE = {**families.IMAGE, "width": 16, "height": 16}


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coloured square on grey, each with two rows: what colour it is, and which side it is on."""
    root, random = tmp_path_factory.mktemp("blobs"), np.random.default_rng(0)
    for split, count in (("train", 18), ("validation", 6)):
        folder = root / split
        folder.mkdir()
        rows = []
        for number in range(count):
            colour, left = list(families.COLOURS)[number % 3], int(random.integers(0, 16))
            families.draw_square(folder / f"{number}.png", colour, left, instance=3)
            side = "left" if left < 8 else "right"
            for text, label in (("What COLOUR is it?", colour), ("On which side is it?", side)):
                row: dict[str, Any] = {"image_file_name": f"{number}.png", "text": text, "label": label}
                if number:
                    row |= {"mask_file_name": f"{number}-mask.png", "mask_values": [3]}
                rows.append(json.dumps(row))
        (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def values(blobs: Path, tmp_path: Path) -> dict[str, Any]:
    image = {"encoder": "cnn", "width": 4, "strides": [2, 2], "preprocess": IMAGE}
    text = {"encoder": "transformer", "width": 8, "layers": 1, "heads": 2, "vocab_size": 60}
    text["preprocess"] = {"type": "text", "max_length": 12}
    return {
        "data": str(blobs),
        "output": str(tmp_path / "run"),
        "model": {
            "head": "vqa",
            "fusion": "cross_attention",
            "fusion_dim": 16,
            "modalities": {"image": image, "text": text},
        },
        "training": {"steps": 4, "batch_size": 6, "checkpoint_every": 2, "precision": "bf16"},
    }


def test_answers_with_a_region_are_trained_from_images_and_words(values: dict[str, Any]) -> None:
    values["model"]["modalities"]["image"]["augment"] = {"crop": [0.6, 1.0], "flip_vertical": 0.5, "hue": 0.1}
    values["model"]["modalities"]["text"]["augment"] = {"word_dropout": 0.1}
    result = train(Recipe.model_validate(values))
    assert np.isfinite(result.losses).all()
    assert [subset.modalities for subset in result.evaluation.subsets] == [("image",), ("text",), ("image", "text")]
    model = load_checkpoint(result.output)
    assert model.config.labels == ["blue", "green", "left", "red", "right"]
    text = model.config.modalities["text"]
    vocabulary = read_vocabulary(result.output / "tokenizer.json")
    assert text["preprocess"] == {"type": "text", "tokenizer": "tokenizer.json", "max_length": 12}
    assert (text["vocab_size"], text["pad_token_id"]) == (vocabulary.size, vocabulary.pad_id)
    predictor(model)({"text": "What colour is it?"})  # finds its tokenizer


def prepared(values: dict[str, Any], folder: Path) -> tuple[Recipe, TrainingStream, Any]:
    """A recipe's stream and model, as a run makes them."""
    recipe = Recipe.model_validate(values)
    samples, _, labels = read_data(recipe)
    write_tokenizer(recipe, samples, folder)
    model = build_model(recipe, labels, folder)
    parts = {name: part["preprocess"] for name, part in model.config.modalities.items()}
    return (
        recipe,
        TrainingStream(samples, labels, recipe, parts, directory=folder, region_shape=model.region_shape),
        model,
    )


def test_samples_of_an_image_are_drawn_together_moved_alike_and_encoded_once(
    values: dict[str, Any], tmp_path: Path
) -> None:
    image = values["model"]["modalities"]["image"]
    image["augment"] = {"flip_horizontal": 0.5, "flip_vertical": 0.5, "transpose": 0.5}
    values["training"] |= {"steps": 6, "samples_per_image": 2}
    _, stream, model = prepared(values, tmp_path)
    items = [stream[draw] for draw in range(36)]
    moved = 0
    for first, second in zip(range(0, 36, 2), range(1, 36, 2), strict=True):
        samples = stream.sample(first), stream.sample(second)
        assert samples[0].files["image"] == samples[1].files["image"]
        assert samples[0].text != samples[1].text
        np.testing.assert_array_equal(items[first]["image"], items[second]["image"])
        plain = stream._preprocessors["image"](samples[0].load()["image"])
        moved += not np.array_equal(items[first]["image"], plain)
    assert 8 < moved < 18

    model.eval()
    whole, shared = collate(items[:6], stream.zeros), collate(items[:6], stream.zeros, 2)
    assert (len(whole["image"]), len(shared["image"])) == (6, 3)
    torch.testing.assert_close(model(**shared).loss, model(**whole).loss)
    assert np.isfinite(train(Recipe.model_validate(values)).losses).all()


def test_only_rows_that_allow_it_are_mirrored(values: dict[str, Any], tmp_path: Path) -> None:
    lines = [
        json.loads(line) | {"asks": "side" if "side" in line else "colour"}
        for line in (Path(values["data"]) / "train/metadata.jsonl").read_text().splitlines()
    ]
    for split in ("train", "validation"):
        shutil.copytree(Path(values["data"]) / split, tmp_path / "set" / split)
    (tmp_path / "set/train/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    image = values["model"]["modalities"]["image"]
    image["augment"] = {"flip_horizontal": 1.0, "mirror_where": {"asks": "colour"}}
    values |= {"data": str(tmp_path / "set")}
    values["training"] |= {"steps": 6, "samples_per_image": 2}
    _, stream, _ = prepared(values, tmp_path)
    for draw in range(36):
        sample = stream.sample(draw)
        plain = stream._preprocessors["image"](sample.load()["image"])
        expected = plain[:, :, ::-1] if sample.columns["asks"] == "colour" else plain
        np.testing.assert_allclose(stream[draw]["image"], expected, atol=1e-5)


def test_a_region_is_the_share_of_each_cell_that_the_moved_mask_covers(values: dict[str, Any], tmp_path: Path) -> None:
    values["model"]["modalities"]["image"]["preprocess"] = {**IMAGE, "width": 24, "height": 24}
    values["model"]["modalities"]["image"]["augment"] = {"flip_horizontal": 0.5}
    _, stream, model = prepared(values, tmp_path)
    assert model.region_shape == (6, 6)
    flipped = 0
    for draw in range(36):
        sample, item = stream.sample(draw), stream[draw]
        if sample.line <= 2:
            np.testing.assert_array_equal(item["region"], np.full((6, 6), -1, np.float32))
            continue
        # Pillow's judgement of the same shrinking.
        mask = np.asarray(sample.mask(), np.uint8)
        share = np.asarray(Image.fromarray(mask * 255).resize((6, 6), Image.Resampling.BILINEAR), float) / 255
        errors = [np.abs(item["region"] - candidate).max() for candidate in (share, share[:, ::-1])]
        assert min(errors) < 0.01
        coloured = np.abs(item["image"]).max(axis=0) > 0.3  # where the picture, moved alike, is not grey
        moved = [np.array_equal(coloured, candidate) for candidate in (mask, mask[:, ::-1])]
        assert moved[int(np.argmin(errors))]
        flipped += errors[1] < errors[0]
    assert 5 < flipped < 29


@pytest.mark.parametrize(
    "changes",
    [
        {"interpolation": "nearest", "antialias": False},
        {"antialias": False},
        {"fit": "letterbox", "pad_value": 114},
        {"fit": "letterbox", "pad_value": 114, "width": 44},
        {"fit": "crop", "height": 16},
    ],
    ids=["nearest", "no antialias", "borders", "borders within cells", "crop"],
)
def test_however_an_image_is_resized_a_region_is_the_share_that_its_mask_covers(
    values: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    image = values["model"]["modalities"]["image"]
    image["preprocess"] = {**IMAGE, "width": 48, "height": 24, "fit": "stretch", **changes}
    _, stream, model = prepared(values, tmp_path)
    height, width = image["preprocess"]["height"], image["preprocess"]["width"]
    rows, columns = height // 4, width // 4
    assert model.region_shape == (rows, columns)
    for draw in range(36):
        sample = stream.sample(draw)
        if sample.line > 2:
            mask = np.asarray(sample.mask(), np.uint8) * 255
            if image["preprocess"]["fit"] == "letterbox":  # a square between borders
                mask = np.pad(mask, [(0, 0), [(width - height) // 2 * len(mask) // height] * 2])
            if image["preprocess"]["fit"] == "crop":
                mask = mask[len(mask) // 3 : -len(mask) // 3]
            share = Image.fromarray(mask).resize((columns, rows), Image.Resampling.BILINEAR)
            np.testing.assert_allclose(stream[draw]["region"], np.asarray(share, float) / 255, atol=0.01)


def test_a_column_to_mirror_by_that_no_row_has_is_refused_with_those_there_are(values: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in (Path(values["data"]) / "train/metadata.jsonl").read_text().splitlines()]
    values["data"] = str(Path(values["output"]).parent / "set")
    for split in ("train", "validation"):
        (Path(values["data"]) / split).mkdir(parents=True)
        rows = [{"text": line["text"], "label": line["label"], "kind": "a"} for line in lines] + [
            {"text": "both", "label": "red", "kind": "b", "room": 1}
        ]
        (Path(values["data"]) / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    augment: dict[str, Any] = {"flip_horizontal": 1.0}
    values["model"]["modalities"]["image"]["augment"] = augment
    read_data(Recipe.model_validate(values))
    augment["mirror_where"] = {"room": 1, "kind": "a"}
    read_data(Recipe.model_validate(values))
    augment["mirror_where"] = {"knid": "a"}
    expected = "mirror_where: found 'knid'.*expected of the train split's columns: kind, room"
    with pytest.raises(RecipeError, match=expected):
        read_data(Recipe.model_validate(values))


def test_token_ids_are_those_of_the_tokenizer_that_was_trained(values: dict[str, Any], tmp_path: Path) -> None:
    _, stream, _ = prepared(values, tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_padding(length=12, pad_id=0)
    tokenizer.enable_truncation(12)
    for draw in range(4):
        text = stream.sample(draw).text
        assert text is not None
        assert stream[draw]["text"].tolist() == tokenizer.encode(text).ids
        assert stream[draw]["text"].dtype == np.int32


def test_a_text_is_drawn_without_the_words_that_are_left_out(values: dict[str, Any], tmp_path: Path) -> None:
    words = []
    for dropout in (0.0, 0.9):
        values["model"]["modalities"]["text"]["augment"] = {"word_dropout": dropout}
        _, stream, _ = prepared(values, tmp_path)
        words.append(np.stack([stream[draw]["text"] for draw in range(24)]) != 0)
    whole, left = (row.sum(axis=1) for row in words)
    assert (left <= whole).all()
    assert left.sum() < whole.sum() - 24


def test_a_run_learns_the_regions_of_the_masks_by_their_weight(values: dict[str, Any]) -> None:
    values["training"] |= {"steps": 1, "precision": "fp32"}
    losses = []
    for weight in (0.0, 1.0):
        values["model"]["region_weight"] = weight
        losses += train(Recipe.model_validate(values)).losses
    assert losses[1] > losses[0]


def test_the_same_texts_train_the_same_tokenizer(tmp_path: Path) -> None:
    texts = ["What COLOUR is it?", "On which side is it?", "überall"] * 50
    for name in ("one", "two"):
        train_tokenizer(texts, 60, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    tokenizer = Tokenizer.from_file(str(tmp_path / "one"))
    assert tokenizer.get_vocab_size() <= 60
    assert tokenizer.encode("what colour").tokens == ["[CLS]", "what", "colour", "[SEP]"]
    with pytest.raises(DataError, match="no word to train"):
        train_tokenizer(["", " "], 60, tmp_path / "none")


def test_a_tokenizer_of_ones_own_is_copied_beside_the_weights(values: dict[str, Any], tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"
    train_tokenizer(["what is it", "other words"], 40, mine)
    text = values["model"]["modalities"]["text"]
    text["preprocess"]["tokenizer"] = str(mine)
    text |= {"encoder": "bert", "config": families.ENCODERS["bert"][1]["config"] | {"vocab_size": 64}}
    for key in ("width", "layers", "heads", "vocab_size"):
        del text[key]
    values["training"] |= {"steps": 1, "gradient_checkpointing": True}
    result = train(Recipe.model_validate(values))
    assert (result.output / "tokenizer.json").read_bytes() == mine.read_bytes()
    part = load_checkpoint(result.output).config.modalities["text"]
    assert part["config"]["vocab_size"] == 64
    assert part["config"]["pad_token_id"] == read_vocabulary(mine).pad_id
    mine.write_text("{}")
    with pytest.raises(RecipeError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        train(Recipe.model_validate(values))


def test_fine_tuning_for_int8_takes_the_tokenizer_beside_the_weights(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.json"
    train_tokenizer(["what is it", "other words"], 40, mine)
    monkeypatch.chdir(tmp_path)
    values["model"] |= {"head": "classification", "fusion": "gated"}
    preprocess = values["model"]["modalities"]["text"]["preprocess"]
    preprocess["tokenizer"] = "mine.json"
    values["training"] |= {"steps": 1, "precision": "fp32"}
    finished = train(Recipe.model_validate(values)).output
    # The same words elsewhere are the same model, other words are not.
    shutil.move(mine, tmp_path / "moved.json")
    preprocess["tokenizer"] = "moved.json"
    assert qat_recipe(finished, Recipe.model_validate(values)).training.steps == 1
    train_tokenizer(["what is that"], 40, tmp_path / "moved.json")
    with pytest.raises(RecipeError, match=r"another model .*: model\.modalities\.text\.preprocess\.tokenizer differ"):
        qat_recipe(finished, Recipe.model_validate(values))
    monkeypatch.chdir("/")
    shutil.move(finished, tmp_path / "away")
    made = qat_recipe(tmp_path / "away")
    result = train(made, qat=QuantizationAware(tmp_path / "away"))
    copy = result.output / "tokenizer.json"
    assert copy.read_bytes() == (tmp_path / "away" / "tokenizer.json").read_bytes()
    assert read_recipe(result.output / "recipe.json").model.modalities.text.preprocess["tokenizer"] == str(copy)


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(values: dict[str, Any]) -> None:
    text = values["model"]["modalities"]["text"]
    text |= {"encoder": "bert", "config": families.ENCODERS["bert"][1]["config"] | {"vocab_size": 8}}
    for key in ("width", "layers", "heads"):
        del text[key]
    with pytest.raises(RecipeError, match=r"model\.modalities\.text: the tokenizer has \d+ tokens"):
        train(Recipe.model_validate(values))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_embeddings_are_trained_on_groups_and_scored_on_identities_never_seen(
    values: dict[str, Any], blobs: Path, tmp_path: Path, metric: str
) -> None:
    # The validation split gets identities of its own.
    for split in ("train", "validation"):
        (tmp_path / "faces" / split).mkdir(parents=True)
        rows = []
        for number in range(12):
            (tmp_path / "faces" / split / f"{number}.png").write_bytes((blobs / "train" / f"{number}.png").read_bytes())
            rows.append(json.dumps({"image_file_name": f"{number}.png", "label": f"{split}-{number % 3}"}))
        (tmp_path / "faces" / split / "metadata.jsonl").write_text("\n".join(rows))
    del values["model"]["modalities"]["text"]
    values["data"] = str(tmp_path / "faces")
    values["model"] |= {"head": "embedding", "fusion": "concat", "embedding_dim": 4, "metric": metric}
    values["training"] |= {"samples_per_label": 2, "evaluate_every": 2}
    result = train(Recipe.model_validate(values))
    assert np.isfinite(result.losses).all()
    main = result.evaluation.subsets[-1].main
    assert main.name == "eer"
    assert not main.larger_is_better
    assert load_checkpoint(result.output).config.labels == []


def test_several_labels_are_trained_together(values: dict[str, Any], blobs: Path, tmp_path: Path) -> None:
    for split, numbers in (("train", range(6)), ("validation", range(4))):  # 0 has no label at all
        (tmp_path / "several" / split).mkdir(parents=True)
        rows = []
        for number in numbers:
            (tmp_path / "several" / split / f"{number}.png").write_bytes(
                (blobs / "train" / f"{number}.png").read_bytes()
            )
            labels = [name for bit, name in enumerate(("a", "b")) if number >> bit & 1]
            rows.append(json.dumps({"image_file_name": f"{number}.png", "labels": labels}))
        (tmp_path / "several" / split / "metadata.jsonl").write_text("\n".join(rows))
    del values["model"]["modalities"]["text"]
    values["data"] = str(tmp_path / "several")
    values["model"] |= {"head": "classification", "fusion": "gated", "multi_label": True}
    values["training"] |= {"sampling": "balanced", "label_smoothing": 0.1, "ema": 0.9}
    _, stream, _ = prepared(values, tmp_path)
    for draw in range(6):
        expected = [float(name in stream.sample(draw).labels) for name in ("a", "b")]
        assert stream[draw]["label"].tolist() == expected
    result = train(Recipe.model_validate(values))
    assert result.evaluation.subsets[-1].main.name == "macro_f1"
    values["model"]["multi_label"] = False
    with pytest.raises(DataError, match=r"line 1: found labels of a multi-label row"):
        train(Recipe.model_validate(values))


def test_files_are_decoded_once_for_the_rows_that_share_them(
    values: dict[str, Any], blobs: Path, tmp_path: Path
) -> None:
    values["data"] = str(shutil.copytree(blobs, tmp_path / "data"))
    _, stream, _ = prepared(values, tmp_path)
    first = [stream[draw] for draw in range(36)]
    for path in (tmp_path / "data" / "train").glob("*.png"):
        path.unlink()
    again = [stream[draw] for draw in range(36)]
    for name in ("image", "text", "region"):
        assert all(np.array_equal(a[name], b[name]) for a, b in zip(first, again, strict=True))
