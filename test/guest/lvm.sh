# Runs in the guest that scripts/guest/lvm.js boots: a volume group on /dev/vdc, and test/guest/lvm.ts on logical volumes of
# it. Prints TAP lines; `modules` are those of device-mapper, in their order; `part` is which tests.
export PATH=/sbin:/usr/sbin:$PATH
for module in $(echo "$modules" | tr ',' ' '); do
  insmod /lib/$module.ko || echo "not ok - the module $module"
done
mkdir -p /run/lock/lvm
mount -t ext4 /dev/vdb /state
pvcreate -q -y /dev/vdc && vgcreate -q -s 1M vg /dev/vdc || echo 'not ok - a volume group'
node /asof/dist/test/guest/lvm.js /state $part
