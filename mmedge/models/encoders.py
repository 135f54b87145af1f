"""Encoders of our own: a tensor of one modality -> a vector of features, and the tokens it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmedge.models.attention import SelfAttentionLayer, start_of_positions
from mmedge.runtime.errors import InvalidArgument


class Encoding(NamedTuple):
    """What an encoder makes of a batch: `vector` float32 [B, features], `tokens` float32 [B, T, channels], `mask` bool
    [B, T], true for the tokens that are there (None: all), and the `grid` (rows, columns) that the tokens of an image
    form, row by row. Each row of the batch stands for `samples` samples, one after the other.
    """

    vector: Tensor
    tokens: Tensor
    mask: Tensor | None = None
    grid: tuple[int, int] | None = None
    samples: int = 1


def repeated(x: Tensor, times: int) -> Tensor:
    """Each row of `x` so many times, one after the other."""
    return x if times == 1 else x.repeat_interleave(times, dim=0)


class Encoder(nn.Module):
    """features: length of the vector; tokens, channels: number and length of the tokens; grid: as in `Encoding`."""

    features: int
    tokens: int
    channels: int
    grid: tuple[int, int] | None = None


class CnnEncoder(Encoder):
    """One 3x3 convolution per stride, `width` channels in the first half of them and twice as many in the second. Its
    vector is all its tokens in a row, so that what is left of the image keeps its place.

    shape: [channels, height, width] of the input; forward: float32 [B, C, H, W].
    """

    def __init__(self, shape: tuple[int, ...], *, width: int, strides: Sequence[int] = (2, 1, 2, 2)) -> None:
        super().__init__()
        inputs, height, columns = shape
        widths = [width if 2 * index < len(strides) else 2 * width for index in range(len(strides))]
        # Strides instead of pooling: no convolution runs at full resolution.
        self.blocks = nn.Sequential(
            *(
                layer
                for before, after, stride in zip([inputs, *widths], widths, strides, strict=False)
                for layer in _image_block(before, after, stride)
            )
        )
        self.grid = ceil(height / prod(strides)), ceil(columns / prod(strides))
        self.tokens, self.channels = prod(self.grid), widths[-1]
        self.features = self.tokens * self.channels

    def forward(self, x: Tensor) -> Encoding:
        if self.training:  # convolutions and batch norm on a CPU are faster by a fifth
            x = x.contiguous(memory_format=torch.channels_last)
        grid = self.blocks(x)
        return Encoding(grid.flatten(1), grid.flatten(2).transpose(1, 2), grid=self.grid)


def _image_block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


class TemporalCnnEncoder(Encoder):
    """One convolution over time per stride (mel bands as channels), of 5 frames in the first three and 3 in the others,
    with `width` channels in the first two and twice as many in the others. By default the last four halve the frames;
    those left keep their order in the vector, since words differ by what comes first. Whole channels are dropped in
    training before each but the first two.

    pooling "flatten" keeps the frames; "statistics" gives their mean and standard deviation, for what does not depend
    on when it is said (x-vectors, Snyder et al. 2018, 2.1).
    shape: [n_mels, frames] of the input; forward: float32 [B, n_mels, frames].
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        width: int,
        strides: Sequence[int] = (1, 2, 2, 2, 2),
        pooling: str = "flatten",
    ) -> None:
        super().__init__()
        bands, frames = shape
        widths = [width if index < 2 else 2 * width for index in range(len(strides))]
        drop, layers = nn.Dropout1d(0.1), list[nn.Module]()
        for index, (before, after) in enumerate(zip([bands, *widths], widths, strict=False)):
            if index >= 2:
                layers.append(drop)
            layers += _time_block(before, after, 5 if index < 3 else 3, strides[index])
        self.blocks = nn.Sequential(*layers)
        self.pooling = pooling
        self.tokens, self.channels = ceil(frames / prod(strides)), widths[-1]
        self.features = self.channels * (self.tokens if pooling == "flatten" else 2)

    def forward(self, x: Tensor) -> Encoding:
        frames = self.blocks(x)
        if self.pooling == "flatten":
            vector = frames.flatten(1)
        else:
            mean = frames.mean(dim=2)
            deviation = ((frames - mean.unsqueeze(2)).square().mean(dim=2) + 1e-5).sqrt()
            vector = torch.cat([mean, deviation], dim=1)
        return Encoding(vector, frames.transpose(1, 2))


def _time_block(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm1d(outputs), nn.ReLU()


class TransformerEncoder(Encoder):
    """A small transformer over token ids: learned embeddings of tokens and positions, pre-norm layers; its vector is
    the mean of the tokens that are there.

    shape: [tokens]; forward: int32 [B, T], `pad_token_id` where a text has ended.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        width: int,
        vocab_size: int,
        pad_token_id: int = 0,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width % heads:
            raise InvalidArgument(f"found width {width} with {heads} heads; expected a multiple of the heads")
        (length,) = shape
        self.pad_token_id = pad_token_id
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = start_of_positions(length, width, None)
        self.layers = nn.ModuleList(SelfAttentionLayer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.tokens, self.channels, self.features = length, width, width

    def forward(self, x: Tensor) -> Encoding:
        mask = x != self.pad_token_id
        tokens = self.embedding(x) + self.positions
        for layer in self.layers:
            tokens = layer(tokens, mask)
        tokens = self.norm(tokens)
        return Encoding(masked_mean(tokens, mask), tokens, mask)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """The mean of float32 [B, T, C] over the tokens of `mask` bool [B, T] -> [B, C]; zeros where there is none."""
    weights = mask.unsqueeze(2).to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
