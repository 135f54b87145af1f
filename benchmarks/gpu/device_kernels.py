"""The CUDA kernels, from the library that `make build/gpu/kernels.stamp` builds."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int32, c_size_t, c_void_p
from pathlib import Path

import torch
from torch import Tensor

MOST_MODALITIES = 8  # kCudaFusionMostModalities
LIBRARY = Path(__file__).parents[2] / "build" / "gpu" / "benchmarks" / "gpu" / "libbench_kernels.so"
library = ctypes.CDLL(str(LIBRARY))
library.bench_packed_size.restype = c_size_t
library.bench_image_plan.restype = c_void_p
library.bench_image_tables.restype = POINTER(c_int32)

ELEMENTS = {torch.float32: 0, torch.float16: 1, torch.int8: 2}


def launch(name: str, *arguments: object) -> None:
    """On PyTorch's current stream."""
    stream = c_void_p(torch.cuda.current_stream().cuda_stream)
    error = getattr(library, name)(*arguments, stream)
    if error:
        raise RuntimeError(f"{name}: CUDA error {error}")


def pointer(tensor: Tensor) -> c_void_p:
    return c_void_p(tensor.data_ptr())


class _Modality(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "packed_weight", "scale", "offset", "bias")),
        *((name, c_void_p) for name in ("norm_weight", "norm_bias", "gate_weight", "gate_bias")),
        ("features", c_int),
    ]


class _Fusion(Structure):
    _fields_ = [
        ("modalities", _Modality * MOST_MODALITIES),
        *((name, c_int) for name in ("modality_count", "batch", "dimension")),
        ("epsilon", c_float),
        *((name, c_void_p) for name in ("presence", "y", "alpha", "z", "tickets")),
    ]


class GatedFusion:
    """`parameters` per modality: x [B, F], weight [D, F] of x's dtype, and float32 bias, norm weight, norm bias, gate
    weight [D] and gate bias [1]; of int8 also the scale [D] and the offset [D], int32."""

    def __init__(self, parameters: Sequence[dict[str, Tensor]], presence: Tensor, epsilon: float) -> None:
        batch, dimension = parameters[0]["x"].shape[0], parameters[0]["bias"].numel()
        kind = parameters[0]["x"].dtype
        self.element = ELEMENTS[kind]
        self.y = torch.empty(
            batch, dimension, dtype=torch.float32 if kind == torch.int8 else kind, device=presence.device
        )
        self._fusion = _Fusion(modality_count=len(parameters), batch=batch, dimension=dimension, epsilon=epsilon)
        self._kept = [presence, torch.empty(batch, len(parameters), dimension, device=presence.device)]
        self._kept.append(torch.zeros((batch + 3) // 4, dtype=torch.int32, device=presence.device))
        for name, tensor in zip(("presence", "z", "tickets"), self._kept, strict=True):
            setattr(self._fusion, name, tensor.data_ptr())
        self._fusion.y = self.y.data_ptr()
        for modality, of in zip(self._fusion.modalities, parameters, strict=False):
            modality.features = of["x"].shape[1]
            for name, tensor in of.items():
                held = (self._pack(tensor) if name == "weight" else tensor).contiguous()
                self._kept.append(held)
                setattr(modality, "packed_weight" if name == "weight" else name, held.data_ptr())

    def _pack(self, weight: Tensor) -> Tensor:
        dimension, features = weight.shape
        host = weight.cpu().contiguous()
        size = library.bench_packed_size(self.element, dimension, features)
        packed = torch.empty(size, dtype=weight.dtype)
        library.bench_pack(self.element, pointer(host), dimension, features, pointer(packed))
        return packed.to(weight.device)

    def __call__(self) -> Tensor:
        launch("bench_gated_fusion", self.element, byref(self._fusion))
        return self.y


class ImageToTensor:
    """NV12 frames uint8 [cameras, height * 3 / 2, width] of BT.709 to [cameras, 3, side, side]."""

    def __init__(self, frames: Tensor, side: int, kind: torch.dtype) -> None:
        self.frames = frames
        self.cameras, self.height, self.width = frames.shape[0], frames.shape[1] * 2 // 3, frames.shape[2]
        self._plan = c_void_p(library.bench_image_plan(self.width, self.height, side, side, ELEMENTS[kind]))
        count = c_size_t()
        tables = library.bench_image_tables(self._plan, byref(count))
        self._tables = torch.tensor(tables[: count.value], dtype=torch.int32, device=frames.device)
        self.tensor = torch.empty(self.cameras, 3, side, side, dtype=kind, device=frames.device)

    def __call__(self) -> Tensor:
        launch(
            "bench_image_to_tensor",
            self._plan,
            pointer(self._tables),
            pointer(self.frames),
            self.cameras,
            self.width,
            self.height,
            pointer(self.tensor),
        )
        return self.tensor
