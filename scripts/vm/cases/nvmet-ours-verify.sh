# What: a subsystem that another program set up: written, read back and compared, digests off and on
# Target: kernel (by hand)
# Host: ours
modules nvmet-tcp
a=$(file a 8) b=$(file b 3)
start_metadata
nvmet_by_hand nqn.2026-01.test:by-hand 4430 "$a" "$b"
publish by-hand nqn.2026-01.test:by-hand 4430 "$a" "$b"
for run in none:4k none:64k none:1M none:4099 header:64k data:64k both:4k both:1M both:4099; do
    say "digests: ${run%:*}, ${run#*:}"
    verified by-hand --digests="${run%:*}" --block_size="${run#*:}" --queue_depth=8
done
