"""Encoders: a tensor of one modality -> a vector of features."""

from __future__ import annotations

from math import ceil

from torch import Tensor, nn


class CnnEncoder(nn.Module):
    """Four 3x3 convolutions of width, width, 2 width, 2 width channels; all but the second halve the image, and what
    is left keeps its place in the features.

    shape: [channels, height, width] of the input; forward: float32 [B, C, H, W] -> float32 [B, features].
    """

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        channels, height, columns = shape
        # Strides instead of pooling: no convolution runs at full resolution.
        self.blocks = nn.Sequential(
            *_image_block(channels, width, stride=2),
            *_image_block(width, width, stride=1),
            *_image_block(width, 2 * width, stride=2),
            *_image_block(2 * width, 2 * width, stride=2),
        )
        self.features = 2 * width * ceil(height / 8) * ceil(columns / 8)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(x).flatten(1)
        return features


def _image_block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()


class TemporalCnnEncoder(nn.Module):
    """Five convolutions over time (mel bands as channels); the last four halve the frames, and those left keep their
    order in the features, since words differ by what comes first. Whole channels are dropped in training between them.

    shape: [n_mels, frames] of the input; forward: float32 [B, n_mels, frames] -> float32 [B, features].
    """

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        bands, frames = shape
        drop = nn.Dropout1d(0.1)
        self.blocks = nn.Sequential(
            *_time_block(bands, width, 5, stride=1),
            *_time_block(width, width, 5, stride=2),
            drop,
            *_time_block(width, 2 * width, 5, stride=2),
            drop,
            *_time_block(2 * width, 2 * width, 3, stride=2),
            drop,
            *_time_block(2 * width, 2 * width, 3, stride=2),
        )
        self.features = 2 * width * ceil(frames / 16)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(x).flatten(1)
        return features


def _time_block(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm1d(outputs), nn.ReLU()


ENCODERS: dict[str, type[CnnEncoder] | type[TemporalCnnEncoder]] = {
    "cnn": CnnEncoder,
    "temporal_cnn": TemporalCnnEncoder,
}
