# Runs in the guest that scripts/guest/reclaim.js boots, with little memory: a file system on a loop device over a live
# device is written to, while its pages are all that can be reclaimed. Prints TAP lines; shows every task when it hangs.
# From the environment: origin, store (in the state directory unless given), limit (of the store).
PATIENCE=720
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

echo 4 >/proc/sys/kernel/printk # who was killed, and what is blocked for long
mount -t ext4 /dev/vdb /state
mkdir -p /state/asof /m/asof /m/fs
[ -e "$origin" ] || dd if=/dev/zero "of=$origin" bs=1M count=0 seek=64 2>/dev/null
node /asof/bin/asof serve --state /state/asof --mount /m/asof --log-level warn >/tmp/ready &
daemon=$!
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
piece() { dd if=/usr/bin/node bs=1M skip=$(($1 * 4)) count=24 2>/dev/null; }
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

meminfo() { sed -n "s/^$1: *\([0-9]*\) kB/\1/p" /proc/meminfo; }
vmstat() { awk -v name="^$1" '$1 ~ name { sum += $2 } END { print sum + 0 }' /proc/vmstat; }
# It takes all that is free and all that is cached, again and again, and leaves it.
hog() {
  echo 1000 >/proc/self/oom_score_adj
  while [ ! -e /tmp/enough ]; do
    dd if=/dev/zero of=/dev/null bs=$(($(meminfo MemAvailable) * 95 / 100))k count=2 2>/dev/null
    echo >>/tmp/hogged
    sleep 2 # the work must come on as well
  done
}
# Nobody is slowed down before most of the memory is dirty: reclaim meets pages that only the daemon can write back.
echo 70 >/proc/sys/vm/dirty_background_ratio
echo 80 >/proc/sys/vm/dirty_ratio
stalls=$(vmstat allocstall_)
direct=$(vmstat pgsteal_direct)
written=$(vmstat 'nr_written$')
hog &
hog=$!
round=0
while [ $round -lt 6 ]; do
  round=$((round + 1))
  for file in a b; do
    piece $((round % 4)) | dd of=/m/fs/$file bs=1M conv=notrunc 2>/dev/null || echo "# round $round: cannot write"
  done
  echo "# round $round: $(grep -E '^(MemAvailable|Dirty|Writeback):' /proc/meminfo | tr -s ' \n' ' ')"
  [ $round = 3 ] && asof snapshot create disk >/dev/null
done
sync
result $? 'all is written and synced'
touch /tmp/enough
wait $hog
result $(($(wc -l </tmp/hogged) < 3)) "while $(wc -l </tmp/hogged) times all memory was wanted"
stalls=$(($(vmstat allocstall_) - stalls))
direct=$(($(vmstat pgsteal_direct) - direct))
[ $stalls -gt 0 ] && [ $direct -gt 0 ]
result $? "who wanted memory had to reclaim it: $stalls times, $direct pages"
echo "# $(($(vmstat 'nr_written$') - written)) pages written back; $(grep -E '^(nr_vmscan|nr_throttled|workingset_refault)' /proc/vmstat | tr '\n' ' ')"

# Then more than there is, while all is dirty again: the kernel kills, and not the daemon.
rm /tmp/enough
greedy() {
  echo 1000 >/proc/self/oom_score_adj
  while [ ! -e /tmp/enough ]; do
    dd if=/dev/zero of=/dev/null bs=$(($(meminfo MemTotal) * 95 / 100))k count=1 2>/dev/null
    sleep 1
  done
}
kills=$(vmstat 'oom_kill$')
greedy 2>/dev/null &
greedy=$!
for round in 1 2 3; do
  for file in a b; do piece 4 | dd of=/m/fs/$file bs=1M conv=notrunc,fsync 2>/dev/null; done
done
sync
result $? 'written and synced while memory is gone'
until [ "$(vmstat 'oom_kill$')" -gt "$kills" ]; do sleep 1; done
touch /tmp/enough
wait $greedy
kills=$(($(vmstat 'oom_kill$') - kills))
[ $kills -gt 0 ]
result $? "the kernel killed $kills times"

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
