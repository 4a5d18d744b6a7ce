#!/bin/sh
# The overlay under a sanitizer: stress-overlay.sh [thread|address,undefined] [seconds for each of three runs]
set -eu
cd "$(dirname "$0")/.."
sanitize=${1:-thread}
out=build/stress-overlay-$(echo "$sanitize" | tr , -)
mkdir -p build
sources="native/overlay_disk.cc native/overlay_layer.cc native/overlay_map.cc native/cow_file.cc native/cow_model.cc native/cow_checksum.cc"
# shellcheck disable=SC2086
${CXX:-g++} -std=gnu++20 -O1 -g -fno-exceptions -fno-rtti -Wall -Wextra -Werror -fsanitize="$sanitize" \
  $sources test/overlay/stress.cc -o "$out" -lpthread
TSAN_OPTIONS="halt_on_error=1 ${TSAN_OPTIONS:-}" "$out" "${2:-5}"
