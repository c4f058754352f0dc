# What: our host gives secrets to the kernel's: both sides proved; wrong secrets, and targets that prove nothing, refused, and said so
# Target: ours
# Host: kernel (by us)
# Features: libnvme
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

say 'a target that authenticates nobody'
start_target open 4430 --file "$image" --overwrite
secrets "$secret" ''
# shellcheck disable=SC2086
verified open $kernel
secrets "$secret" "$own"
refused_with 'does not say that the target has proved itself' open
nothing_left
