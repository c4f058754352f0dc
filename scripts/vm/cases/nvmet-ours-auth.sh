# What: DH-HMAC-CHAP: our host proves itself to the kernel's target, and the kernel's target to it
# Target: kernel (by hand)
# Host: ours
modules nvmet-tcp
a=$(file a 8)
start_metadata
nqn=nqn.2026-01.test:by-hand
nvmet_by_hand $nqn 4430 "$a"
publish by-hand $nqn 4430 "$a"
secret=$(bin/nvferry secret) own=$(bin/nvferry secret --hash sha512) other=$(bin/nvferry secret --hash none)
echo 0 >$configfs/subsystems/$nqn/attr_allow_any_host
entry=$configfs/hosts/$host_nqn
mkdir "$entry"
printf %s "$secret" >"$entry/dhchap_key"
printf %s "$own" >"$entry/dhchap_ctrl_key"
ln -s "$entry" "$configfs/subsystems/$nqn/allowed_hosts/$host_nqn"
for pair in sha256:null sha384:ffdhe2048 sha512:ffdhe3072 sha256:ffdhe4096 sha384:ffdhe6144 sha512:ffdhe8192; do
    say "$pair"
    printf 'hmac(%s)' "${pair%:*}" >"$entry/dhchap_hash"
    printf %s "${pair#*:}" >"$entry/dhchap_dhgroup"
    export NVFERRY_DHCHAP_SECRET="$secret"
    verified by-hand --hostnqn=$host_nqn
    export NVFERRY_DHCHAP_CTRL_SECRET="$own"
    verified by-hand --hostnqn=$host_nqn
    NVFERRY_DHCHAP_CTRL_SECRET=$other refused bin/transfer-bench --mode=initiator --metadata_server=$metadata \
        --segment_id=by-hand --local_server_name=initiator --duration=0.1 --hostnqn=$host_nqn
    contains "$said" 'the target did not prove itself'
    unset NVFERRY_DHCHAP_CTRL_SECRET
    NVFERRY_DHCHAP_SECRET=$other refused bin/transfer-bench --mode=initiator --metadata_server=$metadata \
        --segment_id=by-hand --local_server_name=initiator --duration=0.1 --hostnqn=$host_nqn
    contains "$said" "refuses this host's secret"
    unset NVFERRY_DHCHAP_SECRET
    refused bin/transfer-bench --mode=initiator --metadata_server=$metadata \
        --segment_id=by-hand --local_server_name=initiator --duration=0.1 --hostnqn=$host_nqn
    contains "$said" 'no secret is set'
done
