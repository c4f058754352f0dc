# What: every byte written, read back and compared, digests off and on, also of files that are no whole number of blocks
# Target: ours
# Host: kernel (by us)
# Features: libnvme
# Timeout: 120
modules nvme-tcp
a=$(file a 8)
for run in none:4k none:64k none:1M none:4099 header:64k data:64k both:4k both:1M both:4099; do
    say "digests: ${run%:*}, ${run#*:}"
    loopback "$a" --host_driver=kernel --digests="${run%:*}" --block_size="${run#*:}"
done
# The last block is part of the file, and the file does not grow.
for tail in 1 511 512 4095; do
    odd=$(file odd 2)
    dd if=/dev/urandom bs=$tail count=1 2>/dev/null >>"$odd"
    say "2 MiB and $tail bytes"
    loopback "$odd" --host_driver=kernel --block_size=4099
    eq 'the size' "$(stat -c %s "$odd")" $(((2 << 20) + tail))
done
