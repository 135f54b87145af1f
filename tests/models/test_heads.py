from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from families import modality, random_batch
from torch.nn import functional

from mmedge.models import FusedModel, MmedgeConfig
from mmedge.models.fusion import FUSIONS
from mmedge.models.heads import contrastive_loss, region_loss
from mmedge.models.modeling import HEADS
from mmedge.runtime.errors import InvalidArgument

MODALITIES = modality("cnn") | modality("temporal_cnn") | modality("transformer")


def model(**changes: Any) -> FusedModel:
    torch.manual_seed(0)
    values = {"modalities": MODALITIES, "fusion_dim": 16, "embedding_dim": 6, "id2label": dict(enumerate("abc"))}
    return FusedModel(MmedgeConfig(**(values | changes))).eval()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_with_every_head_is_finite_and_ignores_absent_modalities_in_every_subset(
    fusion: str, head: str
) -> None:
    fused = model(fusion=fusion, head=head)
    x, other = random_batch(MODALITIES, 2), random_batch(MODALITIES, 2)
    seen = []
    for flags in list(itertools.product((False, True), repeat=3))[1:]:
        presence = torch.tensor([flags] * 2)
        present = dict(zip(MODALITIES, flags, strict=True))
        replaced = {name: x[name] if present[name] else other[name] for name in x}
        zeros = {name: x[name] if present[name] else torch.zeros_like(x[name]) for name in x}
        found = fused(presence, **x)
        for again in (fused(presence, **replaced), fused(presence, **zeros)):
            for name in fused.output_names:
                torch.testing.assert_close(again[name], found[name])
        assert all(found[name].isfinite().all() for name in fused.output_names)
        seen.append(found[fused.output_names[0]])
    assert all(not torch.allclose(a, b, atol=1e-4) for a, b in itertools.combinations(seen, 2))


def test_multi_label_training_is_binary_cross_entropy() -> None:
    fused = model(multi_label=True)
    presence, labels = torch.ones(2, 3, dtype=torch.bool), torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    output = fused(presence, labels=labels, **random_batch(MODALITIES, 2))
    expected = functional.binary_cross_entropy(torch.sigmoid(output.logits), labels)
    torch.testing.assert_close(output.loss, expected)


def test_cosine_embeddings_have_length_one() -> None:
    presence = torch.ones(2, 3, dtype=torch.bool)
    embedding = model(head="embedding")(presence, **random_batch(MODALITIES, 2)).embedding
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_contrastive_loss_is_its_formula(metric: str) -> None:
    torch.manual_seed(0)
    z = functional.normalize(torch.randn(7, 5, dtype=torch.float64), dim=1) * (2 if metric == "euclidean" else 1)
    labels = [0, 1, 0, 2, 1, 0, 3]
    losses = []
    for i, label in enumerate(labels):
        positives = [p for p in range(7) if p != i and labels[p] == label]
        if not positives:
            continue
        similar = [
            float(z[i] @ z[j]) / 0.3 if metric == "cosine" else -float(((z[i] - z[j]) ** 2).sum()) / 0.3
            for j in range(7)
        ]
        others = np.log(sum(np.exp(similar[j]) for j in range(7) if j != i))
        losses.append(-np.mean([similar[p] - others for p in positives]))
    found = contrastive_loss(z, torch.tensor(labels), metric, 0.3)
    torch.testing.assert_close(found, torch.tensor(np.mean(losses)))


def test_a_batch_without_a_pair_has_no_contrastive_loss() -> None:
    assert contrastive_loss(torch.randn(3, 4), torch.tensor([0, 1, 2]), "cosine", 0.1) == 0


def test_a_sample_without_a_mask_adds_nothing_to_the_region_loss() -> None:
    relevance, region = torch.randn(2, 4, 4), torch.rand(2, 4, 4)
    known = region_loss(relevance[:1], region[:1])
    region[1] = -1
    torch.testing.assert_close(region_loss(relevance, region), known)
    assert region_loss(relevance, torch.full((2, 4, 4), -1.0)) == 0


def test_the_region_loss_is_its_formula_and_finite_where_nothing_is_covered() -> None:
    relevance = torch.randn(2, 3, 5, dtype=torch.float64)
    region = torch.rand(2, 3, 5, dtype=torch.float64).where(torch.rand(2, 3, 5) > 0.6, 0.0)
    losses = []
    for r, g in zip(relevance.flatten(1).numpy(), region.flatten(1).numpy(), strict=True):
        share = 1 / (1 + np.exp(-r))
        binary = -(g * np.log(share) + (1 - g) * np.log(1 - share)).mean()
        losses.append(binary - (g / g.sum() * (r - np.log(np.exp(r).sum()))).sum())
    torch.testing.assert_close(region_loss(relevance, region), torch.tensor(np.mean(losses)))
    nothing = torch.zeros(1, 3, 5)
    torch.testing.assert_close(region_loss(nothing, nothing), torch.log(torch.tensor(2.0)))


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_regions_loss_counts_by_its_weight_where_the_image_is_there(weight: float) -> None:
    fused = model(head="vqa", region_scale=2, region_weight=weight)
    presence, tensors = torch.ones(3, 3, dtype=torch.bool), random_batch(MODALITIES, 3)
    presence[1, list(MODALITIES).index("image")] = False
    region, labels = torch.rand(3, 8, 8), torch.tensor([0, 2, 1])
    answers = fused(presence, labels=labels, **tensors).loss
    found = fused(presence, labels=labels, region=region, **tensors)
    seen = [0, 2]
    expected = answers + weight * region_loss(torch.logit(found.relevance[seen]), region[seen])
    torch.testing.assert_close(found.loss, expected)


def test_the_relevance_map_lies_over_the_image_row_by_row() -> None:
    fused = model(head="vqa", region_scale=2)
    assert fused.region_shape == (8, 8)
    head = fused.head
    # One token in the lower left corner, and one of its cells, made relevant by hand.
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.question.bias.fill_(1.0)
        head.key.weight.copy_(torch.eye(16))
        head.positions[12, 0] = 1.0  # of a grid of 4 x 4: row 3, column 0
        head.relevance.weight[1, 0] = 5.0  # the upper right one of 2 x 2 cells
    presence = torch.ones(1, 3, dtype=torch.bool)
    relevance = fused(presence, **random_batch(MODALITIES, 1)).relevance[0]
    assert np.unravel_index(int(relevance.argmax()), (8, 8)) == (6, 1)
    assert (relevance > 0.5).sum() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "vqa", "modalities": modality("temporal_cnn")}, "expected a modality with an image encoder"),
        ({"head": "embedding", "multi_label": True}, "expected head 'classification'"),
        ({"head": "embedding", "metric": "manhattan"}, "expected 'cosine' or 'euclidean'"),
    ],
)
def test_an_impossible_head_says_what_was_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        model(**changes)
