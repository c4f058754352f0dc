# What: a device with bad blocks: the error reaches the request that met them, and no other
# Target: ours
# Host: kernel
# Needs: nvme fio jq
modules nvme-tcp null_blk
bad_device 32 +16384-16391
dd if=/dev/urandom of=/dev/bad bs=1M count=8 oflag=direct 2>/dev/null
refused dd if=/dev/bad of=/dev/null bs=4096 skip=2048 count=1 iflag=direct
good=$(file good 16)
start_metadata
start_target t 4420 --file /dev/bad --file "$good"
connect "$nqn" 4420
device "$nqn" 2
second=$device
device "$nqn" 1
echo 2 >"/sys/block/${device##*/}/queue/nomerges"

# Every 4 KiB once, in random order, 16 at a time: 8192 requests, and just the one on sectors 16384 to 16391 fails.
fio --name=all --filename="$device" --rw=randread --bs=4k --size=32M --direct=1 --ioengine=libaio --iodepth=16 \
    --ignore_error=61:5 --error_dump=1 --output-format=json >/tmp/fio.log 2>&1 || fail "fio: $(cat /tmp/fio.log)"
eq 'what failed' "$(sed -n 's/.*io_u error.*: \([^:]*\): read \(offset=.*\)/\1, \2/p' /tmp/fio.log)" \
    'No data available, offset=8388608, buflen=4096'
eq 'requests' "$(sed -n '/^{/,$p' /tmp/fio.log | jq '.jobs[0].read.total_ios')" 8192
# An unrecovered read error, in the kernel's words:
refused dd if="$device" of=/dev/null bs=4096 skip=2048 count=1 iflag=direct
contains "$said" 'No data available'
dd if="$device" of=/dev/null bs=4096 skip=2047 count=1 iflag=direct
dd if="$device" of=/dev/null bs=4096 skip=2049 count=1 iflag=direct
# What is written there fails as well; the file beside it and the connection are as before.
refused dd if=/dev/zero of="$device" bs=4096 seek=2048 count=1 oflag=direct
same_bytes "$second" "$good" 16
same_bytes "$device" /dev/bad 8
