# Runs in the guest that scripts/guest/agent.js boots: an ext4 on /dev/vdb to which files are written, never synced, one after
# the other, each told of with its digest when it is written; the guest's agent, started again when it dies, unless
# /tmp/no-agent is there; and commands from the host over a port of their own, each answered by what it says and `done`.
KEPT=60
port() {
  for each in /sys/class/virtio-ports/*; do
    [ "$(cat $each/name)" = "$1" ] && echo /dev/${each##*/}
  done
}
mkdir /m/data
mount -t ext4 /dev/vdb /m/data || echo 'failed to mount'
agent=$(port org.qemu.guest_agent.0)
while :; do
  [ -e /tmp/no-agent ] || qemu-ga -m virtio-serial -p $agent -t /run -l /tmp/agent.log -F/test/agent-hook.sh
  sleep 0.2
done &
n=0
while [ ! -e /tmp/enough ]; do
  n=$((n + 1))
  dd if=/dev/urandom of=/tmp/piece bs=20k count=$((n % 5 + 1)) 2>/dev/null
  set -- $(md5sum /tmp/piece)
  cat /tmp/piece >/m/data/$n && echo "written $n $1" || echo "failed to write $n"
  [ $n -gt $KEPT ] && rm /m/data/$((n - KEPT))
  sleep 0.05
done &
writer=$!
exec 3<>$(port asof.control)
echo '# it writes'
# While the host is not connected there is nothing to read.
while [ ! -e /tmp/enough ]; do
  read -r line <&3 || { sleep 0.2; continue; }
  eval "$line" >&3 2>&1
  echo done >&3
done
wait $writer
umount /m/data && echo 'unmounted'
