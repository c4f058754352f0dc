# What: every byte written, read back and compared, digests off and on; nothing is left in the kernel
# Target: kernel (by us)
# Host: ours
# Timeout: 90
modules nvmet-tcp
a=$(file a 8)
for run in none:4k none:64k none:1M none:4099 header:64k data:64k both:4k both:1M both:4099; do
    say "digests: ${run%:*}, ${run#*:}"
    loopback "$a" --target_driver=nvmet --digests="${run%:*}" --block_size="${run#*:}"
done
