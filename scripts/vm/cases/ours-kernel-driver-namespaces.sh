# What: a file that is offered late is found while connected; one that is withdrawn fails its own requests only
# Target: ours; kernel (by hand)
# Host: kernel (by us)
# Features: libnvme
# Timeout: 120
modules nvmet-tcp nvme-tcp
start_metadata
a=$(file a 4) b=$(file b 4)
# initiator SEGMENT ARGUMENTS...
initiator() {
    segment=$1
    shift
    bin/transfer-bench --mode=initiator --metadata_server=$metadata --segment_id="$segment" --local_server_name=initiator \
        --host_driver=kernel --block_size=64k --queue_depth=4 --warmup=0 "$@"
}
late() {
    initiator "$1" --verify --overwrite --operation=write --duration=1 --control_timeout=20 >/tmp/late.log 2>&1 &
    bench=$!
    device "$2" 1
    gone "$2" 2 || fail "file 2 is there before it is offered"
}
arrived() {
    device "$1" 2
    wait $bench || fail "the initiator: $(tail -n 8 /tmp/late.log)"
    grep '^Verified.* no mismatch' /tmp/late.log || fail "nothing was verified: $(cat /tmp/late.log)"
    no_controller "$1" || fail "the controller of $1 is left"
}

say 'our target'
echo "$a" >/tmp/list
start_target t 4420 --overwrite --files-from /tmp/list
publish both "$nqn" 4420 "$a" "$b"
late both "$nqn"
printf '%s\n' "$a" "$b" >/tmp/list
kill -HUP "$target"
arrived "$nqn"

say 'the target of the kernel'
hand=nqn.2026-01.test:by-hand
nvmet_by_hand $hand 4430 "$a"
publish by-hand $hand 4430 "$a" "$b"
late by-hand $hand
mkdir $configfs/subsystems/$hand/namespaces/2
printf %s "$b" >$configfs/subsystems/$hand/namespaces/2/device_path
echo 1 >$configfs/subsystems/$hand/namespaces/2/enable
arrived $hand

say 'withdrawn under reads of both'
initiator both --duration=8 --timeout=3 >/tmp/gone.log 2>&1 &
bench=$!
device "$nqn" 2
echo "$a" >/tmp/list
kill -HUP "$target"
status=0
wait $bench || status=$?
eq 'status' $status 1
say "$(tail -n 1 /tmp/gone.log)"
contains "$(cat /tmp/gone.log)" "$b"
initiator t --duration=0.3 >/tmp/rest.log 2>&1 || fail "the file that stayed: $(cat /tmp/rest.log)"
no_controller "$nqn" || fail "the controller of $nqn is left"
