#!/bin/sh
# Put ONNX Runtime's C headers (API 23 or newer) into build/onnxruntime. Debian's stable releases are older, so the one
# package is taken from forky, with an apt state of its own: nothing is installed and the system's lists stay as they are.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
target=$root/build/onnxruntime
[ -f "$target/usr/include/onnxruntime/onnxruntime_c_api.h" ] && exit 0

mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -E '/debian/?$' | head -n 1)
if [ -z "$mirror" ]; then
  echo "No Debian mirror among apt's sources. Set ONNXRUNTIME_INCLUDE_DIR to the include folder of an" \
       "ONNX Runtime release (1.23 or newer) when you configure CMake." >&2
  exit 1
fi
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
chmod 755 "$state"
mkdir -p "$state/lists/partial" "$state/archives/partial"
: > "$state/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror forky main" > "$state/sources.list"
# A mirror may lag behind: its files are signed all the same.
own_apt() {
  apt-get -qq -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root \
    -o Dir::State="$state" -o Dir::State::lists="$state/lists" -o Dir::State::status="$state/status" \
    -o Dir::Cache="$state" -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=- "$@"
}
own_apt update
(cd "$state" && own_apt download libonnxruntime-dev)
mkdir -p "$target"
dpkg-deb -x "$state"/libonnxruntime-dev_*.deb "$target"
