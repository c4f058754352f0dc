# What: ext4 made, filled, unmounted, checked, mounted again and compared; also after the target restarted
# Target: ours
# Host: kernel
# Needs: nvme mkfs.ext4 fsck.ext4
modules nvme-tcp
start_metadata
image=$(file image 96)
start_target t 4420 --file "$image"
connect "$nqn" 4420 --data-digest
device "$nqn" 1
mkfs.ext4 -q -F "$device"
mkdir -p /mnt/a /mnt/b
mount -t ext4 "$device" /mnt/a
mkdir -p /mnt/a/small /mnt/a/large/deeper
dd if=/dev/urandom of=/tmp/random bs=1M count=8 2>/dev/null
split -b 61234 /tmp/random /mnt/a/small/part-
for number in 1 2 3 4 5; do cp /tmp/random "/mnt/a/large/deeper/$number"; done
sums() { (cd "$1" && find . -type f | sort | xargs md5sum); }
sums /mnt/a >/tmp/before
eq 'files' "$(wc -l </tmp/before)" 142
umount /mnt/a
fsck.ext4 -f -n "$device" || fail "fsck of the kernel's device"
mount -t ext4 -o ro "$device" /mnt/a
sums /mnt/a >/tmp/after
cmp /tmp/before /tmp/after || fail "files differ after mounting again"
umount /mnt/a
disconnect "$nqn"

kill -TERM "$target"
wait "$target" || fail "the target ended with $?"
fsck.ext4 -f -n "$image" || fail "fsck of the file itself"
start_target t 4420 --file "$image" --overwrite
connect "$nqn" 4420
device "$nqn" 1
mount -t ext4 -o ro "$device" /mnt/b
sums /mnt/b >/tmp/after
cmp /tmp/before /tmp/after || fail "files differ after the target's restart"
umount /mnt/b
