"""What is timed, each beside PyTorch's own: eager, and compiled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from itertools import islice
from typing import Any

import torch
from device_kernels import GatedFusion, ImageToTensor, LogMel, SimilarityTopK
from timing import agree, compare
from torch import Tensor
from torch.nn import functional

from mmedge.models.fusion import EPSILON
from mmedge.models.fusion import GatedFusion as Module

Row = dict[str, Any]
PARAMETERS = ("weight", "bias", "norm_weight", "norm_bias", "gate_weight", "gate_bias")
FEATURES, DIM = (512, 256, 384), 256
CAMERAS, FRAME_SETS = 16, 4  # more frames than the second-level cache holds
FRAME, SIDE = (1080, 1920), 224
CLIPS, RATE, N_FFT, HOP, N_MELS, FLOOR = 64, 16_000, 400, 160, 64, 1e-6
GALLERY, NEAREST = (1_000_000, 256), 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def gated_fusion() -> Iterator[Row]:
    torch.manual_seed(0)
    for batch in (1, 256):
        presence = torch.rand(batch, len(FEATURES), device="cuda") < 0.75
        presence[:, 0] = True
        whole = Module(FEATURES, DIM).cuda().eval()
        xs = [torch.randn(batch, features, device="cuda") for features in FEATURES]
        expected = whole(xs, presence).vector
        for kind, tolerance in ((torch.float32, 1e-5), (torch.float16, 4e-3)):
            peer = deepcopy(whole).to(kind)
            inputs = [x.to(kind) for x in xs]
            operands = iter(peer.operands(inputs, presence)[1:])
            modalities = []
            for x in operands:
                weight, *others = islice(operands, len(PARAMETERS))
                parameters = (weight, *(other.float().flatten() for other in others))
                modalities.append({"x": x} | dict(zip(PARAMETERS, parameters, strict=True)))
            ours = GatedFusion(modalities, presence, EPSILON)
            agree(ours(), expected, tolerance)
            moved = sum(size_of(modality["x"]) + size_of(modality["weight"]) for modality in modalities)
            yield compare(
                f"gated_fusion, batch {batch}, {name_of(kind)}",
                moved + size_of(ours.y),
                [ours],
                [partial(peer, inputs, presence)],
                [partial(torch.compile(peer), inputs, presence)],
            )


def picture(frames: Tensor, kind: torch.dtype) -> Tensor:
    """What image_to_tensor does, as one would write it in PyTorch: planes resized, then colour (BT.709, limited range).

    Chroma is filtered on its own pixels, where ours, like a conversion before the resize, takes each as four of luma's:
    on noise that is up to 4 % of the range.
    """
    height = frames.shape[1] * 2 // 3
    luma = frames[:, None, :height].float() - 16
    chroma = frames[:, height:].unflatten(2, (-1, 2)).permute(0, 3, 1, 2).float() - 128
    size = {"size": (SIDE, SIDE), "mode": "bilinear", "antialias": True}
    y = functional.interpolate(luma, **size) * (255 / 219)
    u, v = (functional.interpolate(chroma, **size) * (255 / 112)).unbind(1)
    y = y[:, 0]
    rgb = torch.stack((y + 0.7874 * v, y - 0.0936624 * u - 0.2340605 * v, y + 0.9278 * u), dim=1)
    mean, std = (torch.tensor(values, device=frames.device).reshape(3, 1, 1) * 255 for values in (MEAN, STD))
    return ((rgb.clamp(0, 255) - mean) / std).to(kind)


def image_to_tensor() -> Iterator[Row]:
    height, width = FRAME
    compiled = torch.compile(picture)
    for kind in (torch.float32, torch.float16):
        sets = [
            torch.randint(16, 236, (CAMERAS, height * 3 // 2, width), dtype=torch.uint8, device="cuda")
            for _ in range(FRAME_SETS)
        ]
        ours = [ImageToTensor(frames, SIDE, kind) for frames in sets]
        agree(ours[0](), picture(sets[0], kind), 0.05)
        yield compare(
            f"image_to_tensor, {CAMERAS} x 1080p NV12, {name_of(kind)}",
            size_of(sets[0]) + size_of(ours[0].tensor),
            ours,
            [partial(picture, frames, kind) for frames in sets],
            [partial(compiled, frames, kind) for frames in sets],
        )


def log_mel() -> Iterator[Row]:
    try:
        from torchaudio.transforms import MelSpectrogram
    except (ImportError, OSError) as error:
        print(f"log_mel is not timed: torchaudio, its peer, is not there for this PyTorch ({error})", file=sys.stderr)
        return
    spectrogram = MelSpectrogram(RATE, n_fft=N_FFT, hop_length=HOP, n_mels=N_MELS).cuda()

    def peer(samples: Tensor) -> Tensor:
        return spectrogram(samples).clamp(min=FLOOR).log()

    samples = torch.randn(CLIPS, RATE, device="cuda")
    ours = LogMel(samples, RATE, N_FFT, HOP, N_MELS, FLOOR)
    agree(ours(), peer(samples), 1e-4)
    yield compare(
        f"log_mel, {CLIPS} x 1 s",
        size_of(samples) + size_of(ours.features),
        [ours],
        [partial(peer, samples)],
        [partial(torch.compile(peer), samples)],
    )


def nearest(gallery: Tensor, norms: Tensor, queries: Tensor) -> Tensor:
    """Cosines of the nearest rows, as one would write it in PyTorch, the rows' norms worked out beforehand."""
    cosines = (queries.to(gallery.dtype) @ gallery.T).float() / (queries.norm(dim=1, keepdim=True) * norms)
    return cosines.topk(NEAREST, dim=1).values


def similarity_top_k() -> Iterator[Row]:
    for kind in (torch.float32, torch.float16):
        gallery = torch.randn(GALLERY, device="cuda").to(kind)
        norms = gallery.float().norm(dim=1)
        for count in (1, 32):
            queries = torch.randn(count, GALLERY[1], device="cuda")
            ours = SimilarityTopK(gallery, queries, NEAREST)
            agree(ours(), nearest(gallery.float(), norms, queries), 1e-5)
            yield compare(
                f"similarity_top_k, {count} of {GALLERY[0]:,} x {GALLERY[1]}, {name_of(kind)}",
                size_of(gallery),
                [ours],
                [partial(nearest, gallery, norms, queries)],
                [partial(torch.compile(nearest), gallery, norms, queries)],
            )


def size_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def name_of(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
