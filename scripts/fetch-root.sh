#!/bin/sh
# fetch-root.sh FOLDER ARCHITECTURE PACKAGE...: unpack Debian packages and all that they depend on into FOLDER, for a
# cross build or to run programs where nothing else is installed. The system itself is left as it is.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
. "$root/scripts/own-apt.sh"
. /etc/os-release
use_own_apt "$VERSION_CODENAME" "$2"
shift 2
own_apt install -y --no-install-recommends --download-only "$@"
for package in "$state"/archives/*.deb; do
  dpkg-deb -x "$package" "$folder"
done
# Absolute links would lead out of the folder.
find "$folder" -type l -lname '/*' | while read -r link; do
  ln -sfnr "$folder$(readlink "$link")" "$link"
done

if [ "$architecture" = arm64 ]; then
  # qemu shows programs the host's /proc/cpuinfo, in which ONNX Runtime finds no Arm core and crashes.
  mkdir "$folder/proc"
  for core in 0 1; do
    printf 'processor\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\n' "$core"
    printf 'CPU part\t: 0xd0b\nCPU revision\t: 1\n\n'
  done > "$folder/proc/cpuinfo"
fi
