"""Forms with files (multipart/form-data, RFC 7578): a pure function from a body to its parts."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from mmedge.runtime.errors import InvalidArgument


@dataclass(frozen=True)
class Part:
    """One file of a form; `file_name` is the field's name where the client gave none."""

    file_name: str
    content: bytes


def read_parts(content_type: str, body: bytes, names: Collection[str]) -> dict[str, Part]:
    """The files of a form by field name.

    Raises:
        InvalidArgument: no boundary, a malformed or cut body, no part, a field that is not in `names` or is
            given twice.
    """
    parts: dict[str, Part] = {}
    ends: list[bool] = []

    def take(field: Field | File) -> None:
        name = _text(field.field_name)
        if name not in names:
            raise InvalidArgument(f"the form has a field {name[:80]!r}; expected {' or '.join(names)}")
        if name in parts:
            raise InvalidArgument(f"the form has field {name!r} twice; give it once")
        if isinstance(field, File):
            field.file_object.seek(0)
            parts[name] = Part(_text(field.file_name)[:200] or name, field.file_object.read())
        else:
            parts[name] = Part(name, field.value or b"")

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidArgument('found no boundary; expected "Content-Type: multipart/form-data; boundary=..."')
    try:
        parser = FormParser(
            "multipart/form-data",
            take,
            take,
            on_end=lambda: ends.append(True),
            boundary=boundary,
            config={"MAX_MEMORY_FILE_SIZE": math.inf},
        )
        parser.write(body)
    except FormParserError as error:
        raise InvalidArgument(f"the form is malformed: {error}") from None
    if not ends:
        raise InvalidArgument("the form is cut short: its closing boundary is missing")
    if not parts:
        raise InvalidArgument(f"the form has no parts; expected a file for {' or '.join(names)}")
    return parts


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
