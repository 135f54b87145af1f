from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from families import ENCODERS, TEXT, modality, random_batch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertConfig, BertModel, DistilBertConfig, ResNetConfig, Wav2Vec2Config

from mmedge.export.graph import export_graph, to_bytes
from mmedge.export.targets import find_target
from mmedge.models import MmedgeConfig, load_checkpoint, new_model
from mmedge.models.encoders import TransformerEncoder, masked_mean
from mmedge.models.registry import build_encoder
from mmedge.runtime.errors import InvalidArgument

FILE = "model.safetensors"


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "wav2vec2"])
def test_an_encoder_gives_the_sizes_it_promises_and_finite_features_even_of_an_absent_input(name: str) -> None:
    ((kind, part),) = modality(name).items()
    encoder = build_encoder(part).eval()
    x = random_batch({kind: part}, 3)[kind]
    for batch in (x, torch.zeros_like(x)):
        found = encoder(batch)
        assert found.vector.shape == (3, encoder.features)
        assert found.tokens.shape == (3, encoder.tokens, encoder.channels)
        assert found.grid == encoder.grid
        assert found.vector.isfinite().all()
        assert found.tokens.isfinite().all()
    if kind == "image":
        assert encoder.grid is not None
        assert encoder.grid[0] * encoder.grid[1] == encoder.tokens


@pytest.mark.parametrize("pooling", ["flatten", "statistics"])
@pytest.mark.parametrize("strides", [[1], [3], [1, 1], [2, 3, 1], [1, 2, 2, 2, 2], [1, 1, 2, 2, 1, 2]])
def test_there_is_a_convolution_over_time_per_stride_and_their_frames_are_the_tokens(
    strides: list[int], pooling: str
) -> None:
    ((kind, part),) = modality("temporal_cnn").items()
    part = part | {"strides": strides, "pooling": pooling}
    encoder = build_encoder(part).eval()
    assert [layer.stride[0] for layer in encoder.modules() if isinstance(layer, torch.nn.Conv1d)] == strides
    found = encoder(random_batch({kind: part}, 3)[kind])
    assert found.vector.shape == (3, encoder.features)
    assert found.tokens.shape == (3, encoder.tokens, encoder.channels)


def test_a_single_convolution_over_time_is_exported_as_torch_computes_it() -> None:
    modalities = modality("temporal_cnn")
    modalities["audio"] |= {"strides": [1], "pooling": "statistics"}
    model = new_model(MmedgeConfig(modalities=modalities, head="embedding", embedding_dim=6, fusion_dim=8)).eval()
    presence = torch.ones(1, 1, dtype=torch.bool)
    graph = export_graph(
        model,
        {**random_batch(modalities, 1), "presence": presence},
        target=find_target("onnxruntime"),
        output_names=model.output_names,
        metadata={"task": "embedding"},
    )
    x = {**random_batch(modalities, 1), "presence": presence}
    session = onnxruntime.InferenceSession(to_bytes(graph))
    found = session.run(["embedding"], {name: tensor.numpy() for name, tensor in x.items()})[0]
    torch.testing.assert_close(torch.from_numpy(found), model(**x).embedding.detach(), rtol=0, atol=1e-5)


def test_the_convolutions_over_time_are_the_same_five_as_ever_by_default() -> None:
    encoder = build_encoder(modality("temporal_cnn")["audio"])
    found = [
        (name, layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
        for name, layer in encoder.blocks.named_children()
        if isinstance(layer, torch.nn.Conv1d)
    ]
    assert found == [
        ("0", 16, 4, (5,), (1,)),
        ("3", 4, 4, (5,), (2,)),
        ("7", 4, 8, (5,), (2,)),
        ("11", 8, 8, (3,), (2,)),
        ("15", 8, 8, (3,), (2,)),
    ]


@pytest.mark.parametrize("name", ["transformer", "bert", "xlm-roberta"])
def test_what_follows_the_end_of_a_text_changes_nothing(name: str) -> None:
    part = modality(name)["text"]
    encoder = build_encoder(part).eval()
    pad = encoder.pad_token_id if isinstance(encoder, TransformerEncoder) else encoder.model.config.pad_token_id
    text = torch.tensor([[5, 6, 7, 8] + [pad] * 8], dtype=torch.int32)
    shorter = build_encoder(part | {"preprocess": TEXT | {"max_length": 4}}).eval()
    state = encoder.state_dict()
    if isinstance(shorter, TransformerEncoder):
        state["positions"] = state["positions"][:4]
    shorter.load_state_dict(state)
    torch.testing.assert_close(encoder(text).vector, shorter(text[:, :4]).vector)


def test_the_masked_mean_of_nothing_is_zero() -> None:
    tokens = torch.ones(2, 3, 4)
    mean = masked_mean(tokens, torch.tensor([[True, True, False], [False] * 3]))
    assert torch.equal(mean, torch.tensor([[1.0] * 4, [0.0] * 4]))


def test_published_weights_are_loaded_kept_in_the_checkpoint_and_stay_as_they_are_when_frozen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    published = BertModel(BertConfig(**ENCODERS["bert"][1]["config"], max_position_embeddings=20)).eval()
    published.save_pretrained(tmp_path / "bert")
    part: dict[str, Any] = {
        "encoder": "bert",
        "pretrained": str(tmp_path / "bert"),
        "freeze": True,
        "preprocess": TEXT,
    }
    capfd.readouterr()
    model = new_model(MmedgeConfig(modalities={"text": part}, fusion_dim=8, id2label={0: "no", 1: "yes"}))
    assert capfd.readouterr() == ("", "")  # no word of the layer that is left out
    ids = random_batch({"text": part}, 2)["text"]
    expected = published(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    torch.testing.assert_close(model.encoders["text"].train()(ids).tokens, expected)
    assert not any(parameter.requires_grad for parameter in model.encoders["text"].parameters())

    model.eval().save_pretrained(tmp_path / "run")
    for file in (tmp_path / "bert").iterdir():
        file.unlink()  # a checkpoint needs nothing but itself
    loaded = load_checkpoint(tmp_path / "run")
    presence = torch.ones(2, 1, dtype=torch.bool)
    assert torch.equal(loaded(presence, text=ids).logits, model(presence, text=ids).logits)


@pytest.mark.parametrize("asked", [False, True])
def test_published_weights_hide_nothing_of_a_clip_in_training_unless_asked_to(tmp_path: Path, asked: bool) -> None:
    chance = ("hidden_dropout", "attention_dropout", "feat_proj_dropout", "activation_dropout", "layerdrop")
    config = ENCODERS["wav2vec2"][1]["config"] | dict.fromkeys(chance, 0.0)
    AutoModel.from_config(Wav2Vec2Config(**config, apply_spec_augment=True)).save_pretrained(tmp_path)
    parts = _part_with_weights(tmp_path, "wav2vec2")
    if asked:
        parts["audio"]["config"] = {"apply_spec_augment": True}
    model = new_model(MmedgeConfig(modalities=parts, id2label={0: "no", 1: "yes"}))
    encoder, clips = model.encoders["audio"], random_batch(parts, 2)["audio"]
    in_training, heard = encoder.train()(clips).tokens, encoder.eval()(clips).tokens
    assert torch.allclose(in_training, heard, atol=1e-6) != asked


def _part_with_weights(folder: Path, name: str) -> dict[str, Any]:
    kind, part = ENCODERS[name]
    return {kind: {"encoder": name, "pretrained": str(folder), "preprocess": part["preprocess"]}}


@pytest.mark.parametrize("name", ["bert", "resnet", "wav2vec2"])
def test_published_weights_under_other_names_are_refused_not_replaced_by_random_ones(tmp_path: Path, name: str) -> None:
    encoder = build_encoder(modality(name)[ENCODERS[name][0]])
    encoder.model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / FILE)
    last = max(key for key in weights if key.endswith(".weight"))
    save_file({f"other.{key}" if key == last else key: value for key, value in weights.items()}, tmp_path / FILE)
    with pytest.raises(InvalidArgument, match=f"lack 1 of those of a {name}") as caught:
        new_model(MmedgeConfig(modalities=_part_with_weights(tmp_path, name), id2label={0: "no", 1: "yes"}))
    assert str(tmp_path) in str(caught.value)
    assert last.rpartition(".")[0] in str(caught.value)


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v2", "vit", "ast", "wav2vec2", "bert", "xlm-roberta"])
def test_published_weights_of_a_whole_classifier_fit_though_the_encoder_has_no_use_for_some(
    tmp_path: Path, name: str
) -> None:
    encoder = build_encoder(modality(name)[ENCODERS[name][0]])
    encoder.model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / FILE)
    unused = {key for key in weights if key.endswith(("masked_spec_embed", "num_batches_tracked"))}
    kept = {key: value for key, value in weights.items() if key not in unused}
    save_file(kept | {"classifier.weight": torch.zeros(2, 2)}, tmp_path / FILE, {"format": "pt"})
    model = new_model(MmedgeConfig(modalities=_part_with_weights(tmp_path, name), id2label={0: "no", 1: "yes"}))
    (loaded,) = model.encoders.values()
    state = loaded.model.state_dict()
    for key, value in encoder.model.state_dict().items():
        assert key.endswith(("masked_spec_embed", "num_batches_tracked")) or torch.equal(state[key], value), key


def test_a_key_of_a_published_configuration_that_transformers_no_longer_knows_is_kept(tmp_path: Path) -> None:
    encoder = build_encoder(modality("bert")["text"])
    encoder.model.config.position_embedding_type = "absolute"
    encoder.model.save_pretrained(tmp_path / "bert")
    assert "position_embedding_type" in (tmp_path / "bert/config.json").read_text()
    parts = _part_with_weights(tmp_path / "bert", "bert")
    model = new_model(MmedgeConfig(modalities=parts, id2label={0: "no", 1: "yes"}))
    model.save_pretrained(tmp_path / "run")
    assert "position_embedding_type" in load_checkpoint(tmp_path / "run").config.modalities["text"]["config"]


@pytest.mark.parametrize(
    ("name", "found", "message"),
    [
        ("bert", DistilBertConfig(dim=16, hidden_dim=32, n_layers=1, n_heads=2, vocab_size=40), "holds a distilbert"),
        ("vit", ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8), "holds a resnet"),
    ],
)
def test_published_weights_of_another_architecture_are_named(
    tmp_path: Path, name: str, found: Any, message: str
) -> None:
    AutoModel.from_config(found).save_pretrained(tmp_path)
    with pytest.raises(InvalidArgument, match=f"{message}; encoder '{name}' expects a {name}"):
        new_model(MmedgeConfig(modalities=_part_with_weights(tmp_path, name), id2label={0: "no", 1: "yes"}))


def test_statistics_pooling_does_not_depend_on_the_order_of_the_frames() -> None:
    part = modality("temporal_cnn")["audio"] | {"pooling": "statistics"}
    encoder = build_encoder(part).eval()
    encoder.blocks = torch.nn.Identity()
    frames = torch.randn(2, 8, 30)
    torch.testing.assert_close(encoder(frames).vector, encoder(frames.flip(2)).vector)
    mean, deviation = encoder(frames).vector.chunk(2, dim=1)
    torch.testing.assert_close(mean, frames.mean(2))
    torch.testing.assert_close(deviation, frames.std(2, unbiased=False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cnn", {"widht": 4}, "unknown option of encoder 'cnn', 'widht': did you mean 'width'"),
        ("transformer", {"width": 18}, "found width 18 with 4 heads"),
        ("bert", {"config": {"hidden_size": 10, "num_attention_heads": 3}}, "refuses this configuration of bert"),
        ("bert", {"pretrained": "/nowhere"}, "cannot load '/nowhere'"),
        ("transformer", {"pretrained": "/nowhere"}, "'transformer' has no published weights"),
        ("cnn", {"strides": [2, 0]}, r"found strides \[2, 0\]; expected whole numbers above 0"),
        ("temporal_cnn", {"strides": []}, r"found strides \[\]; expected whole numbers above 0"),
        (
            "bert",
            {"config": {"num_layers": 1}},
            "unknown key of the config of 'bert', 'num_layers': did you mean 'num_hi",
        ),
        ("temporal_cnn", {"width": "abc"}, "found width 'abc'; expected a whole number above 0"),
        ("vit", {"config": {"hidden_size": 7}}, "refuses this configuration of vit"),
        ("xlm-roberta", {"config": {"max_position_embeddings": 4}}, "refuses this configuration of xlm-roberta"),
        # Its positions begin after that of padding.
        (
            "xlm-roberta",
            {"config": {**ENCODERS["xlm-roberta"][1]["config"], "pad_token_id": 0, "max_position_embeddings": 12}},
            "refuses this configuration of xlm-roberta",
        ),
        ("temporal_cnn", {"pooling": "max"}, "expected 'flatten' or 'statistics'"),
        ("temporal_cnn", {"encoder": "wav2vec2", "width": None}, "'wav2vec2' takes audio as a tensor of rank 1"),
        ("cnn", {"encoder": "ast", "width": None}, "'ast' takes audio"),
    ],
)
def test_an_impossible_encoder_says_what_was_expected(name: str, changes: dict[str, Any], message: str) -> None:
    ((kind, part),) = modality(name).items()
    part = {key: value for key, value in (part | changes).items() if value is not None}
    with pytest.raises(InvalidArgument, match=message):
        new_model(MmedgeConfig(modalities={kind: part}, id2label={0: "no", 1: "yes"}))
