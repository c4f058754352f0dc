# What: the target is killed and started again under I/O: no request fails, every byte is right
# Target: ours
# Host: kernel (by us)
# Features: libnvme
# Timeout: 90
modules nvme-tcp
start_metadata
file=$(file a 16)
start_target t 4420 --overwrite --file "$file"
bin/transfer-bench --mode=initiator --metadata_server=$metadata --segment_id=t --local_server_name=initiator \
    --host_driver=kernel --overwrite --verify --operation=write --block_size=64k --queue_depth=8 --duration=6 \
    >/tmp/through.log 2>&1 &
bench=$!
device "$nqn" 1
for round in 1 2; do
    sleep 1
    kill -KILL "$target"
    wait "$target" || true
    start_target t 4420 --overwrite --file "$file"
    say "restarted, $round"
done
wait $bench || fail "the initiator: $(tail -n 8 /tmp/through.log)"
grep '^Verified.* no mismatch' /tmp/through.log || fail "nothing was verified: $(cat /tmp/through.log)"
nothing_left
