"""The files that guard the ABI cover the whole header: a declaration they leave out would go unguarded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cffi import FFI

ROOT = Path(__file__).parents[2]
ABI = ROOT / "tests/runtime/abi"


def declarations() -> str:
    header = (ROOT / "runtime/include/mmedge.h").read_text()
    marked = re.search(r"/\* \[binding\].*?\*/(.*)/\* \[/binding\] \*/", header, re.DOTALL)
    assert marked is not None
    return marked.group(1).replace("MME_API ", "")


def functions(text: str) -> set[str]:
    return set(re.findall(r"\b(mme_\w+)\(", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)))


def test_every_struct_and_enumerator_of_the_header_is_in_the_layout():
    ffi = FFI()
    ffi.cdef(declarations())
    expected = []
    for name in ffi.list_types()[0]:
        kind = ffi.typeof(name)
        if kind.kind == "enum":
            expected.append(f"{name} size {ffi.sizeof(kind)}")
            expected += [f"{word} = {value}" for word, value in kind.relements.items()]
        elif kind.kind == "struct" and kind.fields is not None:
            expected.append(f"{name} size {ffi.sizeof(kind)}")
            expected += [f"{name}.{field} at {at.offset} size {ffi.sizeof(at.type)}" for field, at in kind.fields]
    assert sorted(expected) == sorted((ABI / "layout.txt").read_text().splitlines())


def test_every_function_of_the_header_is_among_the_symbols_and_the_signatures():
    declared = functions(declarations())
    assert declared == set((ROOT / "runtime/libmmedge.symbols").read_text().split())
    assert declared == functions((ABI / "signatures.c").read_text())


@pytest.mark.parametrize("header", sorted(ABI.glob("mmedge-*.h")), ids=lambda path: path.stem)
def test_what_an_older_version_declared_is_declared_still(header: Path):
    old = header.read_text()
    assert functions(old[old.index("[binding]") :]) <= functions(declarations())
