# A unit in the guest that scripts/guest/systemd.js boots, whose process 1 is systemd: asof.service as it is shipped, with a
# volume on /dev/vdc, and writer.service, whose lines are on an ext4 on the volume. Prints TAP lines, and powers off.
n=0
result() { # STATUS TEXT
  n=$((n + 1))
  if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; fi
}
is() { # TEXT FOUND WANTED
  [ "$2" = "$3" ]
  result $? "$1${2:+: $2}"
  [ "$2" = "$3" ] || echo "# wanted $3"
}
property() { systemctl show -P "$2" "$1"; }
until_is() { # UNIT PROPERTY VALUE
  until [ "$(property "$1" "$2")" = "$3" ]; do sleep 0.2; done
}
live=/run/asof-volumes/volumes/disk/live
first() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" | head -n 1; }
mount_live() {
  loop=$(losetup -f)
  losetup "$loop" $live && mount -t ext4 "$loop" /m/fs
}
leave_live() { umount /m/fs && losetup -d "$loop"; }
# What the newest snapshot has in the file `lines`: its disk, with the journal replayed where that must be.
lines_of() { # MOMENT
  cp "/run/asof-volumes/volumes/disk/$1/disk" /var/copy
  mount -t ext4 -o loop /var/copy /m/copy && cat /m/copy/lines
  umount /m/copy
}
lines() { cat /m/fs/lines 2>/dev/null; }
mkdir /m/fs /m/copy

systemctl start asof
result $? 'asof.service starts, and says when it is ready'
is 'it is' "$(property asof ActiveState)" active
is 'its state is its own' "$(stat -c %a /var/lib/asof)" 700
is 'it is the last to be killed' "$(cat /proc/$(property asof MainPID)/oom_score_adj)" -900
asof volume add disk /dev/vdc >/dev/null && mount_live
result $? 'a file system on its live device'
echo first >/m/fs/first
asof snapshot create disk --json >/tmp/snapshot
result $? 'a snapshot'
is 'the file system was frozen' "$(first consistency </tmp/snapshot)" filesystem
moment=$(first moment </tmp/snapshot)
was=$(md5sum <"/run/asof-volumes/volumes/disk/$moment/disk")

echo '# the writer systemd: stop'
systemctl start writer
until [ "$(lines | wc -l)" -gt 3 ]; do sleep 0.2; done
pid=$(property writer MainPID)
asof snapshot create disk --writer systemd:unit=writer.service --deadline 300 --json >/tmp/stopped
result $? 'a snapshot around which writer.service is stopped'
is 'it is worth' "$(first consistency </tmp/stopped)" application
is 'the unit' "$(property writer ActiveState)" active
[ "$(property writer MainPID)" != "$pid" ]
result $? 'is another process now'
is 'in the snapshot its lines are whole' "$(lines_of "$(first moment </tmp/stopped)" | tail -n 1)" whole
until [ "$(lines | wc -l)" -gt 3 ]; do sleep 0.2; done
[ "$(lines | tail -n 1)" != whole ]
result $? 'and it goes on'

echo '# the writer systemd: freeze'
pid=$(property writer MainPID)
asof snapshot create disk --writer systemd:unit=writer.service,mode=freeze --deadline 300 --json \
  --writer 'command:{"hold":"systemctl show -P FreezerState writer >/tmp/while","shell":"yes","timeout":"300"}' >/tmp/frozen
result $? 'a snapshot around which writer.service is frozen'
is 'while all hold it is' "$(cat /tmp/while)" frozen
is 'afterwards it is' "$(property writer FreezerState)" running
is 'the same process' "$(property writer MainPID)" "$pid"
is 'which grants nothing beyond the file system' "$(first consistency </tmp/frozen)" filesystem
count=$(lines | tail -n 1)
until [ "$(lines | tail -n 1)" != "$count" ]; do sleep 0.2; done
result 0 'and it goes on'

echo '# a unit that does not come back, and one that does not run'
touch /tmp/no-start
asof snapshot create disk --writer systemd:unit=writer.service --deadline 300 --json >/tmp/out 2>/tmp/error
is 'a unit that does not start again: status' $? 2
grep -q CONSISTENCY_UNMET /tmp/error
result $? 'nothing is taken'
head -c 600 /tmp/error | sed 's/^/# /'
is 'it is' "$(property writer ActiveState)" failed
rm /tmp/no-start
systemctl reset-failed writer
asof snapshot create disk --writer systemd:unit=writer.service --deadline 300 >/dev/null
result $? 'around one that does not run'
is 'it is not started' "$(property writer ActiveState)" inactive

echo '# stop'
systemctl stop --no-block asof
until_is asof ActiveState deactivating
echo second >/m/fs/second && sync && echo 3 >/proc/sys/vm/drop_caches && [ "$(cat /m/fs/second)" = second ]
result $? 'a stop waits for the file system on the live device, which goes on'
is 'it is' "$(property asof ActiveState)" deactivating
leave_live
result $? 'unmounted'
until_is asof ActiveState inactive
is 'then it stops: its result' "$(property asof Result)" success
grep -q asof-volumes /proc/mounts
is 'no mount is left: status of grep' $? 1
/bin/e2fsck -fn /dev/vdc >/tmp/fsck 2>&1
result $? 'the origin is whole' # and e2fsck has flushed the device: no write

echo '# start again'
systemctl start asof
result $? 'it starts again'
is 'the snapshot is what it was' "$(md5sum <"/run/asof-volumes/volumes/disk/$moment/disk")" "$was"
mount_live
is 'what was written while it stopped is there' "$(cat /m/fs/second)" second
leave_live
systemctl restart asof
result $? 'a restart'
is 'the snapshot is what it was' "$(md5sum <"/run/asof-volumes/volumes/disk/$moment/disk")" "$was"

echo '# killed'
pid=$(property asof MainPID)
kill -9 "$pid"
until [ "$(property asof NRestarts)" = 1 ] && [ "$(property asof ActiveState)" = active ]; do sleep 0.2; done
result 0 'systemd starts it again'
is 'the snapshot is what it was' "$(md5sum <"/run/asof-volumes/volumes/disk/$moment/disk")" "$was"
mount_live
is 'the live device is back' "$(cat /m/fs/first)" first
leave_live

echo '# killed while a file system is frozen'
mount_live && systemctl start writer
until [ "$(lines | wc -l)" -gt 3 ]; do sleep 0.2; done
asof snapshot create disk --provider lvm --deadline 600 >/dev/null 2>&1 &
until [ -e /tmp/taking ]; do sleep 0.2; done
freezer=$(pidof asof-freezer)
[ -n "$freezer" ]
result $? 'a process of its own holds the file system'
fsfreeze --freeze /m/fs 2>/dev/null
is 'nobody else can freeze it: status' $? 1
kill -9 "$(property asof MainPID)"
while [ -d "/proc/$freezer" ]; do sleep 0.2; done
fsfreeze --unfreeze /m/fs 2>/dev/null
is 'it outlives the daemon, and thaws: nothing is left to thaw: status' $? 1
touch /tmp/go
systemctl stop writer
leave_live
result $? 'nobody hangs in it'
until [ "$(property asof NRestarts)" -ge 2 ] && [ "$(property asof ActiveState)" = active ]; do sleep 0.2; done
result 0 'systemd starts the daemon again'
is 'the snapshot is what it was' "$(md5sum <"/run/asof-volumes/volumes/disk/$moment/disk")" "$was"
mount_live
is 'the live device is back' "$(cat /m/fs/first)" first
leave_live

systemctl stop asof
is 'the end: its result' "$(property asof Result)" success
/bin/e2fsck -fn /dev/vdc >/tmp/fsck 2>&1
result $? 'the origin is whole'
echo "1..$n"
sync
poweroff -f
