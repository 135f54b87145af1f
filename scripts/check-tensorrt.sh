#!/bin/sh
# What is written for TensorRT, against one version's headers: each FILE compiled, every warning an error, and
# analysed, and the plugins' tests built and run, with the kernel emulated. Needs no TensorRT library and no GPU.
#   sh scripts/check-tensorrt.sh HEADERS FILE...
set -eu

headers=${1:-}
if [ -z "$headers" ]; then
  echo "No headers were given: set TENSORRT_HEADERS to TensorRT's folder, or to its include folder." \
       "Those of any version are a tag of https://github.com/NVIDIA/TensorRT." >&2
  exit 2
fi
shift
[ -f "$headers/NvInferRuntime.h" ] || headers=$headers/include
if [ ! -f "$headers/NvInferRuntime.h" ]; then
  echo "NvInferRuntime.h is in neither ${headers%/include} nor $headers: expected the folder of TensorRT 10 or 11." >&2
  exit 2
fi
headers=$(cd "$headers" && pwd)
cd "$(dirname "$0")/.."
cuda=$(ls -d "$PWD"/.venv/lib/python*/site-packages/nvidia/cu13/include 2> /dev/null || echo /usr/local/cuda/include)

version=$(printf '#include <NvInferVersion.h>\nVERSION NV_TENSORRT_MAJOR.NV_TENSORRT_MINOR.NV_TENSORRT_PATCH\n' |
          g++ -E -P -I "$headers" -x c++ - | sed -n 's/^VERSION //p' | tr -d ' ')
echo "TensorRT $version, $headers"
for file in "$@"; do
  g++ -std=c++20 -O2 -Wall -Wextra -Wshadow -Wconversion -Werror -Iruntime/include -Iruntime/src \
      -isystem "$headers" -isystem "$cuda" -c "$file" -o /dev/null
  .venv/bin/clang-tidy -quiet "$file" -- -std=c++20 -Iruntime/include -Iruntime/src \
      -isystem "$headers" -isystem "$cuda"
  echo "ok $file"
done

cmake -S . -B build/tensorrt -G Ninja -DMMEDGE_TESTS=ON -DTENSORRT_INCLUDE_DIRS="$headers" \
      -DCUDA_INCLUDE_DIR="$cuda" > build/configure.log
cmake --build build/tensorrt --target test_tensorrt_plugin mmedge_tensorrt_plugin_emulated > build/tensorrt.log ||
  { cat build/tensorrt.log; exit 1; }
build/tensorrt/tests/runtime/cuda/test_tensorrt_plugin --gtest_brief=1
.venv/bin/pytest -q tests/export/test_plugins.py
