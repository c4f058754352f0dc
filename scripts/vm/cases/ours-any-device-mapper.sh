# What: a device that fails everything for a while (dm-flakey): errors reach its requests only, and end with it; one that is slow (dm-delay) keeps nobody else waiting
# Target: ours
# Host: ours; kernel
# Needs: nvme dmsetup
# Timeout: 90
modules nvme-tcp null_blk dm-mod dm-flakey dm-delay
# device_in_memory NAME
device_in_memory() {
    mkdir /sys/kernel/config/nullb/"$1"
    echo 16 >/sys/kernel/config/nullb/"$1"/size
    echo 1 >/sys/kernel/config/nullb/"$1"/memory_backed
    echo 1 >/sys/kernel/config/nullb/"$1"/power
}
device_in_memory mem0
device_in_memory mem1
sectors=$(blockdev --getsz /dev/mem0)
# becomes TABLE: the mapped device, under whoever has it open.
becomes() {
    dmsetup suspend weak
    dmsetup load weak --table "$1"
    dmsetup resume weak
}
well="0 $sectors linear /dev/mem0 0"
dmsetup create weak --noudevsync --table "$well"
weak=/dev/mapper/weak
[ -b $weak ] || weak=/dev/dm-0
dd if=/dev/urandom of=$weak bs=1M count=16 oflag=direct 2>/dev/null
dd if=/dev/urandom of=/dev/mem1 bs=1M count=16 oflag=direct 2>/dev/null
start_metadata
start_target t 4420 --overwrite --file $weak --file /dev/mem1
connect "$nqn" 4420
device "$nqn" 2
strong_device=$device
device "$nqn" 1
read_block() { dd if="$1" of=/dev/null bs=4096 skip="$2" count=1 iflag=direct; }
ours() {
    bin/transfer-bench --mode=initiator --metadata_server=$metadata --segment_id=t --local_server_name=initiator \
        --block_size=64k --queue_depth=2 --warmup=0 --duration=0.5 "$@" 2>&1
}

say 'all is well'
ours >/dev/null || fail 'our host, before anything fails'
same_bytes "$device" $weak 16

say 'everything fails'
becomes "0 $sectors flakey /dev/mem0 0 0 3600"
refused read_block "$device" 7
refused dd if=/dev/zero of="$device" bs=4096 count=1 oflag=direct
refused ours
contains "$said" 'file 1 '
case $said in *'file 2 '*) fail "the other file failed, too: $said" ;; esac
same_bytes "$strong_device" /dev/mem1 16

say 'all is well again'
becomes "$well"
same_bytes "$device" $weak 16
ours >/dev/null || fail 'our host, after it healed'

say 'the device is slow'
becomes "0 $sectors delay /dev/mem0 0 4000"
read_block "$device" 9 2>/dev/null &
slow=$!
wait_for 3 'the slow request is under way' grep -q '[1-9]' "/sys/block/${device##*/}/inflight"
same_bytes "$strong_device" /dev/mem1 16
kill -0 $slow 2>/dev/null || fail 'the slow request has ended before those that it must not hinder'
wait $slow || fail 'the slow request failed'
becomes "$well"
same_bytes "$device" $weak 16
