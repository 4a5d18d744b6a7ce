#!/bin/busybox sh
# The agent runs it before it freezes and after it thaws. While /tmp/die is there the agent dies in the middle of a freeze.
[ "$1" = freeze ] && [ -e /tmp/die ] && kill -9 $PPID
exit 0
