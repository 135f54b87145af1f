"""image_to_tensor against what one would write without it, one thread each.

From camera bytes to 3x224x224 float32, antialiased, with ImageNet's mean and standard deviation:

- opencv: cvtColor, INTER_AREA resize, float normalise, transpose
- blob: cvtColor, cv2.dnn.blobFromImage (not antialiased, one deviation for all channels)
- pillow: convert (YUV by cvtColor: Pillow reads none), BILINEAR resize, float normalise, transpose

Every round times eight frames with each, in turn, one by one and by the thread's CPU time, so that other processes'
turns do not count. A call takes a hundred microseconds or more, the clock and the binding together under two: they are
left in. `*_us` are medians; the rounds go through 48 frames, more than the second-level cache holds, as a camera's next
frame is never there. `*_warm_us` are one frame again and again, as where the capture has just written it. Ratios are
the peer's time over ours, both on such frames. `max_diff_levels` is the largest difference to colour conversion and
resize in float64, unclipped until the end, in levels of 255. MMEDGE_MAX_ISA limits our instructions.

    python benchmarks/bench_image.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from mmedge.runtime import Preprocessor
from mmedge.runtime.native import check, ffi, lib, struct

SIDE = 224
FRAMES = 48
SWEEP = 8
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
PREPROCESS = {
    "type": "image",
    "fit": "stretch",
    "interpolation": "bilinear",
    "antialias": True,
    "width": SIDE,
    "height": SIDE,
    "channels": "rgb",
    "mean": MEAN.tolist(),
    "std": STD.tolist(),
}

Bytes = npt.NDArray[np.uint8]


class Case(NamedTuple):
    name: str
    format: str
    width: int
    height: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the frame's bytes as OpenCV takes them."""
        shapes = {"NV12": (self.height * 3 // 2, self.width), "BGR8": (self.height, self.width, 3)}
        return shapes.get(self.format, (self.height, self.width, 2))

    @property
    def to_rgb(self) -> int:
        codes = {"NV12": cv2.COLOR_YUV2RGB_NV12, "BGR8": cv2.COLOR_BGR2RGB, "YUYV": cv2.COLOR_YUV2RGB_YUYV}
        return codes[self.format]


CASES = (
    Case("nv12_720p", "NV12", 1280, 720),
    Case("bgr_720p", "BGR8", 1280, 720),
    Case("yuyv_720p", "YUYV", 1280, 720),
    Case("nv12_1080p", "NV12", 1920, 1080),
)


def to_c(case: Case, frame: Bytes) -> Any:
    """An mme_image that lends the frame's memory."""
    image = struct("mme_image", format=getattr(lib, f"MME_IMAGE_{case.format}"), width=case.width, height=case.height)
    pixels = case.width * case.height
    planes = [(0, pixels, case.width), (pixels, pixels // 2, case.width)]
    if case.format != "NV12":
        planes = [(0, frame.nbytes, frame.nbytes // case.height)]
    for i, (offset, size, stride) in enumerate(planes):
        image.planes[i] = ffi.cast("const void *", frame.ctypes.data + offset)
        image.sizes[i] = size
        image.strides[i] = stride
    return image


def normalise(rgb: Bytes) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(((rgb.astype(np.float32) * np.float32(1 / 255) - MEAN) / STD).transpose(2, 0, 1))


def opencv(case: Case, frame: Bytes) -> npt.NDArray[np.float32]:
    rgb = cv2.cvtColor(frame, case.to_rgb)
    return normalise(np.asarray(cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8))


def blob(case: Case, frame: Bytes) -> Any:
    bgr = case.format == "BGR8"
    image = frame if bgr else cv2.cvtColor(frame, case.to_rgb)
    mean = (MEAN * 255).tolist()
    return cv2.dnn.blobFromImage(
        image, 1 / (255 * float(STD.mean())), (SIDE, SIDE), mean[::-1] if bgr else mean, swapRB=bgr
    )


def pillow(case: Case, frame: Bytes) -> npt.NDArray[np.float32]:
    picture = Pillow.fromarray(np.asarray(cv2.cvtColor(frame, case.to_rgb), np.uint8))
    return normalise(np.asarray(picture.resize((SIDE, SIDE), Pillow.Resampling.BILINEAR)))


def triangle(source: int) -> npt.NDArray[np.float64]:
    """The antialiased bilinear resize as a matrix [SIDE, source]."""
    scale = source / SIDE
    centres = (np.arange(SIDE) + 0.5) * scale
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(source) + 0.5 - centres[:, None]) / max(scale, 1.0))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def exact(case: Case, frame: Bytes) -> npt.NDArray[np.float64]:
    """The tensor in levels of 255, by float64: BT.601, limited range, each chroma sample over its pixels."""
    if case.format == "BGR8":
        rgb = frame[..., ::-1].astype(float)
    else:
        if case.format == "NV12":
            luma, chroma = frame[: case.height], frame[case.height :].reshape(case.height // 2, -1, 2).repeat(2, axis=0)
        else:
            luma, chroma = frame[..., 0], frame[..., 1].reshape(case.height, -1, 2)
        u, v = np.moveaxis(chroma.repeat(2, axis=1).astype(float) - 128, 2, 0)
        y = (luma.astype(float) - 16) * (255 / 219)
        rgb = np.stack([y + 1.596027 * v, y - 0.391762 * u - 0.812968 * v, y + 2.017232 * u], axis=2)
    resized = np.einsum("ty,yxc,ux->ctu", triangle(case.height), rgb, triangle(case.width), optimize=True)
    return np.asarray(np.clip(resized, 0, 255))


def microseconds(call: Callable[[], Any]) -> float:
    begin = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - begin) / 1000


def measure(case: Case, rounds: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (FRAMES, *case.shape), dtype=np.uint8)  # one block, like a driver's ring
    images = [to_c(case, frame) for frame in frames]
    preprocessor = Preprocessor(PREPROCESS)
    tensor = struct("mme_tensor")

    def mmedge(i: int) -> None:
        check(lib.mme_preprocessor_image(preprocessor._handle, images[i], tensor))

    mmedge(0)
    values = np.frombuffer(ffi.buffer(tensor.data, tensor.size), np.float32).reshape(3, SIDE, SIDE)
    levels = (values.transpose(1, 2, 0) * STD.astype(float) + MEAN) * 255
    difference = np.abs(levels.transpose(2, 0, 1) - exact(case, frames[0])).max()

    ways: dict[str, Callable[[int], Any]] = {
        "mmedge": mmedge,
        "opencv": lambda i: opencv(case, frames[i]),
        "pillow": lambda i: pillow(case, frames[i]),
        "blob": lambda i: blob(case, frames[i]),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds):
        for number, (name, way) in enumerate(ways.items()):
            # Not the frames the way before has just pulled into the cache.
            first = i * SWEEP + number * FRAMES // len(ways)
            for frame in range(first, first + SWEEP):
                times[name].append(microseconds(lambda way=way, frame=frame % FRAMES: way(frame)))  # type: ignore[misc]
    for name in ("mmedge", "opencv", "blob"):
        times[f"{name}_warm"] = [microseconds(lambda way=ways[name]: way(0)) for _ in range(rounds * SWEEP)]  # type: ignore[misc]
    medians = {name: median(values) for name, values in times.items()}
    ratios = {
        f"ratio_{peer}{warm}": round(medians[peer + warm] / medians["mmedge" + warm], 2)
        for warm in ("", "_warm")
        for peer in ("opencv", "blob")
    }
    result = {f"{name}_us": round(value, 1) for name, value in medians.items()}
    return result | ratios | {"max_diff_levels": round(float(difference), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    results = {case.name: measure(case, arguments.rounds) for case in CASES}
    instruction_set = os.environ.get("MMEDGE_MAX_ISA") or "best"
    if arguments.json:
        print(json.dumps({"instruction_set": instruction_set, **results}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("", *results, title=f"camera bytes to 3x{SIDE}x{SIDE}, {instruction_set}")
    for key in next(iter(results.values())):
        table.add_row(key, *(f"{result[key]:g}" for result in results.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
