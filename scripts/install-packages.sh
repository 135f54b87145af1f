#!/bin/sh
# Install the Debian packages of a list, such as debian-packages.txt; does nothing where all are there.
set -eu
list=$1
missing=$(while read -r package; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
done < "$list")
[ -z "$missing" ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "Missing Debian packages; as root, run: apt-get install" $missing >&2
  exit 1
fi
echo "Installing" $missing
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
