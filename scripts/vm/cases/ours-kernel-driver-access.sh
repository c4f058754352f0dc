# What: our host gives secrets to the kernel's: both sides proved; wrong secrets, and targets that prove nothing, refused, and said so
# Target: ours
# Host: kernel (by us)
# Features: libnvme
# Needs: nvme
# Timeout: 120
modules nvme-tcp
start_metadata
image=$(file image 16)
secret=$(bin/nvferry secret) own=$(bin/nvferry secret --hash sha512) other=$(bin/nvferry secret --hash none)
kernel="--host_driver=kernel --hostnqn=$host_nqn"
# refused_with WORDS NAME: an initiator is refused with these words and without a secret, and the kernel's connection is gone.
refused_with() {
    # shellcheck disable=SC2086
    refused bin/transfer-bench --mode=initiator --metadata_server=$metadata --segment_id="$2" --duration=0.1 \
        --local_server_name=initiator $kernel
    contains "$said" "$1"
    case $said in *DHHC*) fail "a secret is shown: $said" ;; esac
    say "$(echo "$said" | tail -n 1)"
}

number=4420
for pair in sha256:null sha384:ffdhe2048 sha512:ffdhe4096; do
    say "$pair"
    echo "$host_nqn $secret $own hash=${pair%:*} dhgroup=${pair#*:}" >/tmp/hosts
    chmod 600 /tmp/hosts
    start_target "t$number" $number --file "$image" --overwrite --allowed-hosts /tmp/hosts
    for controller_secret in '' "$own"; do
        secrets "$secret" "$controller_secret"
        # shellcheck disable=SC2086
        verified "t$number" $kernel
        nothing_left
    done
    secrets "$other" ''
    refused_with "refuses this host's secret" "t$number"
    secrets "$secret" "$other"
    refused_with 'the target did not prove itself' "t$number"
    secrets '' ''
    refused_with 'no secret is set' "t$number"
    nothing_left
    number=$((number + 1))
done
number=$((number - 1))

say 'a target that authenticates nobody'
start_target open 4430 --file "$image" --overwrite
secrets "$secret" ''
# shellcheck disable=SC2086
verified open $kernel
secrets "$secret" "$own"
refused_with 'does not say that the target has proved itself' open
nothing_left

say 'secrets in sysfs'
nqn=nqn.2016-06.io.mc:t$number
# shellcheck disable=SC2086
bin/transfer-bench --mode=initiator --metadata_server=$metadata --segment_id="t$number" --local_server_name=initiator \
    --duration=5 $kernel >/tmp/initiator.log 2>&1 &
initiator=$!
closed() {
    for attribute in dhchap_secret dhchap_ctrl_secret; do
        [ "$(stat -c %a "/sys/class/nvme/$(controller "$nqn")/$attribute")" = 600 ] || return 1
    done
}
wait_for 10 'the secrets are closed to others' closed
# The kernel takes one id for a host's name: `connect` below has to use ours.
host_id=$(cat "/sys/class/nvme/$(controller "$nqn")/hostid")
wait $initiator || fail "the initiator: $(cat /tmp/initiator.log)"
nothing_left

say 'connections that were there'
connect "$nqn" $number --dhchap-secret "$secret"
refused_with 'has not asked it to prove itself' "t$number"
disconnect "$nqn"
connect "$nqn" $number --dhchap-secret "$secret" --dhchap-ctrl-secret "$own"
# shellcheck disable=SC2086
bin/transfer-bench --mode=initiator --metadata_server=$metadata --segment_id="t$number" --duration=0.1 \
    --local_server_name=initiator $kernel >/tmp/initiator.log 2>&1 || fail "the initiator: $(cat /tmp/initiator.log)"
controller "$nqn" >/dev/null || fail 'a connection that was there was removed'
disconnect "$nqn"

say 'what listens beyond loopback and lets everybody in says so, once'
ip addr add 10.9.9.9/32 dev lo
# warnings NAME PORT ARGUMENTS...
warnings() {
    name=$1 port=$2
    shift 2
    start "/tmp/target-$name.log" '^serving' bin/nvferry target --metadata-server $metadata --server-name "$name" \
        --traddr 10.9.9.9 --trsvcid "$port" "$@"
    grep -c 'lets every host in' "/tmp/target-$name.log" || true
}
eq 'the number of warnings' "$(warnings wide 4440 --file "$(file wide 1)")" 1
eq 'the number of warnings' "$(warnings listed 4441 --file "$(file listed 1)" --allowed-hosts /tmp/hosts)" 0
modules nvmet-tcp
eq 'the number of warnings' "$(warnings kernels 4442 --file "$(file kernels 1)" --target-driver nvmet)" 1
