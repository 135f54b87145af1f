"""The CUDA kernels, from the library that `make gpu-check` builds."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int32, c_size_t, c_uint8, c_void_p
from pathlib import Path

import torch
from torch import Tensor

MOST_MODALITIES = 8  # kCudaFusionMostModalities
LIBRARY = Path(__file__).parents[2] / "build" / "gpu" / "benchmarks" / "gpu" / "libbench_kernels.so"
library = ctypes.CDLL(str(LIBRARY))
library.bench_packed_size.restype = c_size_t
library.bench_image_plan.restype = c_void_p
library.bench_image_tables.restype = POINTER(c_int32)
library.bench_log_mel_plan.restype = c_void_p
library.bench_log_mel_numbers.restype = POINTER(c_float)
library.bench_log_mel_bands.restype = POINTER(c_int32)
library.bench_similarity_candidates.restype = c_size_t

ELEMENTS = {torch.float32: 0, torch.float16: 1, torch.int8: 2}
TYPES = {torch.float32: 0, torch.float16: 1, torch.int8: 3}  # ElementType
COSINE = 0  # MME_COSINE


def launch(name: str, *arguments: object) -> None:
    """On PyTorch's current stream."""
    stream = c_void_p(torch.cuda.current_stream().cuda_stream)
    error = getattr(library, name)(*arguments, stream)
    if error:
        raise RuntimeError(f"{name}: CUDA error {error}")


def pointer(tensor: Tensor) -> c_void_p:
    return c_void_p(tensor.data_ptr())


def on_device(name: str, plan: c_void_p, kind: torch.dtype) -> Tensor:
    """The device's copy of a table of a plan."""
    count = c_size_t()
    table = getattr(library, name)(plan, byref(count))
    return torch.tensor(table[: count.value], dtype=kind, device="cuda")


class _Modality(Structure):  # and _Fusion, as kernels.cc has them
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
        self._tables = on_device("bench_image_tables", self._plan, torch.int32)
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


class LogMel:
    """Clips float32 [clips, samples] to float32 [clips, n_mels, 1 + samples / hop]."""

    def __init__(self, samples: Tensor, rate: int, n_fft: int, hop: int, n_mels: int, floor: float) -> None:
        self.samples = samples
        self._plan = c_void_p(library.bench_log_mel_plan(rate, n_fft, hop, n_mels, c_float(floor)))
        self._numbers = on_device("bench_log_mel_numbers", self._plan, torch.float32)
        self._bands = on_device("bench_log_mel_bands", self._plan, torch.int32)
        self.features = torch.empty(samples.shape[0], n_mels, 1 + samples.shape[1] // hop, device=samples.device)

    def __call__(self) -> Tensor:
        launch(
            "bench_log_mel",
            self._plan,
            pointer(self._numbers),
            pointer(self._bands),
            pointer(self.samples),
            *self.samples.shape,
            pointer(self.features),
        )
        return self.features


class _Gallery(Structure):
    _fields_ = [
        ("rows", c_void_p),
        ("count", c_size_t),
        ("stride", c_size_t),
        ("type", c_uint8),
        ("scale", c_float),
    ]


class _Similarity(Structure):
    _fields_ = [
        ("gallery", _Gallery),
        ("metric", c_int),
        ("queries", c_void_p),
        *((name, c_int) for name in ("query_count", "dimension", "k", "multiprocessors")),
        *((name, c_void_p) for name in ("rows", "scores", "candidates", "tickets")),
    ]


class SimilarityTopK:
    """The k rows of a gallery [N, D] that are nearest to each query float32 [Q, D] by cosine: scores [Q, k]."""

    def __init__(self, gallery: Tensor, queries: Tensor, k: int) -> None:
        count, dimension = gallery.shape
        device = gallery.device
        self.rows = torch.empty(len(queries), k, dtype=torch.int64, device=device)
        self.scores = torch.empty(len(queries), k, device=device)
        self._kept = [gallery, queries, torch.zeros((len(queries) + 3) // 4, dtype=torch.int32, device=device)]
        self._search = _Similarity(
            gallery=_Gallery(gallery.data_ptr(), count, dimension * gallery.element_size(), TYPES[gallery.dtype], 1.0),
            metric=COSINE,
            queries=queries.data_ptr(),
            query_count=len(queries),
            dimension=dimension,
            k=k,
            multiprocessors=torch.cuda.get_device_properties(device).multi_processor_count,
            rows=self.rows.data_ptr(),
            scores=self.scores.data_ptr(),
            tickets=self._kept[-1].data_ptr(),
        )
        size = library.bench_similarity_candidates(byref(self._search))
        self._kept.append(torch.empty(size, dtype=torch.int64, device=device))
        self._search.candidates = self._kept[-1].data_ptr()

    def __call__(self) -> Tensor:
        launch("bench_similarity_top_k", byref(self._search))
        return self.scores
