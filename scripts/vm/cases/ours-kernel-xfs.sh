# What: xfs made, filled, unmounted, checked, mounted again and compared
# Target: ours
# Host: kernel
# Needs: nvme mkfs.xfs xfs_repair
# Kernel: qemu
# xfs asks for it by an alias that modprobe alone does not follow.
modules crc32c_generic libcrc32c nvme-tcp xfs
start_metadata
truncate -s 320M $scratch/image
start_target t 4420 --file $scratch/image
connect "$nqn" 4420 --data-digest
device "$nqn" 1
mkfs.xfs -q -f "$device"
mkdir -p /mnt/a
mount -t xfs "$device" /mnt/a
dd if=/dev/urandom of=/tmp/random bs=1M count=8 2>/dev/null
mkdir -p /mnt/a/small /mnt/a/large
split -b 61234 /tmp/random /mnt/a/small/part-
for number in 1 2 3 4 5; do cp /tmp/random "/mnt/a/large/$number"; done
sums() { (cd "$1" && find . -type f | sort | xargs md5sum); }
sums /mnt/a >/tmp/before
eq 'files' "$(wc -l </tmp/before)" 142
umount /mnt/a
xfs_repair -n "$device" >/tmp/repair 2>&1 || fail "xfs_repair finds something: $(cat /tmp/repair)"
mount -t xfs -o ro "$device" /mnt/a
sums /mnt/a >/tmp/after
cmp /tmp/before /tmp/after || fail "files differ after mounting again"
umount /mnt/a
disconnect "$nqn"
