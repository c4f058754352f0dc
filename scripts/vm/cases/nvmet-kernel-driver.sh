# What: every byte written, read back and compared, 4 KiB to 1 MiB and unaligned, digests off and on; nothing is left in the kernel
# Target: kernel (by us)
# Host: kernel (by us)
# Features: libnvme
# Timeout: 120
modules nvmet-tcp nvme-tcp
a=$(file a 8)
for run in none:4k none:64k none:1M none:4099 header:64k data:64k both:4k both:1M both:4099; do
    say "digests: ${run%:*}, ${run#*:}"
    loopback "$a" --target_driver=nvmet --host_driver=kernel --digests="${run%:*}" --block_size="${run#*:}"
done
# Several files, and the page cache for a target's file.
b=$(file b 4)
bin/transfer-bench --mode=loopback --target_driver=nvmet --host_driver=kernel --files="$a $b" --direct=off --verify \
    --overwrite --duration=0.3 --warmup=0 >/tmp/two.log 2>&1 || fail "two files: $(tail -n 8 /tmp/two.log)"
grep '^Verified' /tmp/two.log
nothing_left
