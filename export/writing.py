"""Writing a bundle: whole and beside its place first, so that nothing half-written is ever found there."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mmedge.runtime.errors import BundleError, InvalidArgument
from mmedge.runtime.manifest import File, Manifest


def write_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write `files`, then a manifest that holds their hashes, then the manifest's own digest, into `folder`."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    hashes = {
        name: File(size=len(content), sha256=hashlib.sha256(content).hexdigest()) for name, content in files.items()
    }
    manifest = manifest.model_copy(update={"files": hashes})
    text = (manifest.model_dump_json(indent=2) + "\n").encode()
    (folder / "manifest.json").write_bytes(text)
    (folder / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")
    return manifest


def check_writable(folder: Path) -> None:
    """Raise InvalidArgument where no file can be made in `folder`, before the work that would be lost."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".mmedge-", dir=folder))  # what os.access says does not hold everywhere
    except OSError as error:
        raise InvalidArgument(f"{folder} cannot be written to ({error.strerror}); give another place") from error


def check_destination(destination: Path, overwrite: bool) -> None:
    """Raise where no bundle can be written: a name without .mme, a folder that is not there or not to be written to, a
    bundle in the way.
    """
    if destination.suffix != ".mme":
        raise InvalidArgument(f"{destination}: expected a name that ends in .mme")
    if not destination.parent.is_dir():
        raise InvalidArgument(f"{destination.parent}: no such directory; create it first")
    _check_in_the_way(destination, overwrite)
    check_writable(destination.parent)


def _check_in_the_way(destination: Path, overwrite: bool) -> None:
    if destination.exists() and not overwrite:
        raise BundleError(f"{destination} exists, and a bundle is never changed; choose another name or --overwrite")
    if destination.exists() and not (destination / "manifest.json").is_file():
        raise BundleError(f"{destination} exists and is no bundle; it will not be overwritten")


@contextmanager
def staged(destination: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `destination` that takes its place if the body succeeds, and is removed if it does not: then what
    was there is there again.

    Raises:
        BundleError: something that may not be replaced was put there meanwhile; the folder is kept, and named.
    """
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    folder, old = staging / "new", staging / "old"
    folder.mkdir()
    kept = False
    try:
        yield folder
        try:
            _check_in_the_way(destination, overwrite)
        except BundleError as error:
            kept = True
            raise BundleError(
                f"{error}. It was put there meanwhile; what was made is kept in {folder}: move it to a name that ends "
                "in .mme, or remove it"
            ) from error
        if destination.exists():
            os.rename(destination, old)
        os.rename(folder, destination)
    except BaseException:
        if old.exists() and not destination.exists():
            os.rename(old, destination)
        raise
    finally:
        if not kept:
            shutil.rmtree(staging, ignore_errors=True)
