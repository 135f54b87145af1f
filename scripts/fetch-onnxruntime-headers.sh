#!/bin/sh
# Put ONNX Runtime's C headers (API 23 or newer) into build/onnxruntime. Debian's stable releases are older, so the one
# package is taken from forky, or, where there is no Debian, the folder ONNXRUNTIME_INCLUDE_DIR.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
target=$root/build/onnxruntime
[ -f "$target/usr/include/onnxruntime/onnxruntime_c_api.h" ] && exit 0

if [ -n "${ONNXRUNTIME_INCLUDE_DIR:-}" ]; then
  mkdir -p "$target/usr/include"
  cp -r "$ONNXRUNTIME_INCLUDE_DIR" "$target/usr/include/onnxruntime"
  exit
fi
. "$root/scripts/own-apt.sh"
if ! use_own_apt forky "$(dpkg --print-architecture)"; then
  echo "Set ONNXRUNTIME_INCLUDE_DIR to the include folder of an ONNX Runtime release (1.23 or newer): for make in the" \
       "environment, for CMake with -D." >&2
  exit 1
fi
(cd "$state" && own_apt download libonnxruntime-dev)
mkdir -p "$target"
dpkg-deb -x "$state"/libonnxruntime-dev_*.deb "$target"
