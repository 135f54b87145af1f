"""Fusion: one embedding out of the features of the modalities that are present."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn

# The lowest value of float16: exp(score - max) is exactly zero in every floating type.
ABSENT_SCORE = -65504.0

EPSILON = 1e-5  # of the layer norms


class _Projections(nn.Module):
    """h_m = ReLU(LayerNorm_m(W_m x_m + b_m)): every modality in one space of `dim` features."""

    def __init__(self, features: Sequence[int], dim: int) -> None:
        super().__init__()
        self.dim = dim
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

    forward: `xs` float32 [B, F_m] per modality, `presence` bool [B, M] -> float32 [B, D]; zero where no
    modality is present. In an ONNX export the whole formula is one node, `mmedge::GatedFusion`.
    """

    def __init__(self, features: Sequence[int], dim: int) -> None:
        super().__init__(features, dim)
        self.gates = nn.ModuleList(nn.Linear(dim, 1) for _ in features)

    def forward(self, xs: Sequence[Tensor], presence: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return self._node(xs, presence)
        h = self.project(xs)
        scores = torch.cat([gate(h[:, m]) for m, gate in enumerate(self.gates)], dim=1) / sqrt(self.dim)
        alpha = torch.softmax(scores.masked_fill(~presence, ABSENT_SCORE), dim=1) * presence
        return (alpha.unsqueeze(2) * h).sum(dim=1)

    def operands(self, xs: Sequence[Tensor], presence: Tensor) -> list[Tensor]:
        """The inputs of the node `mmedge::GatedFusion`; the gates' scale is in their weights."""
        inputs = [presence]
        for x, linear, norm, gate in zip(xs, self.projections, self.norms, self.gates, strict=True):
            scaled = (parameter / sqrt(self.dim) for parameter in gate.parameters())
            inputs += [x, *linear.parameters(), *norm.parameters(), *scaled]
        return inputs

    def _node(self, xs: Sequence[Tensor], presence: Tensor) -> Tensor:
        return torch.onnx.ops.symbolic(
            "mmedge::GatedFusion",
            self.operands(xs, presence),
            {"epsilon": EPSILON},
            dtype=xs[0].dtype,
            shape=(xs[0].shape[0], self.dim),
            version=1,
        )


class SumFusion(_Projections):
    """y = sum over present m of h_m. Shapes as in `GatedFusion`."""

    def forward(self, xs: Sequence[Tensor], presence: Tensor) -> Tensor:
        return (self.project(xs) * presence.unsqueeze(2).to(xs[0].dtype)).sum(dim=1)


FUSIONS: dict[str, type[GatedFusion] | type[SumFusion]] = {"gated": GatedFusion, "sum": SumFusion}
