# What: a device with bad blocks: the request that met them fails with its place, others go well
# Target: kernel (by us)
# Host: ours; kernel (by us)
# Features: libnvme
modules nvmet-tcp nvme-tcp null_blk
bad_device 32 +2048-2055
start_metadata
start_target t 4420 --target-driver nvmet --overwrite --file /dev/bad
for driver in userspace kernel; do
    say "host_driver=$driver"
    bad_block_read t --host_driver=$driver
done
kill -TERM "$target"
wait "$target" || fail "the target: $(cat /tmp/target-t.log)"
nothing_left
