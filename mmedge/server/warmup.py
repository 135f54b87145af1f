"""Requests that a server sends through itself before it is ready, so that no client meets a first time."""

from __future__ import annotations

import http.client
import io
import json
import math
import time
from collections.abc import Iterator
from itertools import combinations
from urllib.parse import quote

import numpy as np

from mmedge.runtime import Manifest
from mmedge.runtime.errors import EngineError
from mmedge.runtime.manifest import Input
from mmedge.server import kserve

_RUNS = 3
_RETRY_SECONDS = 0.1
_MOST_SIDE = 256  # of a picture of noise, which grows no smaller by compression


def warm_up(address: tuple[str, int], manifest: Manifest, most: int) -> None:
    """Send every kind of request whose body is of at most `most` bytes, a few times each, to the server at `address`,
    and wait for the answers.

    Raises:
        EngineError: the model fails on noise.
    """
    connection = http.client.HTTPConnection(*address)
    for path, content_type, body in _requests(manifest):
        for _ in range(_RUNS if len(body) <= most else 0):
            status, content = 503, b""
            while status == 503:  # clients are before it
                try:
                    connection.request("POST", path, body, {"Content-Type": content_type})
                    answer = connection.getresponse()
                    status, content = answer.status, answer.read()
                except (BrokenPipeError, ConnectionResetError, http.client.HTTPException):
                    connection.close()  # it was one too many, which is refused unread
                time.sleep(_RETRY_SECONDS if status == 503 else 0)
            if status != 200:
                raise EngineError(f"the model fails on files of noise: {json.loads(content)['error']}")
    connection.close()


def _requests(manifest: Manifest) -> Iterator[tuple[str, str, bytes]]:
    """Path, content type and body: a form of files for every subset of the inputs, and one of tensors."""
    path = f"/v2/models/{quote(manifest.name, safe='')}"
    parts = {
        entry.name: b"--example\r\n"
        + f'Content-Disposition: form-data; name="{entry.name}"; filename="{entry.name}"\r\n\r\n'.encode()
        + _noise_file(entry)
        + b"\r\n"
        for entry in manifest.inputs
    }
    for count in range(1, len(parts) + 1):
        for subset in combinations(parts.values(), count):
            form = b"".join(subset) + b"--example--\r\n"
            yield f"{path}/predict", "multipart/form-data; boundary=example", form
    tensors = [
        entry | {"shape": shape, "data": [0] * math.prod(shape)}
        for entry in kserve.model_metadata(manifest)["inputs"]
        if (shape := entry["shape"]) and min(shape) > 0
    ]
    if tensors:
        yield f"{path}/infer", "application/json", json.dumps({"inputs": tensors}).encode()


def _noise_file(entry: Input) -> bytes:
    noise = np.random.default_rng(0)
    file = io.BytesIO()
    if entry.modality == "image":
        from PIL import Image

        size = *(min(entry.preprocess[side], _MOST_SIDE) for side in ("height", "width")), 3
        Image.fromarray(noise.integers(0, 256, size, np.uint8)).save(file, "PNG")
    elif entry.modality == "text":
        file.write(b"What is it?")
    else:
        import soundfile

        rate = entry.preprocess["sample_rate"]
        soundfile.write(file, noise.uniform(-0.5, 0.5, rate), rate, format="WAV")
    return file.getvalue()
