"""Decode image, audio and text files, once for every place that takes them: command line, server and data sets."""

from __future__ import annotations

import io
import os
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from mmedge.runtime.errors import DataError
from mmedge.runtime.inputs import Audio

# A small compressed file may unpack to anything.
_MOST_PIXELS = _MOST_SAMPLES = 1 << 26
_MOST_SECONDS = 3600.0

# libsndfile's log where a header (of WAV, AIFF, AU, 8SVX, W64, RF64) has more bytes of samples, or in all, than came.
_BYTES_MISSING = re.compile(
    r"^ *(?:data|SSND|BODY|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE
)
# What writes into a pipe cannot know the size, and puts about the largest there is, or in FLAC 0, which is libsndfile's
# largest.
_LEAST_UNKNOWN_SIZE, _UNKNOWN_FRAMES = 0x7FFF0000, (1 << 63) - 1

# Pillow has more, some of which start programs.
_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

Source = str | os.PathLike[str] | bytes


class _Bytes(io.BytesIO):
    """Bytes for libsndfile, which a damaged file may send before its start: no exception can pass through it."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = (0, self.tell(), self.getbuffer().nbytes)[whence]
        return super().seek(max(start + offset, 0))


def _open(source: Source, name: str) -> tuple[Any, str]:
    if isinstance(source, bytes):
        if not source:
            raise DataError(f"{name}: the file is empty")
        return _Bytes(source), name
    return os.fspath(source), name or os.fspath(source)


def decode_image(source: Source, name: str = "image") -> npt.NDArray[np.uint8]:
    """Decode an image upright: uint8 [height, width] if the file is grey, else RGB [height, width, 3].

    BMP, GIF (its first picture), JPEG, JPEG 2000, PNG, PNM, TIFF and WebP are known. The EXIF orientation is applied.
    `source` is a path or the file's bytes; `name` stands for bytes in errors.

    Raises:
        DataError: the file is missing, empty, cut short, too large (67 million pixels) or not an image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    file, shown = _open(source, name if isinstance(source, bytes) else "")
    try:
        with Image.open(file, formats=_IMAGE_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"found {image.width} x {image.height} pixels; expected at most {_MOST_PIXELS}")
            image.load()
            upright = ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise DataError(f"{shown}: no such file") from error
    except Exception as error:  # a damaged file can fail anywhere inside its decoder
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{shown}: not a readable image: {reason}") from error
    if upright.mode.startswith(("I", "F")):
        raise DataError(f"{shown}: found pixels of mode {upright.mode}; expected 8 bits a channel")
    grey = upright.mode in ("1", "L", "LA")
    return np.asarray(upright.convert("L" if grey else "RGB"))


def decode_audio(source: Source, name: str = "audio", *, most_seconds: float = _MOST_SECONDS) -> Audio:
    """Decode an audio file to float32 mono at its own rate; channels are averaged.

    `source` is a path or the file's bytes; `name` stands for bytes in errors. Where the header says how much there
    should be, less is an error; an Ogg stream has no such header, and is taken as far as it goes.

    Raises:
        DataError: the file is missing, empty, cut short, too long (`most_seconds`, an hour, or 67 million samples) or
            not audio.
    """
    import soundfile

    file, shown = _open(source, name if isinstance(source, bytes) else "")
    if isinstance(file, str) and not os.path.isfile(file):
        raise DataError(f"{shown}: no such file")
    try:
        with soundfile.SoundFile(file) as clip:
            sample_rate, unknown = clip.samplerate, clip.frames == _UNKNOWN_FRAMES
            most = min(_MOST_SAMPLES // clip.channels, int(most_seconds * sample_rate))
            if unknown:
                clip.seekable = lambda: False
            elif clip.frames > most:
                raise _too_long(shown, clip.frames, sample_rate, most_seconds)
            # The number is said because GSM and others cannot be sought through to find it out.
            samples = clip.read(most + 1 if unknown else clip.frames, dtype="float32", always_2d=True)
            if samples.shape[0] > most:
                raise _too_long(shown, samples.shape[0], sample_rate, most_seconds)
            expected = samples.shape[0] if unknown else clip.frames
            kind, log = clip.format, clip.extra_info
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError) as error:
        reason = getattr(error, "error_string", error)  # libsndfile's own, without the address of the bytes
        raise DataError(f"{shown}: not a readable audio file: {reason}") from error
    if samples.shape[0] == 0:
        raise DataError(f"{shown}: the clip holds no samples")
    if samples.shape[0] < expected and (kind != "MP3" or _counts_frames(file)):
        raise DataError(f"{shown}: cut short: found {samples.shape[0]} samples; its header says {expected}")
    for said, found in _BYTES_MISSING.findall(log):
        if int(found) < int(said) < _LEAST_UNKNOWN_SIZE:
            raise DataError(f"{shown}: cut short: found {found} bytes; its header says {said}")
    return Audio(np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32)), int(sample_rate))


def _too_long(shown: str, samples: int, sample_rate: int, most_seconds: float) -> DataError:
    return DataError(
        f"{shown}: found {samples} samples, {samples / sample_rate:.0f} s; expected at most {_MOST_SAMPLES} and "
        f"{most_seconds:g} s"
    )


def _counts_frames(file: Any) -> bool:
    """Whether an MP3 begins with a frame that counts the others; without, libsndfile guesses by the file's size."""
    with open(file, "rb") if isinstance(file, str) else io.BytesIO(file.getbuffer()) as content:
        head = content.read(10)
        if head[:3] == b"ID3":  # tags before the sound; their size is in 7 bits of each byte
            content.seek(10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]))
        else:
            content.seek(0)
        first = content.read(64)
    return b"Xing" in first or b"Info" in first


def decode_text(source: bytes, name: str = "text") -> str:
    """Decode UTF-8; `name` stands for the bytes in errors.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return source.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8: byte {error.start} is wrong") from error
