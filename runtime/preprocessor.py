"""Preprocessing alone: the runtime's own kernels, for training, calibration and tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mmedge.runtime.inputs import Audio, Image, from_c_tensor, input_shape, to_c_audio, to_c_image
from mmedge.runtime.native import check, ffi, lib, struct, text


class Preprocessor:
    """Turns one modality's raw data into the tensor its encoder takes.

    `parameters` is an input's "preprocess" object, as in a recipe or a manifest; a wrong one raises InvalidArgument
    naming the key. One thread at a time. It may be pickled, and used after a fork.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.parameters = dict(parameters)
        made = ffi.new("mme_preprocessor **")
        check(lib.mme_preprocessor_create(json.dumps(self.parameters).encode(), made))
        self._handle = ffi.gc(made[0], lib.mme_preprocessor_destroy)
        info = struct("mme_input_info")
        check(lib.mme_preprocessor_get_info(self._handle, info))
        self.modality = text(info.modality)
        self.shape = input_shape(info)
        """Shape of the tensor; -1 marks a dimension that depends on the data."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Preprocessor, (self.parameters,)

    def __call__(self, data: Image | Audio | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The tensor of a frame (an `Image` or a plain array: float32 [channels, height, width]) or of a clip
        (an `Audio`: float32 [n_mels, frames]).

        Raises:
            InvalidArgument: data of another modality, type or shape.
            DataError: the data itself is unusable, such as empty audio or a NaN sample.
        """
        tensor = struct("mme_tensor")
        if isinstance(data, Audio):
            check(lib.mme_preprocessor_audio(self._handle, to_c_audio(data), tensor))
        else:
            check(lib.mme_preprocessor_image(self._handle, to_c_image(data), tensor))
        return from_c_tensor(tensor)
