#!/bin/sh
# The copy-on-write engine under a sanitizer: stress-cow.sh [thread|address,undefined] [seconds for each of three runs]
set -eu
cd "$(dirname "$0")/.."
sanitize=${1:-thread}
out=build/stress-cow-$(echo "$sanitize" | tr , -)
mkdir -p build
# The fences order memory against the kernel's copies of the data, which the thread sanitizer does not follow.
${CXX:-g++} -std=gnu++20 -O1 -g -fno-exceptions -fno-rtti -Wall -Wextra -Werror -Wno-tsan -fsanitize="$sanitize" \
  $(ls native/cow_*.cc | grep -v _object.cc) test/cow/stress.cc -o "$out" -lpthread
TSAN_OPTIONS="halt_on_error=1 ${TSAN_OPTIONS:-}" "$out" "${2:-5}"
