# What: allowed hosts and secrets: who is on the list and proves itself gets in, all others are refused, and told why
# Target: kernel (by us)
# Host: ours; kernel (by us)
# Features: libnvme
# Timeout: 120
modules nvmet-tcp nvme-tcp
start_metadata
a=$(file a 8)
secret=$(bin/nvferry secret) own=$(bin/nvferry secret --hash sha512) other=$(bin/nvferry secret --hash none)
named=nqn.2014-08.org.nvmexpress:uuid:22222222-2222-2222-2222-222222222222
stranger=nqn.2014-08.org.nvmexpress:uuid:33333333-3333-3333-3333-333333333333
printf '%s\n' "$host_nqn $secret $own hash=sha384 dhgroup=ffdhe2048" "$named" >/tmp/hosts
chmod 600 /tmp/hosts
start_target t 4420 --target-driver nvmet --file "$a" --allowed-hosts /tmp/hosts
# refused_with WORDS HOST
refused_with() {
    refused bin/transfer-bench --mode=initiator --metadata_server=$metadata --segment_id=t --duration=0.1 \
        --local_server_name=initiator --host_driver=$driver --hostnqn="$2"
    contains "$said" "$1"
    case $said in *DHHC*) fail "a secret is shown: $said" ;; esac
    say "$(echo "$said" | tail -n 1)"
}
for driver in userspace kernel; do
    say "host driver: $driver"
    for controller_secret in '' "$own"; do
        secrets "$secret" "$controller_secret"
        verified t --host_driver=$driver --hostnqn=$host_nqn
    done
    refused_with 'not on' "$stranger"
    secrets "$secret" "$other"
    refused_with 'the target did not prove itself' $host_nqn
    secrets "$other" ''
    refused_with "refuses this host's secret" $host_nqn
    secrets '' ''
    refused_with 'no secret is set' $host_nqn
    verified t --host_driver=$driver --hostnqn=$named
    eq 'what is left of the host' "$(ls /sys/class/nvme)" ''
done
kill -TERM "$target"
wait "$target" || fail "the target: $(cat /tmp/target-t.log)"
nothing_left
