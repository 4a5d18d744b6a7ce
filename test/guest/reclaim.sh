# Runs in the guest that scripts/guest/reclaim.js boots, with little memory: a file system on a loop device over a live
# device is written to, while its pages are all that can be reclaimed. Prints TAP lines; shows every task when it hangs.
# From the environment: origin, store (in the state directory unless given), limit (of the store), swap (whether the guest
# swaps to that file system; the daemon itself is never swapped out then).
PATIENCE=1200
# The programs of e2fsprogs by their paths: busybox has its own mke2fs.
asof() { node /asof/bin/asof "$@" --state /state/asof; }
n=0
result() { # STATUS TEXT
  n=$((n + 1))
  if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; fi
}

(
  sleep $PATIENCE
  echo "not ok - it hangs for $PATIENCE seconds"
  echo 8 >/proc/sys/kernel/printk
  echo w >/proc/sysrq-trigger
  echo m >/proc/sysrq-trigger
  echo t >/proc/sysrq-trigger
  poweroff -f
) &
watchdog=$!

echo 7 >/proc/sys/kernel/printk # tasks that are blocked for long are shown
mount -t ext4 /dev/vdb /state
mkdir -p /state/asof /m/asof /m/fs
[ -e "$origin" ] || dd if=/dev/zero "of=$origin" bs=1M count=0 seek=112 2>/dev/null
if [ -n "$swap" ]; then
  mount -t cgroup2 cgroup /sys/fs/cgroup
  echo +memory >/sys/fs/cgroup/cgroup.subtree_control
  mkdir /sys/fs/cgroup/asof
  echo 0 >/sys/fs/cgroup/asof/memory.swap.max
  result $? 'the daemon is not swapped out'
  echo $$ >/sys/fs/cgroup/asof/cgroup.procs
fi
node /asof/bin/asof serve --state /state/asof --mount /m/asof --log-level warn >/tmp/ready &
daemon=$!
[ -z "$swap" ] || echo $$ >/sys/fs/cgroup/cgroup.procs
echo -900 >/proc/$daemon/oom_score_adj # as systemd/asof.service has it
until grep -q ready /tmp/ready; do
  [ -d /proc/$daemon ] || break
  sleep 0.2
done
live=/m/asof/volumes/disk/live
asof volume add disk "$origin" ${store:+--store $store} ${limit:+--store-limit $limit} >/dev/null
result $? "a volume on $origin, its store ${store:-beside the state}"
loop=$(losetup -f)
losetup "$loop" $live && /bin/mke2fs -q -F -t ext4 -b 4096 -m 0 "$loop" && mount -t ext4 "$loop" /m/fs
result $? 'an ext4 on a loop device over it'

# Files of half of what the file system holds, each time with other bytes: pieces of the largest program that is here.
piece() { dd if=/usr/bin/node bs=1M skip=$(($1 * 4)) count=40 2>/dev/null; }
piece 0 >/m/fs/a
piece 1 >/m/fs/b
sync
asof snapshot create disk --json >/tmp/snapshot
result $? 'a snapshot'
moment=$(sed -n 's/.*"moment": *"\([^"]*\)".*/\1/p' /tmp/snapshot | head -n 1)
disk=/m/asof/volumes/disk/$moment/disk
was=$(md5sum <"$disk")
[ -n "$was" ]
result $? 'which reads'

if [ -n "$swap" ]; then
  dd if=/dev/zero of=/m/fs/swap bs=1M count=8 2>/dev/null
  chmod 600 /m/fs/swap
  mkswap /m/fs/swap >/dev/null && swapon /m/fs/swap
  result $? 'swap on it'
fi

# It takes all that is free and all that is cached, again and again, and leaves it.
hog() {
  echo 1000 >/proc/self/oom_score_adj
  while [ ! -e /tmp/enough ]; do
    free=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)
    dd if=/dev/zero of=/dev/null bs=$((free * 95 / 100))k count=2 2>/dev/null
    echo >>/tmp/hogged
    sleep 2 # the work must come on as well
  done
}
hog &
hog=$!
round=0
while [ $round -lt 4 ]; do
  round=$((round + 1))
  for file in a b; do
    piece $((round + (round % 2))) | dd of=/m/fs/$file bs=1M conv=notrunc 2>/dev/null || echo "# round $round: cannot write"
  done
  [ $round = 2 ] && asof snapshot create disk >/dev/null
  echo "# round $round: $(grep -E '^(MemAvailable|Dirty|Writeback):' /proc/meminfo | tr -s ' \n' ' ')"
done
sync
result $? 'more than the memory is written and synced'
touch /tmp/enough
wait $hog
result $(($(wc -l </tmp/hogged) < 3)) "while $(wc -l </tmp/hogged) times all memory was wanted"

if [ -n "$swap" ]; then
  grep pswpout /proc/vmstat | sed 's/^/# /'
  ! grep -q '^pswpout 0$' /proc/vmstat
  result $? 'it was used'
  swapoff /m/fs/swap && rm /m/fs/swap
  result $? 'and is not needed any more'
fi
piece 4 | cmp - /m/fs/a && piece 4 | cmp - /m/fs/b
result $? 'the files are what was written'
[ -d /proc/$daemon ]
result $? 'the daemon lives'
umount /m/fs && losetup -d "$loop" && /bin/e2fsck -fn $live >/tmp/fsck 2>&1
result $? 'the file system is whole'
asof snapshot list
if [ "$store" = memory ]; then
  ! md5sum <"$disk" >/dev/null 2>&1
  result $? 'the snapshot that its store could not hold is an error'
else
  echo 3 >/proc/sys/vm/drop_caches
  [ "$(md5sum <"$disk")" = "$was" ]
  result $? 'the snapshot is what it was'
fi
kill $daemon
wait $daemon
result $? 'a clean stop'
kill $watchdog
echo "1..$n"
