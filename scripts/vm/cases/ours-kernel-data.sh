# What: every byte in both directions, fio with checksums, digests off and on
# Target: ours
# Host: kernel
# Needs: nvme fio
# Timeout: 90
modules nvme-tcp
start_metadata
file=$(file a 40)
start_target t 4420 --file "$file"
dd if=/dev/urandom of=/tmp/reference bs=1M count=40 2>/dev/null
for digests in '' '--hdr-digest' '--data-digest' '--hdr-digest --data-digest'; do
    say "digests: ${digests:-none}"
    # shellcheck disable=SC2086
    connect "$nqn" 4420 $digests
    device "$nqn" 1
    eq 'size' "$(blockdev --getsize64 "$device")" $((40 << 20))
    dd if="$device" of=/tmp/back bs=1M iflag=direct 2>/dev/null
    cmp /tmp/back "$file" || fail "read through the kernel is not what the file holds"
    dd if=/tmp/reference of="$device" bs=1M oflag=direct 2>/dev/null
    cmp /tmp/reference "$file" || fail "written through the kernel is not what the file holds"
    case $digests in '' | *' '*) checked_io "$device" ;; esac
    disconnect "$nqn"
done
