# What: the target is killed and started again under I/O: the kernel reconnects, nothing fails, every byte is right
# Target: ours
# Host: kernel
# Needs: nvme fio
# Timeout: 90
modules nvme-tcp
start_metadata
file=$(file a 32)
start_target t 4420 --file "$file"
connect "$nqn" 4420 --reconnect-delay=1 --ctrl-loss-tmo=60
device "$nqn" 1
fio --name=through --filename="$device" --rw=randwrite --bs=16k --size=32M --direct=1 --ioengine=libaio --iodepth=8 \
    --rate=8M --verify=crc32c --verify_fatal=1 --do_verify=1 >/tmp/fio.log 2>&1 &
fio=$!
for round in 1 2; do
    sleep 1
    kill -KILL "$target"
    wait "$target" || true
    start_target t 4420 --file "$file"
    say "restarted, $round"
done
wait $fio || fail "fio: $(cat /tmp/fio.log)"
same_bytes "$device" "$file" 32
