#!/bin/sh
# Fill build/aarch64: sysroot/ with the libraries that an aarch64 build of mmedge needs and a Python to try it with, and
# onnxruntime/, the engine. Beside the cross compiler and qemu nothing is installed.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
target=$root/build/aarch64
rm -rf "$target/sysroot" "$target/onnxruntime"
mkdir -p "$target/sysroot"

. "$root/scripts/own-apt.sh"
. /etc/os-release
use_own_apt "$VERSION_CODENAME" arm64
# All that these depend on comes along, since nothing counts as installed.
own_apt install -y --no-install-recommends --download-only libc6-dev libgtest-dev libhwy-dev libkissfft-dev \
  libmbedtls-dev libsoxr-dev nlohmann-json3-dev python3-minimal libpython3-stdlib
for package in "$state"/archives/*.deb; do
  dpkg-deb -x "$package" "$target/sysroot"
done
# Absolute links would lead out of the sysroot.
find "$target/sysroot" -type l -lname '/*' | while read -r link; do
  ln -sfnr "$target/sysroot$(readlink "$link")" "$link"
done
# qemu shows programs the host's processor here, in which the engine finds no Arm core and crashes.
mkdir "$target/sysroot/proc"
for core in 0 1; do
  printf 'processor\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\n' "$core"
  printf 'CPU part\t: 0xd0b\nCPU revision\t: 1\n\n'
done > "$target/sysroot/proc/cpuinfo"

"$root/.venv/bin/python" -m pip install -q --disable-pip-version-check -c "$root/constraints.txt" --no-deps \
  --only-binary=:all: --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
  --target "$target/onnxruntime" onnxruntime
