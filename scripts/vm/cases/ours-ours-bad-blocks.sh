# What: a device with bad blocks: the request that met them fails with its place, others go well
# Target: ours
# Host: ours
modules null_blk
bad_device 32 +2048-2055
start_metadata
start_target t 4420 --file /dev/bad
bad_block_read t
