# What: a device with bad blocks: the request that met them fails with its place, others go well
# Target: kernel (by hand)
# Host: ours
modules nvmet-tcp null_blk
bad_device 32 +2048-2055
start_metadata
nvmet_by_hand nqn.2026-01.test:by-hand 4430 /dev/bad
publish by-hand nqn.2026-01.test:by-hand 4430 /dev/bad
bad_block_read by-hand
