"""Heads: what is made of the fused embedding, and the loss it is trained with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmedge.models.attention import MASKED_SCORE, start_of_positions
from mmedge.models.encoders import Encoder, Encoding, repeated
from mmedge.runtime.errors import InvalidArgument


class ClassificationHead(nn.Module):
    """Dropout and a linear layer: float32 [B, dim] -> logits float32 [B, classes]."""

    def __init__(self, dim: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


class EmbeddingHead(nn.Module):
    """Dropout and a linear layer: float32 [B, dim] -> embedding float32 [B, size], of length 1 for the cosine."""

    def __init__(self, dim: int, size: int, metric: str, dropout: float) -> None:
        super().__init__()
        if metric not in ("cosine", "euclidean"):
            raise InvalidArgument(f"found metric {metric!r}; expected 'cosine' or 'euclidean'")
        self.metric = metric
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(dim, size)

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.projection(self.dropout(x))
        return functional.normalize(embedding, dim=1) if self.metric == "cosine" else embedding


class VqaHead(nn.Module):
    """An answer, and how relevant each part of the image is to it.

    With y the fused embedding, x_i the image's tokens and p_i learned positions:

        t_i = LayerNorm(W_t x_i) + p_i
        r_i = W_r ((W_k t_i) * (W_y y))        relevance logits, `scale`^2 cells per token
        a_i = softmax of r over all cells, summed over those of token i
        logits = W_2 ReLU(W_1 [y, sum of a_i t_i])

    The answer reads the image through the map alone: it learns from where the map points, and the map from the answer.
    What the map alone can answer keeps the fusion from ever looking itself, and questions of two steps (the object
    nearest to another) wait; `without_map` is an answer for the fusion to learn from, and serves nothing else.

    forward: y float32 [B, dim], the image's `Encoding`, its presence bool [B] -> logits float32
    [B, answers] and relevance logits float32 [B, scale * rows, scale * columns].
    """

    def __init__(self, dim: int, answers: int, image: Encoder, scale: int, dropout: float) -> None:
        super().__init__()
        assert image.grid is not None
        self.grid, self.scale = image.grid, scale
        self.token = nn.Linear(image.channels, dim)
        self.norm = nn.LayerNorm(dim)
        self.positions = start_of_positions(image.tokens, dim, image.grid)
        self.key = nn.Linear(dim, dim)
        self.question = nn.Linear(dim, dim)
        self.relevance = nn.Linear(dim, scale * scale)
        self.answer = _two_layers(2 * dim, 4 * dim, answers, dropout)
        self.without_map = _two_layers(dim, 4 * dim, answers, dropout)

    def forward(self, y: Tensor, image: Encoding, present: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.norm(self.token(image.tokens)) + self.positions
        cells = self.relevance(repeated(self.key(tokens), image.samples) * self.question(y).unsqueeze(1))
        attention = torch.softmax(cells.flatten(1), dim=1).reshape(cells.shape).sum(dim=2)
        # len() would fix the batch in an export.
        context = attention.reshape(tokens.shape[0], -1, tokens.shape[1]) @ tokens
        context = context.reshape(y.shape) * present.unsqueeze(1).to(tokens.dtype)
        grid = cells.transpose(1, 2).unflatten(2, self.grid)
        relevance = functional.pixel_shuffle(grid, self.scale).squeeze(1)
        relevance = relevance.masked_fill(~present[:, None, None], MASKED_SCORE)
        return self.answer(torch.cat([y, context], dim=1)), relevance


def _two_layers(dim: int, hidden: int, classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes))


def classification_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy for int64 [B] classes, binary cross-entropy for float32 [B, classes]; a scalar.

    A share `smoothing` of each target is spread evenly over the classes (Szegedy et al. 2016, 7), or over yes and no.
    """
    if labels.is_floating_point():
        smooth = labels * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, smooth)
    return functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def contrastive_loss(embeddings: Tensor, labels: Tensor, metric: str, temperature: float) -> Tensor:
    """Supervised InfoNCE (Khosla et al. 2020, eq. 2): each embedding against all others of the batch, those of its
    label being the right answers; a scalar, zero where no two share a label.

    Similarities are cosines, or minus squared distances for "euclidean", over the temperature.
    """
    similar = embeddings @ embeddings.T
    if metric == "euclidean":
        squares = similar.diagonal()
        similar = 2 * similar - squares[:, None] - squares[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    log_share = functional.log_softmax((similar / temperature).masked_fill(itself, MASKED_SCORE), dim=1)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    count = positive.sum(dim=1)
    loss = -log_share.masked_fill(~positive, 0.0).sum(dim=1) / count.clamp(min=1)
    return loss.sum() / (count > 0).sum().clamp(min=1)


def region_loss(relevance: Tensor, region: Tensor) -> Tensor:
    """Binary cross-entropy of relevance logits [B, rows, columns] against the share of each cell that is covered, plus
    the cross-entropy of their softmax over all cells against those shares made to sum to one; a sample without a mask
    (-1) counts nothing; a scalar.

    The second term is what teaches the model to find an object: few cells are covered, so that the first alone is
    nearly content with none.
    """
    known = (region[:, 0, 0] >= 0).to(relevance.dtype)
    region = region.clamp(min=0)
    entropy = functional.binary_cross_entropy_with_logits(relevance, region, reduction="none").mean(dim=(1, 2))
    log_share = functional.log_softmax(relevance.flatten(1), dim=1)
    target = region.flatten(1) / region.sum(dim=(1, 2)).clamp(min=1e-6).unsqueeze(1)
    pointing = -(target * log_share).sum(dim=1)
    return ((entropy + pointing) * known).sum() / known.sum().clamp(min=1)
