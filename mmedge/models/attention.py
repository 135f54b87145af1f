"""Attention and the layers built of it, shared by the text encoder and the cross-attention fusion."""

from __future__ import annotations

from math import log10, pi

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmedge.runtime.errors import InvalidArgument

# The lowest value of float16: exp(score - max) is exactly zero in every floating type, and a row with nothing to
# attend to stays finite.
MASKED_SCORE = -65504.0


def start_of_positions(tokens: int, dim: int, grid: tuple[int, int] | None) -> nn.Parameter:
    """Learned positions as they begin, float32 [tokens, dim]: noise, or sines and cosines of row and column where the
    tokens form a `grid` (rows, columns), as in Vaswani et al. 2017, 3.5, per axis: near and far are then dot products
    from the start. Beside layer-normed tokens they are large enough to be seen and drown nothing.
    """
    if grid is None:
        return nn.Parameter(torch.randn(tokens, dim) * 0.1)
    # From three cells to three times the grid: no wave is shorter than can be told apart, none too long to tell ends.
    waves = 2 * pi / torch.logspace(log10(3), log10(3 * max(grid)), max(dim // 4, 1))
    axes = [torch.arange(count)[:, None] * waves for count in grid]
    rows, columns = (torch.cat([axis.sin(), axis.cos()], dim=1) for axis in axes)
    shape = *grid, rows.shape[1]
    waved = torch.cat([rows[:, None].expand(shape), columns[None].expand(shape)], dim=2).flatten(0, 1)
    positions = torch.zeros(tokens, dim)
    positions[:, : waved.shape[1]] = 0.5 * waved[:, :dim]
    return nn.Parameter(positions)


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, 3.2.2).

    forward: `queries` float32 [B, Q, D], `keys` float32 [B / samples, K, D], which are the values too, each row those
    of `samples` samples one after the other, `mask` bool [B, K], true for the keys that are there -> float32 [B, Q, D].
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise InvalidArgument(f"found {dim} features with {heads} heads; expected a multiple of the heads")
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor, samples: int = 1) -> Tensor:
        away = torch.zeros_like(mask, dtype=queries.dtype).masked_fill(~mask, MASKED_SCORE)[:, None, None, :]
        asked = self.query(queries)
        if samples > 1:  # fewer and larger products: the queries of all samples that share the keys
            away = away.expand(-1, -1, queries.shape[1], -1).reshape(len(keys), 1, -1, keys.shape[1])
            asked = asked.reshape(len(keys), -1, asked.shape[2])
        q, k, v = self._split(asked), self._split(self.key(keys)), self._split(self.value(keys))
        heads = functional.scaled_dot_product_attention(q, k, v, attn_mask=away)
        mixed: Tensor = self.output(heads.transpose(1, 2).reshape(queries.shape))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        return x.reshape(batch, tokens, self.heads, -1).transpose(1, 2)


class SelfAttentionLayer(nn.Module):
    """A pre-norm transformer layer (Xiong et al. 2020): x + attention(norm x), then x + feed-forward(norm x).

    forward: `x` float32 [B, T, D], `mask` bool [B, T] -> float32 [B, T, D].
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.feed_forward = FeedForward(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm(x)
        x = x + self.dropout(self.attention(normed, normed, mask))
        fed: Tensor = x + self.dropout(self.feed_forward(x))
        return fed


class CrossAttentionLayer(nn.Module):
    """The queries attend to `memory`, then pass a feed-forward; pre-norm.

    forward: `x` float32 [B, Q, D], `memory` float32 [B / samples, K, D], `mask` bool [B, K] -> float32 [B, Q, D].
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.feed_forward = FeedForward(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor, samples: int = 1) -> Tensor:
        x = x + self.dropout(self.attention(self.norm(x), memory, mask, samples))
        fed: Tensor = x + self.dropout(self.feed_forward(x))
        return fed


class FeedForward(nn.Sequential):
    """LayerNorm, a layer four times as wide with GELU, and back: float32 [..., D] -> [..., D]."""

    def __init__(self, dim: int) -> None:
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
