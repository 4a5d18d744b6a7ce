# Runs in the guest that scripts/guest/power-cut.js boots: mounts the disk of the daemon's state, then test/guest/power-cut.ts.
port=/dev/vport1p1
until [ -c "$port" ]; do
  port=$(ls /dev/vport*p1 2>/dev/null)
  sleep 0.1
done
mkdir -p /m/asof
mount -t ext4 /dev/vdb /state || {
  echo 'failed the state disk does not mount' >"$port"
  poweroff -f
}
mkdir -p /state/asof
node /asof/dist/test/guest/power-cut.js "$port"
