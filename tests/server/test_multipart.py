from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge.runtime.errors import InvalidArgument
from mmedge.server.multipart import Part, read_parts

NAMES = ("image", "audio")


def form(files: list[tuple[str, tuple[str | None, bytes]]]) -> tuple[str, bytes]:
    """Content type and body, as an HTTP client writes them."""
    request = httpx.Request("POST", "http://host/", files=files)
    return request.headers["content-type"], request.read()


@given(st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=200), min_size=1))
def test_files_arrive_bit_for_bit(files: dict[str, bytes]) -> None:
    content_type, body = form([(name, (f"{name}.bin", content)) for name, content in files.items()])
    assert read_parts(content_type, body, NAMES) == {
        name: Part(f"{name}.bin", content) for name, content in files.items()
    }


@given(st.binary(max_size=300))
def test_any_body_is_a_form_or_an_invalid_argument(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match="form"):
        read_parts("multipart/form-data; boundary=x", body, NAMES)


@given(st.data())
def test_a_form_cut_anywhere_is_refused(data: st.DataObject) -> None:
    content_type, body = form([("image", ("7.png", b"\r\n--pixels")), ("audio", ("seven.wav", b"samples"))])
    closing = len(b"--\r\n")
    length = data.draw(st.integers(0, len(body) - closing))
    with pytest.raises(InvalidArgument, match=r"cut short|malformed"):
        read_parts(content_type, body[:length], NAMES)


def test_a_large_file_stays_in_memory_and_a_field_without_a_file_name_is_a_file() -> None:
    content = bytes(range(256)) * 10_000
    content_type, body = form([("image", ("7.png", content)), ("audio", (None, b"samples"))])
    assert read_parts(content_type, body, NAMES) == {
        "image": Part("7.png", content),
        "audio": Part("audio", b"samples"),
    }


PNG = b'Content-Disposition: form-data; name="image"; filename="7.png"\r\n\r\npixels\r\n'


@pytest.mark.parametrize(
    ("content_type", "body", "reason"),
    [
        ("multipart/form-data", b"", "no boundary"),
        ("multipart/form-data; boundary=", b"--\r\n", "no boundary"),
        ("multipart/form-data; boundary=" + "x" * 5000, b"", "malformed|cut short"),
        ("multipart/form-data; boundary=x", b"", "cut short"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", "cut short|no parts|malformed"),
        ("multipart/form-data; boundary=x", b"--y\r\n" + PNG + b"--y--\r\n", "malformed|cut short"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\npixels\r\n--x--\r\n", "malformed|field ''"),
        ("multipart/form-data; boundary=x", b"--x\r\nname\r\n\r\npixels\r\n--x--\r\n", "malformed"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + PNG + b"--x\r\n" + PNG + b"--x--\r\n", "twice"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\n" + PNG.replace(b"image", b"video") + b"--x--\r\n",
            "field 'video'; expected image or audio",
        ),
    ],
)
def test_a_bad_form_is_refused_with_its_reason(content_type: str, body: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        read_parts(content_type, body, NAMES)
