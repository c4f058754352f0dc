# What: a pattern written, read back and compared, 4 KiB to 1 MiB and unaligned, digests off and on
# Target: ours
# Host: ours
start_metadata
start_target t 4420 --file "$(file a 8)" --file "$(file b 3)"
for run in none:4k none:64k none:1M none:4099 header:64k data:64k both:4k both:1M both:4099; do
    say "digests: ${run%:*}, ${run#*:}"
    verified t --digests="${run%:*}" --block_size="${run#*:}" --queue_depth=8
done
