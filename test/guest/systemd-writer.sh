# The unit writer.service: lines into a file on /m/fs, none of them synced; when it is told to stop it writes that it is whole.
trap 'echo whole >>/m/fs/lines; exit 0' TERM
rm -f /m/fs/lines
n=0
while :; do
  n=$((n + 1))
  echo "line $n" >>/m/fs/lines
  [ $((n % 1000)) = 0 ] && : >/m/fs/lines
  sleep 0.05
done
