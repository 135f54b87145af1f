#!/bin/sh
# Fill build/aarch64 with what a cross build needs and its tests: sysroot/, the libraries, and onnxruntime/, the engine.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
target=$root/build/aarch64
rm -rf "$target/new"  # what is there stays until all is fetched
mkdir -p "$target/new"
# The libraries that a native build takes from Debian, without what is for the machine that builds.
libraries=$(grep -- '-dev$' "$root/scripts/debian-packages.txt" | grep -v -e python -e clang)
sh "$root/scripts/fetch-root.sh" "$target/new/sysroot" arm64 libc6-dev $libraries
"$root/.venv/bin/python" -m pip install -q --disable-pip-version-check -c "$root/constraints.txt" --no-deps \
  --only-binary=:all: --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
  --target "$target/new/onnxruntime" onnxruntime
rm -rf "$target/sysroot" "$target/onnxruntime"
mv "$target/new/sysroot" "$target/new/onnxruntime" "$target"
rmdir "$target/new"
