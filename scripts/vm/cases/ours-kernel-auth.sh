# What: DH-HMAC-CHAP: every hash, every group, mutual; wrong secrets refused, and said so; a file system mounted
# Target: ours
# Host: kernel
# Needs: nvme mkfs.ext4
modules nvme-tcp
start_metadata
image=$(file image 48)
secret=$(bin/nvferry secret) own=$(bin/nvferry secret --hash sha512) other=$(bin/nvferry secret --hash none)
port=4420
for pair in sha256:null sha384:ffdhe2048 sha512:ffdhe3072 sha256:ffdhe4096 sha384:ffdhe6144 sha512:ffdhe8192; do
    say "$pair"
    echo "$host_nqn $secret $own hash=${pair%:*} dhgroup=${pair#*:}" >/tmp/hosts
    chmod 600 /tmp/hosts
    start_target "t$port" $port --file "$image" --allowed-hosts /tmp/hosts
    connect "$nqn" $port --dhchap-secret "$secret"
    device "$nqn" 1
    disconnect "$nqn"
    connect "$nqn" $port --dhchap-secret "$secret" --dhchap-ctrl-secret "$own"
    device "$nqn" 1
    dd if="$device" bs=1M count=8 iflag=direct 2>/dev/null | cmp -n 8388608 - "$image" || fail "read something else"
    disconnect "$nqn"
    for wrong in "--dhchap-secret=$other" "--dhchap-secret=$secret --dhchap-ctrl-secret=$other" ''; do
        # shellcheck disable=SC2086
        refused nvme connect -t tcp -a 127.0.0.1 -s $port -n "$nqn" -q $host_nqn -I $host_id $wrong
    done
    contains "$(cat "/tmp/target-t$port.log")" 'refused a host that did not authenticate'
    contains "$(cat "/tmp/target-t$port.log")" 'it does not know the secret that is set for it'
    port=$((port + 1))
done
connect "$nqn" $((port - 1)) --dhchap-secret "$secret" --dhchap-ctrl-secret "$own"
device "$nqn" 1
mkfs.ext4 -q -F "$device"
mkdir -p /mnt/a
mount -t ext4 "$device" /mnt/a
echo kept >/mnt/a/file
umount /mnt/a
mount -t ext4 -o ro "$device" /mnt/a
eq 'the file' "$(cat /mnt/a/file)" kept
umount /mnt/a
disconnect "$nqn"
