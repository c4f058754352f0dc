# What: discover, connect, list, identify, log pages and disconnect of nvme-cli show sane values
# Target: ours
# Host: kernel
# Needs: nvme jq
modules nvme-tcp
start_metadata
start_target t 4420 --file "$(file a 64)" --file "$(file b 33)"

# json WHAT FILTER SHOULD_BE COMMAND...
json() {
    what=$1 filter=$2 should_be=$3
    shift 3
    "$@" -o json >/tmp/json || fail "$* failed"
    eq "$what" "$(jq -r "$filter" /tmp/json)" "$should_be"
}
json 'the discovered subsystem' '.records | map("\(.trtype) \(.adrfam) \(.traddr) \(.trsvcid) \(.subnqn)") | join(", ")' \
    "tcp ipv4 127.0.0.1 4420 $nqn" nvme discover -t tcp -a 127.0.0.1 -s 4420 -q $host_nqn -I $host_id

connect "$nqn" 4420
device "$nqn" 2
second=$device
device "$nqn" 1
controller=/dev/$(controller "$nqn")
json 'nvme list' '.Devices | sort_by(.NameSpace) | map("\(.NameSpace) \(.PhysicalSize) \(.ModelNumber)") | join(", ")' \
    '1 67108864 nvferry, 2 34603008 nvferry' nvme list
json 'the path' '.[0].Subsystems[0].Paths[0] | "\(.Transport) \(.State)"' 'tcp live' nvme list-subsys
# 4100 units of 16 bytes: a command and 64 KiB of data in one capsule.
json 'id-ctrl' '"\(.subnqn) \(.cntrltype) \(.ver) \(.mdts) \(.sqes) \(.cqes) \(.kas > 0) \(.ioccsz) \(.nn >= 2)"' \
    "$nqn 1 66560 8 102 68 true 4100 true" nvme id-ctrl "$controller"
json 'id-ns' '"\(.nsze) \(.ncap) \(.nuse) \(.lbafs[.flbas].ds) \(.lbafs[.flbas].ms) \(.nmic)"' '131072 131072 131072 9 0 1' \
    nvme id-ns "$device"
json 'id-ns of one that is not there' .nsze 0 nvme id-ns "$controller" -n 7
json 'list-ns' '.nsid_list | map(.nsid) | join(" ")' '1 2' nvme list-ns "$controller"
json 'list-ns after 1' '.nsid_list | map(.nsid) | join(" ")' '2' nvme list-ns "$controller" -n 2
uuid=$(cat "/sys/block/${device##*/}/uuid")
[ "$uuid" != "$(cat "/sys/block/${second##*/}/uuid")" ] || fail "both namespaces are called $uuid"
json 'ns-descs' '.["ns-descs"] | map(select(.type == "uuid" or .type == "csi")) | map(.uuid // .csi) | join(" ")' \
    "$uuid 0" nvme ns-descs "$controller" -n 1

# What the log pages count is what was done.
dd if=/dev/zero of="$device" bs=1M count=8 oflag=direct 2>/dev/null
json 'smart-log' '"\(.critical_warning) \(.avail_spare) \(.percent_used) \(.media_errors) \(.data_units_written)"' \
    '0 100 0 0 17' nvme smart-log "$controller"
json 'error-log' '.errors | length' 2 nvme error-log "$controller" -e 2
json 'fw-log' '.[] | .["Active Firmware Slot (afi)"]' 1 nvme fw-log "$controller"
json 'changed-ns-list-log' '.[] | select(type == "object") | length' 0 nvme changed-ns-list-log "$controller"
# Commands Supported and Effects: read (02h) and write (01h) are supported, and writing changes data.
nvme get-log "$controller" --log-id=5 --log-len=4096 --raw-binary >/tmp/effects
eq 'effects of write' "$(dd if=/tmp/effects bs=4 skip=257 count=1 2>/dev/null | od -An -tx4 | tr -d ' ')" 00000003
eq 'effects of read' "$(dd if=/tmp/effects bs=4 skip=258 count=1 2>/dev/null | od -An -tx4 | tr -d ' ')" 00000001
refused nvme get-log "$controller" --log-id=0x3f --log-len=512
contains "$said" 'Invalid Log Page'

disconnect "$nqn"
[ ! -e "$device" ] || fail "$device is still there"
connect $discovery 4420
disconnect $discovery
