"""Fusion: one embedding out of the modalities that are present; finite for every subset of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmedge.models.attention import MASKED_SCORE, CrossAttentionLayer, start_of_positions
from mmedge.models.encoders import Encoder, Encoding, repeated

EPSILON = 1e-5  # of the layer norms


class Fused(NamedTuple):
    """vector: float32 [B, D]; weights: float32 [B, M], how much of it each modality is, where the fusion can tell."""

    vector: Tensor
    weights: Tensor | None = None


class _Projections(nn.Module):
    """h_m = ReLU(LayerNorm_m(W_m x_m + b_m)): every modality in one space of `dim` features."""

    def __init__(self, features: Sequence[int], dim: int) -> None:
        super().__init__()
        self.dim, self.features = dim, tuple(features)
        self.projections = nn.ModuleList(nn.Linear(n, dim) for n in features)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=EPSILON) for _ in features)

    def project(self, xs: Sequence[Tensor]) -> Tensor:
        """float32 [B, F_m] per modality -> [B, M, D]."""
        rows = [torch.relu(norm(linear(x))) for x, linear, norm in zip(xs, self.projections, self.norms, strict=True)]
        return torch.stack(rows, dim=1)


class GatedFusion(_Projections):
    """A weighted mean of the projected modalities, its weights a softmax over those present.

        s_m = (u_m . h_m + c_m) / sqrt(D)
        alpha = softmax of s over present m
        y = sum over present m of alpha_m h_m

    The scores are scaled as in dot-product attention (Vaswani et al. 2017, 3.2.1): a gate that learns to be sure of
    itself on the training voices trusts them too far on others.

    forward: `xs` float32 [B, F_m] per modality, `presence` bool [B, M] -> y and alpha; zero where no modality is
    present. In an ONNX export the whole formula is one node, `mmedge::GatedFusion`.
    """

    def __init__(self, features: Sequence[int], dim: int) -> None:
        super().__init__(features, dim)
        self.gates = nn.ModuleList(nn.Linear(dim, 1) for _ in features)

    def forward(self, xs: Sequence[Tensor], presence: Tensor) -> Fused:
        if torch.onnx.is_in_onnx_export():
            return self._node(xs, presence)
        h = self.project(xs)
        scores = torch.cat([gate(h[:, m]) for m, gate in enumerate(self.gates)], dim=1) / sqrt(self.dim)
        alpha = torch.softmax(scores.masked_fill(~presence, MASKED_SCORE), dim=1) * presence
        return Fused((alpha.unsqueeze(2) * h).sum(dim=1), alpha)

    def operands(self, xs: Sequence[Tensor], presence: Tensor) -> list[Tensor]:
        """The inputs of the node `mmedge::GatedFusion`; the gates' scale is in their weights."""
        inputs = [presence]
        for x, linear, norm, gate in zip(xs, self.projections, self.norms, self.gates, strict=True):
            scaled = (parameter / sqrt(self.dim) for parameter in gate.parameters())
            inputs += [x, *linear.parameters(), *norm.parameters(), *scaled]
        return inputs

    def _node(self, xs: Sequence[Tensor], presence: Tensor) -> Fused:
        batch, kind = xs[0].shape[0], xs[0].dtype
        vector, weights = torch.onnx.ops.symbolic_multi_out(
            "mmedge::GatedFusion",
            self.operands(xs, presence),
            {"epsilon": EPSILON},
            dtypes=(kind, kind),
            shapes=((batch, self.dim), (batch, len(xs))),
            version=1,
        )
        return Fused(vector, weights)


class SumFusion(_Projections):
    """y = sum over present m of h_m. Shapes as in `GatedFusion`."""

    def forward(self, xs: Sequence[Tensor], presence: Tensor) -> Fused:
        return Fused((self.project(xs) * presence.unsqueeze(2).to(xs[0].dtype)).sum(dim=1))


class ProductFusion(_Projections):
    """y = elementwise product over present m of tanh(LayerNorm_m(W_m x_m + b_m)), a low-rank bilinear pooling (Kim et
    al. 2017, 3.2); an absent modality is a factor of one. Shapes as in `GatedFusion`.
    """

    def forward(self, xs: Sequence[Tensor], presence: Tensor) -> Fused:
        factors = [
            torch.where(presence[:, m : m + 1], torch.tanh(norm(linear(x))), 1.0)
            for m, (x, linear, norm) in enumerate(zip(xs, self.projections, self.norms, strict=True))
        ]
        product = factors[0]
        for factor in factors[1:]:
            product = product * factor
        return Fused(product)


class ConcatFusion(_Projections):
    """y = W [h_1, ..., h_M, p] + b, where h_m is zero where m is absent and p is the presence. Shapes as in
    `GatedFusion`.
    """

    def __init__(self, features: Sequence[int], dim: int) -> None:
        super().__init__(features, dim)
        self.mix: nn.Module = nn.Linear((dim + 1) * len(features), dim)

    def forward(self, xs: Sequence[Tensor], presence: Tensor) -> Fused:
        present = presence.to(xs[0].dtype)
        masked = self.project(xs) * present.unsqueeze(2)
        return Fused(self.mix(torch.cat([masked.flatten(1), present], dim=1)))


class MlpFusion(ConcatFusion):
    """As `ConcatFusion`, with a hidden layer of 2 D and ReLU in place of W."""

    def __init__(self, features: Sequence[int], dim: int) -> None:
        super().__init__(features, dim)
        self.mix = nn.Sequential(
            nn.Linear((dim + 1) * len(features), 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim), nn.ReLU()
        )


class CrossAttentionFusion(nn.Module):
    """One modality asks, the others answer: a query, learned and with the vector of the modality at index `asking`
    added, goes through layers that attend to the tokens of the others; y is what it becomes.

    Tokens are projected to `dim` and get a learned embedding of their position. A learned null token is there when no
    other modality is (Vaswani et al. 2017, 3.2.2 for the attention).

    forward: an `Encoding` per modality, `presence` bool [B, M] -> y float32 [B, dim].
    """

    def __init__(
        self, encoders: Sequence[Encoder], dim: int, *, asking: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.asking = asking
        self.asked = [m for m in range(len(encoders)) if m != asking]
        asked = [encoders[m] for m in self.asked]
        self.summary = nn.Linear(encoders[asking].features, dim)
        self.projections = nn.ModuleList(nn.Linear(encoder.channels, dim) for encoder in asked)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in asked)
        self.positions = nn.ParameterList(start_of_positions(encoder.tokens, dim, encoder.grid) for encoder in asked)
        self.query, self.null = (start_of_positions(1, dim, None) for _ in range(2))
        self.layers = nn.ModuleList(CrossAttentionLayer(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, encodings: Sequence[Encoding], presence: Tensor) -> Fused:
        batch = presence.shape[0]
        asking = encodings[self.asking]
        asks = presence[:, self.asking : self.asking + 1].to(asking.vector.dtype)
        x = self.query + (repeated(self.summary(asking.vector), asking.samples) * asks).unsqueeze(1)
        asked = [encodings[m] for m in self.asked]
        shared = min((encoding.samples for encoding in asked), default=1)
        memory = [self.null.expand(batch // shared, 1, -1)]
        mask = [torch.ones(batch, 1, dtype=torch.bool, device=presence.device)]
        parts = zip(self.asked, asked, self.projections, self.norms, self.positions, strict=True)
        for m, encoding, linear, norm, position in parts:
            memory.append(repeated(norm(linear(encoding.tokens)) + position, encoding.samples // shared))
            there = presence[:, m : m + 1]
            if encoding.mask is None:
                mask.append(there.expand(-1, encoding.tokens.shape[1]))
            else:
                mask.append(repeated(encoding.mask, encoding.samples) & there)
        tokens, tokens_there = torch.cat(memory, dim=1), torch.cat(mask, dim=1)
        for layer in self.layers:
            x = layer(x, tokens, tokens_there, shared)
        return Fused(self.norm(x[:, 0]))


# Of one vector per modality; `cross_attention` takes their tokens.
VECTOR_FUSIONS: dict[str, type[_Projections]] = {
    "concat": ConcatFusion,
    "sum": SumFusion,
    "product": ProductFusion,
    "gated": GatedFusion,
    "mlp": MlpFusion,
}
FUSIONS = (*VECTOR_FUSIONS, "cross_attention")
