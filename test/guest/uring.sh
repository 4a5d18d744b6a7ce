#!/bin/busybox sh
# Runs in the guest that scripts/guest/uring.js boots: FUSE over io_uring, switched on on the kernel's command line.
# /images holds NAME images and NAME.sha256 (of the content, from qemu-img on the host). Prints TAP lines.
asof() { node /asof/bin/asof "$@"; }
n=0
result() { # STATUS TEXT
  n=$((n + 1))
  if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; fi
}

[ "$(cat /sys/module/fuse/parameters/enable_uring)" = Y ]
result $? 'the kernel has FUSE over io_uring switched on'

for image in /images/*.raw /images/*.qcow2; do
  name=$(basename "$image")
  want=$(cat "$image.sha256")
  mkdir -p "/m/$name"
  if asof mount "$image" "/m/$name" --json --log-level info >/tmp/mounted 2>&1; then
    result 0 "$name: mounted"
  else
    cat /tmp/mounted
    result 1 "$name: mounted"
    continue
  fi
  grep -q '"uring": *true' /tmp/mounted
  result $? "$name: requests come through io_uring"
  if [ "$want" = damaged ]; then
    # A range that is gone is an error and stays one; the first cluster reads on.
    dd "if=/m/$name/disk" of=/dev/null bs=64k count=1 2>/dev/null
    result $? "$name: what is there reads"
    ! cat "/m/$name/disk" >/dev/null 2>&1
    result $? "$name: what is gone is an error"
  else
    [ "$(sha256sum <"/m/$name/disk")" = "$want  -" ]
    result $? "$name: buffered bytes"
    echo 3 >/proc/sys/vm/drop_caches
    [ "$(dd "if=/m/$name/disk" bs=1M iflag=direct 2>/dev/null | sha256sum)" = "$want  -" ]
    result $? "$name: direct bytes"
    echo 3 >/proc/sys/vm/drop_caches
    for i in 1 2 3 4; do sha256sum <"/m/$name/disk" >"/tmp/sum.$i" & done
    wait
    [ "$(cat /tmp/sum.1 /tmp/sum.2 /tmp/sum.3 /tmp/sum.4 | sort -u)" = "$want  -" ]
    result $? "$name: four readers at once"
  fi
  asof umount "/m/$name" >/dev/null
  result $? "$name: unmounted"
  ! grep -q fuse.asof /proc/mounts
  result $? "$name: nothing is left mounted"
done

# A server that is killed leaves a mount that the next one replaces.
image=$(ls /images/*.qcow2 | head -n 1)
mkdir -p /m/killed
asof mount "$image" /m/killed --json >/tmp/killed
kill -9 "$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' /tmp/killed)"
sleep 1
asof mount "$image" /m/killed >/dev/null && dd if=/m/killed/disk of=/dev/null bs=64k count=1 2>/dev/null
result $? 'mounted again where the server was killed'
asof umount /m/killed >/dev/null
result $? 'and unmounted'

# A volume is written over rings, while snapshots of it come.
mkdir -p /m/volume /tmp/volume
mkfifo /tmp/orders
node /asof/dist/test/guest/live.js /m/volume /tmp/volume </tmp/orders >/tmp/said 2>&1 &
exec 3>/tmp/orders
said() { # TEXT: waits until the server has said so, or a minute
  i=0
  until grep -q "$1" /tmp/said; do
    i=$((i + 1))
    [ $i -lt 600 ] || { cat /tmp/said; return 1; }
    sleep 0.1
  done
}
said '"uring": *true'
result $? 'a volume: requests come through io_uring'
origin=$(ls /tmp/volume/*)
dd if=/dev/urandom of=/tmp/bytes bs=1M count=16 2>/dev/null
dd if=/tmp/bytes of=/m/volume/live bs=1M conv=notrunc 2>/dev/null && cmp /tmp/bytes "$origin"
result $? 'a volume: written in large requests'
[ "$(ls /m/volume)" = live ] && [ ! -e /m/volume/1 ]
result $? 'a volume: no snapshot yet'
echo >&3
said 'snapshot 1'
result $? 'a volume: a snapshot'
[ "$(ls /m/volume | tr '\n' ' ')" = '1 live ' ]
result $? 'a volume: it is shown at once'
for i in 0 1 2 3; do
  dd if=/dev/urandom of=/m/volume/live bs=5000 seek=$((i * 800)) count=700 conv=notrunc 2>/dev/null &
done
wait %2 %3 %4 %5
cmp /m/volume/live "$origin" && ! cmp -s /m/volume/live /tmp/bytes
result $? 'a volume: four writers of odd sizes at once'
cmp /m/volume/1 /tmp/bytes
result $? 'a volume: the snapshot is what it was'
dd if=/tmp/bytes of=/m/volume/live bs=64k oflag=direct conv=notrunc,fsync 2>/dev/null && cmp /tmp/bytes /m/volume/live
result $? 'a volume: direct and synced'
! dd if=/dev/zero of=/m/volume/live bs=1M seek=16 count=1 conv=notrunc 2>/dev/null
result $? 'a volume: nothing past its end'
echo >&3
said 'snapshot 2' && cmp /m/volume/2 /tmp/bytes
result $? 'a volume: another snapshot'
exec 3>&-
said unmounted
result $? 'a volume: unmounted'
echo "1..$n"
