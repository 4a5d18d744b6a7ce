#!/bin/busybox sh
# lvs and lvcreate in the guest of the test systemd: /dev/vdc is a logical volume, and a snapshot of it takes until /tmp/go is
# there, and fails.
number=$(cat /sys/block/vdc/dev)
row='"vg_name":"vg","lv_name":"lv","lv_uuid":"1","lv_path":"/dev/vdc","lv_attr":"-wi-a-----","segtype":"linear"'
row="$row,\"lv_tags\":\"\",\"origin_uuid\":\"\",\"lv_kernel_major\":\"${number%:*}\",\"lv_kernel_minor\":\"${number#*:}\""
case "$0 $*" in
*lvs*lv_kernel_major*) echo "{\"report\":[{\"lv\":[{$row}]}]}" ;;
*lvs*) echo '{"report":[{"lv":[]}]}' ;;
*)
  touch /tmp/taking
  until [ -e /tmp/go ]; do sleep 0.2; done
  exit 1
  ;;
esac
