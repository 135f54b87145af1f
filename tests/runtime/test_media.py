"""Decoding files: orientation, damage, channels."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow

from mmedge.runtime import Image, Preprocessor
from mmedge.runtime.errors import DataError
from mmedge.runtime.media import decode_audio, decode_image, decode_text

# 64 x 32 with a bright corner at the bottom left, as stored.
STORED = np.full((32, 64, 3), 20, np.uint8)
STORED[16:, :16] = 230

# EXIF tag -> rotation in degrees clockwise and mirror that mean the same to the runtime.
ORIENTATIONS = {1: (0, False), 2: (0, True), 3: (180, False), 6: (90, False), 8: (270, False)}


def jpeg(orientation: int) -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Pillow.fromarray(STORED).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def test_a_picture_that_a_program_would_have_to_draw_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n"
    with pytest.raises(DataError, match=r"7\.png: not a readable image: unknown format"):
        decode_image(script, "7.png")
    assert not (tmp_path / "started").exists()


def test_a_picture_of_more_pixels_than_memory_is_for_is_refused_before_it_is_unpacked() -> None:
    file = io.BytesIO()
    Pillow.new("1", (10_000, 7_000)).save(file, "PNG")
    filters = list(warnings.filters)
    with pytest.raises(DataError, match=r"big: .* found 10000 x 7000 pixels; expected at most 67108864"):
        decode_image(file.getvalue(), "big")
    assert warnings.filters == filters  # which all threads share


def test_what_is_no_clip_is_refused_without_a_word_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"^x: not a readable audio file: Format not recognised\.$"):
        decode_audio(b"hello, not media", "x")
    file = io.BytesIO()
    soundfile.write(file, np.zeros(1000), 8000, format="AIFF")
    content = bytearray(file.getvalue())
    for at in range(4, 60):  # lengths among them, which lead before the start
        damaged = content.copy()
        damaged[at] = 0xFF
        with suppress(DataError):
            decode_audio(bytes(damaged), "x")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied_like_the_frame_rotation(orientation: int, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg(orientation))
    upright = decode_image(tmp_path / "photo.jpg")
    np.testing.assert_array_equal(decode_image(jpeg(orientation)), upright)
    if orientation == 6:
        assert upright.shape == (64, 32, 3)
        assert upright[:16, :16].mean() > 200  # what is stored at the bottom left is now at the top left

    preprocessor = Preprocessor(
        {
            "type": "image",
            "width": 24,
            "height": 20,
            "channels": "rgb",
            "fit": "stretch",
            "interpolation": "bilinear",
            "antialias": True,
            "mean": [0.0] * 3,
            "std": [1.0] * 3,
        }
    )
    stored = decode_image(jpeg(1))
    turned = Image(stored, "rgb", *ORIENTATIONS[orientation])
    # Turning swaps the passes of the resize, and with them their roundings.
    np.testing.assert_allclose(preprocessor(turned), preprocessor(upright), atol=0.05 / 255)


def test_a_broken_image_is_an_error_with_its_name(tmp_path: Path) -> None:
    whole = jpeg(1)
    for name, content in {
        "cut.jpg": whole[: len(whole) * 6 // 10],
        "empty.png": b"",
        "text.png": b"not an image at all",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            decode_image(tmp_path / name)
        with pytest.raises(DataError, match=name):
            decode_image(content, name)
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        decode_image(tmp_path / "gone.png")


def test_grey_stays_grey_and_16_bits_are_refused(tmp_path: Path) -> None:
    Pillow.fromarray(STORED[..., 0]).save(tmp_path / "grey.png")
    assert decode_image(tmp_path / "grey.png").shape == (32, 64)
    Pillow.fromarray(STORED[..., 0].astype(np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="8 bits"):
        decode_image(tmp_path / "deep.png")


def test_text_is_utf_8() -> None:
    assert decode_text("O\u00f9 ?".encode()) == "O\u00f9 ?"
    assert decode_text(b"") == ""
    with pytest.raises(DataError, match="question: not UTF-8: byte 1 is wrong"):
        decode_text(b"a\xff", "question")


def test_channels_of_a_clip_are_averaged(tmp_path: Path) -> None:
    tone = np.sin(np.arange(48000) / 20).astype(np.float32) / 2
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone, tone], axis=1), 48000, "FLOAT")
    soundfile.write(tmp_path / "opposite.wav", np.stack([tone, -tone], axis=1), 48000, "FLOAT")
    clip = decode_audio(tmp_path / "stereo.wav")
    assert clip.sample_rate == 48000
    np.testing.assert_array_equal(clip.samples, tone)
    np.testing.assert_array_equal(decode_audio((tmp_path / "stereo.wav").read_bytes()).samples, tone)
    assert not decode_audio(tmp_path / "opposite.wav").samples.any()


def test_a_format_that_cannot_be_sought_through_is_read_whole(tmp_path: Path) -> None:
    tone = np.sin(np.arange(3200) / 3) / 2
    soundfile.write(tmp_path / "telephone.wav", tone, 8000, "GSM610")
    for source in (tmp_path / "telephone.wav", (tmp_path / "telephone.wav").read_bytes()):
        clip = decode_audio(source)
        assert (clip.sample_rate, len(clip.samples)) == (8000, 3200)
        assert np.corrcoef(clip.samples[320:], tone[320:])[0, 1] > 0.95


def test_a_small_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 8000, 1) as clip:
        for _ in range(65):
            clip.write(np.zeros(1 << 20, np.int16))
    with pytest.raises(DataError, match=r"long\.flac: found 68157440 samples"):
        decode_audio(tmp_path / "long.flac")


def encoded(kind: str, subtype: str, rate: int = 16000, **options: Any) -> bytes:
    """A second of a tone and of noise."""
    tone = np.sin(np.arange(rate) / 3) / 3 + np.random.default_rng(0).normal(0, 0.1, rate)
    file = io.BytesIO()
    soundfile.write(file, tone, rate, subtype, format=kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM", "GSM610")),
        *((kind, "PCM_16") for kind in ("WAVEX", "FLAC", "AIFF", "AU", "W64", "RF64", "CAF", "SVX")),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_a_clip_that_is_cut_is_not_taken_for_a_shorter_one(kind: str, subtype: str, tmp_path: Path) -> None:
    whole = encoded(kind, subtype)
    assert len(decode_audio(whole).samples) >= 16000
    (tmp_path / "cut").write_bytes(whole[: len(whole) * 6 // 10])
    for source in (tmp_path / "cut", whole[: len(whole) * 6 // 10], whole[: len(whole) * 99 // 100]):
        with pytest.raises(DataError, match=r"cut(: not a readable audio file|: cut short: found \d+ )"):
            decode_audio(source, "cut")


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_clip_from_a_pipe_whose_header_could_not_know_its_size_is_whole(size: int) -> None:
    whole = encoded("WAV", "PCM_16")
    at = whole.index(b"data") + 4
    piped = whole[:at] + size.to_bytes(4, "little") + whole[at + 4 :]
    np.testing.assert_array_equal(decode_audio(piped).samples, decode_audio(whole).samples)


def test_a_flac_from_a_pipe_whose_header_could_not_know_its_length_is_whole() -> None:
    whole = encoded("FLAC", "PCM_16")
    counts = int.from_bytes(whole[18:26], "big")  # rate, channels, bits, and in 36 bits the samples
    piped = whole[:18] + (counts >> 36 << 36).to_bytes(8, "big") + whole[26:]
    found = decode_audio(whole)
    np.testing.assert_array_equal(decode_audio(piped).samples, found.samples)
    seconds = len(found.samples) / found.sample_rate
    assert len(decode_audio(piped, most_seconds=seconds).samples) == len(found.samples)
    with pytest.raises(DataError, match=f"expected at most 67108864 and {seconds / 2:g} s"):
        decode_audio(piped, most_seconds=seconds / 2)


def test_an_mp3_that_does_not_count_its_frames_is_taken_behind_its_tags() -> None:
    whole = encoded("MP3", "MPEG_LAYER_III", 44100, bitrate_mode="CONSTANT", compression_level=0.0)
    bare = whole[whole.index(whole[:4], 4) :]  # without the first frame, which counts the others
    tags = b"ID3\x04\0\0\0\0\x0f\x76" + bytes(0xF << 7 | 0x76)
    assert len(decode_audio(tags + bare).samples) >= 44100
    assert len(decode_audio(tags + whole).samples) == 44100
    with pytest.raises(DataError, match=r"cut short: found \d+ samples; its header says 44100"):
        decode_audio((tags + whole)[:-2000])


def test_a_broken_clip_is_an_error_with_its_name(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), 8000)
    (tmp_path / "text.wav").write_bytes(b"not audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "no header.raw").write_bytes(bytes(3200))
    for name in ("none.wav", "text.wav", "empty.wav", "gone.wav", "no header.raw"):
        with pytest.raises(DataError, match=name):
            decode_audio(tmp_path / name)
