"""Preprocessing alone: the runtime's own kernels, for training, calibration and tests."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mmedge.runtime.arrays import DTYPES, from_c_tensor, shape_of
from mmedge.runtime.inputs import Audio, Image, to_c_audio
from mmedge.runtime.native import check, ffi, lib, path_bytes, struct, text


class Preprocessor:
    """Turns one modality's raw data into the tensor its encoder takes.

    `parameters` is an input's "preprocess" object, as in a recipe or a manifest; a wrong one raises InvalidArgument
    naming the key. `directory` is where the files lie that it names, such as a tokenizer. One thread at a time. It
    may be pickled (a stream in progress is left behind; the directory is read again), and used after a fork.
    """

    def __init__(self, parameters: Mapping[str, Any], directory: str | os.PathLike[str] | None = None) -> None:
        self.parameters = dict(parameters)
        self.directory = directory
        made = ffi.new("mme_preprocessor **")
        text_of_them = json.dumps(self.parameters).encode()
        if directory is None:
            check(lib.mme_preprocessor_create(text_of_them, made))
        else:
            check(lib.mme_preprocessor_create_in(text_of_them, path_bytes(directory), made))
        self._handle = ffi.gc(made[0], lib.mme_preprocessor_destroy)
        info = struct("mme_input_info")
        check(lib.mme_preprocessor_get_info(self._handle, info))
        self.modality = text(info.modality)
        self.shape = shape_of(info)
        """Shape of the tensor; -1 marks a dimension that depends on the data."""
        self.dtype: np.dtype[Any] = DTYPES[info.data_type]
        """Type of the tensor: float32, float16, uint8 or int8; int32 of text."""
        self._tensor = struct("mme_tensor")

    def __reduce__(self) -> tuple[Any, ...]:
        return Preprocessor, (self.parameters, self.directory)

    def __call__(self, data: Any, *, copy: bool = True) -> npt.NDArray[Any]:
        """The tensor of a frame (an `Image`, or whatever `Image` takes without a format: [channels, height, width]),
        of a clip (an `Audio`: [n_mels, frames], or [samples] of a waveform) or of a text (a `str`: [max_length] token
        ids), of `self.dtype`.

        Without `copy` it is a read-only view of the preprocessor's memory, valid until its next call.

        Raises:
            InvalidArgument: data of another modality, type or shape.
            DataError: the data itself is unusable, such as empty audio, a NaN sample or half a surrogate pair.
        """
        if isinstance(data, str):
            encoded = data.encode("utf-8", "surrogatepass")  # the library says what is wrong with it
            check(lib.mme_preprocessor_text(self._handle, encoded, len(encoded), self._tensor))
        elif isinstance(data, Audio):
            check(lib.mme_preprocessor_audio(self._handle, to_c_audio(data), self._tensor))
        else:
            frame = data if isinstance(data, Image) else Image(data)
            check(lib.mme_preprocessor_image(self._handle, frame.c_struct, self._tensor))
        return from_c_tensor(self._tensor, None if copy else self._handle)

    def push(self, audio: Audio) -> npt.NDArray[Any]:
        """Feed samples of a stream: float32 [n_mels, frames], the frames they completed, perhaps none; of a
        waveform [samples], as far as they are resampled.

        The frames of all pushes and of `end` together equal those of the whole clip, to the bit. All pushes of a
        stream have one dtype, channel count and sample rate; "samples" is not looked at.

        Raises:
            InvalidArgument: another kind of audio than before, or a step that needs the whole clip.
            DataError: a NaN sample; nothing of this push is used.
        """
        check(lib.mme_preprocessor_push_audio(self._handle, to_c_audio(audio, piece=True), self._tensor))
        return from_c_tensor(self._tensor)

    def end(self) -> npt.NDArray[Any]:
        """End the stream: float32 [n_mels, frames] or [samples], what needed its end. The next push begins a new one.

        Raises:
            DataError: the stream was too short for one frame.
        """
        check(lib.mme_preprocessor_end_audio(self._handle, self._tensor))
        return from_c_tensor(self._tensor)
