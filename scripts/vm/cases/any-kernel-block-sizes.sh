# What: files and devices with blocks of 512, 1024, 2048 and 4096 bytes; what the host sees as block is checked
# Target: ours; kernel (by us)
# Host: kernel (by us)
# Features: libnvme
# Needs: mkfs.ext4
# Timeout: 120
modules nvmet-tcp nvme-tcp null_blk loop
# with BLOCK DRIVER FILE: the namespace has such blocks, and every byte gets through.
with() {
    before=$(cksum <"$3")
    bin/transfer-bench --mode=loopback --files="$3" --target_driver="$2" --host_driver=kernel --verify --overwrite \
        --duration=1 --warmup=0 --queue_depth=8 --workers=1 --block_size=12k >/tmp/with.log 2>&1 &
    bench=$!
    wait_for 10 "a namespace on $3" sh -c 'cat /sys/block/nvme*n1/queue/logical_block_size'
    seen=$(head -qn 1 /sys/block/nvme*n1/queue/logical_block_size | sort -u)
    wait $bench || fail "$2, $3: $(tail -n 8 /tmp/with.log)"
    grep -q '^Verified.* no mismatch' /tmp/with.log || fail "nothing was verified: $(cat /tmp/with.log)"
    nothing_left
    [ "$before" != "$(cksum <"$3")" ] || fail "the bytes did not go to $3"
    say "$2, $3: blocks of $seen"
    [ "$1" = any ] || eq "block of $3 with $2" "$seen" "$1"
}
null_device() {
    mkdir /sys/kernel/config/nullb/blk"$1"
    echo 8 >/sys/kernel/config/nullb/blk"$1"/size
    echo 1 >/sys/kernel/config/nullb/blk"$1"/memory_backed
    echo "$1" >/sys/kernel/config/nullb/blk"$1"/blocksize
    echo 1 >/sys/kernel/config/nullb/blk"$1"/power
}
for driver in nvmet userspace; do
    for block in 512 1024 2048 4096; do
        [ -b /dev/blk$block ] || null_device $block
        with $block $driver /dev/blk$block
    done
    fresh_loop "$(file loop-$driver 4)"
    with 512 $driver "$loop"
    losetup -d "$loop"
done
for block in 1024 4096; do
    small_block_fs $block
    dd if=/dev/urandom of="$mounted/f" bs=1M count=4 2>/dev/null
    with $block nvmet "$mounted/f"
    with any userspace "$mounted/f"
done
