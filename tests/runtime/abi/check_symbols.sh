#!/bin/sh
# The library must export the symbols that runtime/libmmedge.symbols lists, no more and no fewer.
#   check_symbols.sh NM LIBRARY SYMBOLS
set -eu
found=$(mktemp)
trap 'rm -f "$found"' EXIT
"$1" --dynamic --defined-only --format=posix "$2" | cut -d ' ' -f 1 | LC_ALL=C sort > "$found"
if ! diff "$3" "$found"; then
  echo "$2 does not export what $3 lists (<: missing from the library, >: not listed)." >&2
  echo "A symbol once released stays; add a new one to the list, and raise MME_API_VERSION_MINOR." >&2
  exit 1
fi
