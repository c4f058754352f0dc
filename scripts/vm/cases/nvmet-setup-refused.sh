# What: files and devices that hold something are refused, each with its reason, and served with --overwrite; null_blk, loop and dm devices
# Target: kernel (by us)
# Host: kernel (by hand)
# Needs: dmsetup mkfs.ext4 mkfs.xfs mkswap losetup
# Timeout: 120
modules nvmet-tcp nvme-tcp loop null_blk dm-mod
start_metadata
# disk NAME [SIZE]: a loop device on a new file, in $loop.
disk() {
    rm -f "$scratch/disk-$1"
    truncate -s "${2:-64M}" "$scratch/disk-$1"
    fresh_loop "$scratch/disk-$1"
}
# holds PATH REASON: neither served nor planned, by either driver, and the reason is told; nothing of it is left.
holds() {
    say "$1: $2"
    refused timeout 20 bin/nvferry target --metadata-server $metadata --server-name t --traddr 127.0.0.1 --trsvcid 4420 \
        --target-driver nvmet --file "$1"
    contains "$said" "$2"
    contains "$said" --overwrite
    refused timeout 20 bin/nvferry target --metadata-server $metadata --server-name t --traddr 127.0.0.1 --trsvcid 4420 \
        --file "$1"
    contains "$said" "$2"
    nothing_left
}
# passes PATH ARGUMENTS...: it is served, and the kernel's host writes and reads it.
passes() {
    say "$1 is served"
    path=$1
    shift
    start_target t 4420 --target-driver nvmet --file "$path" "$@"
    contains "$(bin/nvferry target plan --server-name t --traddr 127.0.0.1 --trsvcid 4420 --file "$path" "$@")" \
        'nothing to do'
    connect "$nqn" 4420
    device "$nqn" 1
    dd if=/dev/urandom of="$device" bs=64k count=4 oflag=direct 2>/dev/null
    dd if="$device" of=/tmp/read.back bs=64k count=4 iflag=direct 2>/dev/null
    disconnect "$nqn"
    # Past the page cache here, too: what is read through it may be older than what nvmet wrote past it.
    dd if="$path" of=/tmp/read.there bs=64k count=4 iflag=direct 2>/dev/null
    cmp /tmp/read.back /tmp/read.there || fail "$path: what the host wrote is not there"
    kill -TERM "$target"
    wait "$target" || fail "the target: $(cat /tmp/target-t.log)"
    nothing_left
}

disk mounted
mkfs.ext4 -q "$loop"
holds "$loop" ext4
mkdir -p /mnt/it
mount "$loop" /mnt/it
holds "$loop" 'mounted at /mnt/it'
umount /mnt/it
holds "$scratch/disk-mounted" 'behind the loop device'
losetup -d "$loop"
holds "$scratch/disk-mounted" ext4
passes "$scratch/disk-mounted" --overwrite

disk xfs 320M
mkfs.xfs -q "$loop"
holds "$loop" XFS
passes "$loop" --overwrite

disk swap
mkswap "$loop" >/dev/null
holds "$loop" swap
if swapon "$loop" 2>/dev/null; then
    holds "$loop" 'swap space in use'
    swapoff "$loop"
fi

disk table
printf 'EFI PART' | dd of="$loop" bs=512 seek=1 conv=notrunc 2>/dev/null
holds "$loop" GPT

# One partition, of 16 MiB from 1 MiB on.
disk partition
{
    head -c 450 /dev/zero
    printf '\203\0\0\0\0\010\0\0\0\200\0\0'
    head -c 48 /dev/zero
    printf '\125\252'
} | dd of="$loop" conv=notrunc 2>/dev/null
holds "$loop" MBR
losetup -d "$loop"
losetup -P "$loop" "$scratch/disk-partition"
if [ -d "/sys/block/${loop##*/}/${loop##*/}p1" ]; then
    holds "$loop" 'it has partitions'
else
    say 'this kernel reads no partitions of loop devices'
fi

disk holder
dmsetup create linear --table "0 131072 linear $loop 0"
holds "$loop" dm-
# What is built on it may be offered.
[ -b /dev/mapper/linear ] || dmsetup mknodes
passes /dev/mapper/linear
dmsetup remove linear
passes "$loop"
passes "$loop" --direct off

# Held by somebody who asked for it alone.
bin/nvferry target --metadata-server $metadata --server-name holder --traddr 127.0.0.1 --trsvcid 4421 --file "$loop" \
    >/tmp/holder.log 2>&1 &
holder=$!
wait_for 10 'the holder serves' grep -q ^serving /tmp/holder.log
refused timeout 20 bin/nvferry target --metadata-server $metadata --server-name t --traddr 127.0.0.1 --trsvcid 4420 \
    --target-driver nvmet --file "$loop"
contains "$said" 'another program holds it'
kill -TERM $holder
wait $holder || fail "the holder: $(cat /tmp/holder.log)"

bad_device 32 +2048-2055
passes /dev/bad
