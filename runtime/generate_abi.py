"""Write the cffi binding (out-of-line, ABI mode: no compiler needed) from the marked part of mmedge.h."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cffi import FFI


def main(header: Path, output: Path) -> None:
    text = header.read_text()
    found = re.search(r"/\* \[binding\].*?\*/(.*)/\* \[/binding\] \*/", text, re.DOTALL)
    if found is None:
        raise SystemExit(f"{header}: the [binding] marks are missing")
    ffi = FFI()
    ffi.cdef(found.group(1).replace("MME_API ", ""))
    ffi.set_source("mmedge.runtime._abi", None)
    ffi.emit_python_code(str(output))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
