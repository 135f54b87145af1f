#!/bin/sh
# Fuzz every target for SECONDS, two at a time; what crashed lies in CORPUS-crashes afterwards, and a log for each target.
#   run.sh TARGETS CORPUS SECONDS
set -eu
export CORPUS=$2 SECONDS_EACH=$3 CRASHES=$2-crashes
export UBSAN_OPTIONS=print_stacktrace=1
mkdir -p "$CRASHES"
one='target=$1; name=${target##*fuzz_}
echo "fuzzing $name for $SECONDS_EACH s"
if "$target" -max_total_time="$SECONDS_EACH" -timeout=20 -rss_limit_mb=4096 -max_len=16384 -print_final_stats=1 \
     -artifact_prefix="$CRASHES/$name-" "$CORPUS/$name" > "$CRASHES/$name.log" 2>&1; then
  echo "$name: $(grep -o "number_of_executed_units: [0-9]*" "$CRASHES/$name.log" | grep -o "[0-9]*$") inputs, no fault"
else
  tail -n 60 "$CRASHES/$name.log"
  echo "$name: FAILED; the input is in $CRASHES"
  exit 1
fi'
find "$1" -maxdepth 1 -type f -name 'fuzz_*' | sort | xargs -n 1 -P 2 sh -c "$one" sh
