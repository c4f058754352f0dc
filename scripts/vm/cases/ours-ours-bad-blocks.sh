# What: a device with bad blocks: the request that met them fails with its place, others and other files go well
# Target: ours
# Host: ours
modules null_blk
bad=/sys/kernel/config/nullb/bad
mkdir $bad
echo 32 >$bad/size
echo 1 >$bad/memory_backed
echo '+2048-2055' >$bad/badblocks
echo 1 >$bad/power
[ -b /dev/bad ] || fail "null_blk made no /dev/bad"
start_metadata
start_target t 4420 --file /dev/bad
read_it() {
    bin/transfer-bench --mode=initiator --metadata_server=$metadata --segment_id=t --local_server_name=initiator \
        --block_size=4k --pattern=sequential --warmup=0 --duration=1 --queue_depth=1 --batch_size=1 "$@" 2>&1
}
# The MiB before the bad blocks, again and again; then with them.
read_it --range=1M >/dev/null || fail "blocks before the bad ones cannot be read"
refused read_it --range=1028k
contains "$said" '1048576'
say "$said"
read_it --range=1M >/dev/null || fail "one bad block ended the connection for good"
