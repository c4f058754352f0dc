# shellcheck shell=sh
# What the cases of scripts/vm/test have in common. Runs in the guest, in a POSIX shell, as root, in /payload; a case
# is sourced after it. Everything a case starts or makes lives and dies with the guest, so nothing is cleaned up.
#
# A case fails at the first command that fails (set -e), and by `fail`; `skip` ends it as skipped.
set -eu
export NVFERRY_LOG=warn
metadata=http://127.0.0.1:8080/metadata
discovery=nqn.2014-08.org.nvmexpress.discovery
host_id=11111111-1111-1111-1111-111111111111
host_nqn=nqn.2014-08.org.nvmexpress:uuid:$host_id
configfs=/sys/kernel/config/nvmet
scratch=/tmp/scratch
mkdir -p $scratch

say() { echo "   $*"; }
fail() { echo "FAIL: $*"; exit 1; }
# The suite shows the reason.
skip() { echo "skipped: $*"; exit 77; }

# eq WHAT IS SHOULD_BE
eq() { [ "$2" = "$3" ] || fail "$1 is '$2', and should be '$3'"; }
# refused COMMAND...: the command fails; what it said is in $said.
refused() {
    if said=$("$@" 2>&1); then fail "$* went well, and should not have: $said"; fi
}
# contains TEXT PART
contains() { case $1 in *"$2"*) ;; *) fail "'$2' is not in: $1" ;; esac; }

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    tries=$(($1 * 20)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "$what: in vain"
        sleep 0.05
    done
}

# modules NAME...: loads them where they are not built in.
modules() {
    for module in "$@"; do
        modprobe -q "$module" 2>/dev/null || [ -d "/sys/module/$(echo "$module" | tr - _)" ] || builtin "$module" ||
            skip "this kernel has no $module"
    done
}
# Built into UML's kernel, of which not all have a directory in /sys/module.
builtin() {
    case $1 in
    nvme-tcp) [ -e /dev/nvme-fabrics ] ;;
    nvmet | nvmet-tcp | nvme-loop) [ -d $configfs ] ;;
    null_blk) [ -d /sys/kernel/config/nullb ] ;;
    dm-flakey | dm-delay | dm-mod) dmsetup targets | grep -q "^${1#dm-}" || [ "$1" = dm-mod ] ;;
    loop) [ -b /dev/loop0 ] ;;
    *) return 1 ;;
    esac
}

# file NAME MIB: a file of random bytes on tmpfs; prints its path.
file() {
    dd if=/dev/urandom of="$scratch/$1" bs=1M count="$2" 2>/dev/null
    echo "$scratch/$1"
}

# start LOG READY COMMAND...: runs a program in the background until it has said READY; its process id is in $started.
start() {
    log=$1 ready=$2
    shift 2
    : >"$log"
    "$@" >"$log" 2>&1 &
    started=$!
    tries=400
    until grep -q "$ready" "$log"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "$* does not say '$ready': $(cat "$log")"
        kill -0 $started 2>/dev/null || fail "$* ended: $(cat "$log")"
        sleep 0.05
    done
}
start_metadata() { start /tmp/metadata.log http:// bin/nvferry metadata --listen 127.0.0.1:8080 --no-store; }

# start_target NAME PORT ARGUMENTS...: `nvferry target`; its process id is in $target, its NQN in $nqn.
start_target() {
    name=$1 port=$2
    shift 2
    start "/tmp/target-$name.log" '^serving' bin/nvferry target --metadata-server $metadata --server-name "$name" \
        --traddr 127.0.0.1 --trsvcid "$port" "$@"
    target=$started nqn=nqn.2016-06.io.mc:$name
}
# The same words as an initiator, and a file of the segment fully overwritten and read back.
# verified NAME ARGUMENTS...
verified() {
    segment=$1
    shift
    bin/transfer-bench --mode=initiator --metadata_server=$metadata --segment_id="$segment" \
        --local_server_name=initiator --overwrite --verify --duration=0.3 --warmup=0 "$@" >/tmp/verified.log 2>&1 ||
        fail "verification with $*: $(tail -n 5 /tmp/verified.log)"
    grep '^Verified' /tmp/verified.log
}

# secrets HOST CONTROLLER: what programs of ours that are started from now on know; an empty text for none.
secrets() {
    unset NVFERRY_DHCHAP_SECRET NVFERRY_DHCHAP_CTRL_SECRET
    [ -z "$1" ] || export NVFERRY_DHCHAP_SECRET="$1"
    [ -z "$2" ] || export NVFERRY_DHCHAP_CTRL_SECRET="$2"
}

# connect NQN PORT OPTIONS...: the kernel's host.
connect() {
    connected=$1 port=$2
    shift 2
    nvme connect -t tcp -a 127.0.0.1 -s "$port" -n "$connected" -q $host_nqn -I $host_id "$@" >/tmp/connect.log 2>&1 ||
        fail "nvme connect $connected: $(cat /tmp/connect.log)"
}
# controller NQN: its name, such as nvme0.
controller() {
    for entry in /sys/class/nvme/nvme*; do
        [ "$(cat "$entry/subsysnqn" 2>/dev/null)" != "$1" ] || { basename "$entry"; return; }
    done
    return 1
}
# namespace NQN NSID: the block device. With multipath, the controller's child is nvme0c0n1, while the usable device,
# which belongs to the subsystem, is nvme0n1.
namespace() {
    for subsystem in /sys/class/nvme-subsystem/*; do
        [ "$(cat "$subsystem/subsysnqn")" = "$1" ] || continue
        for entry in "$subsystem"/nvme*n*; do
            case ${entry##*/} in nvme*c*n*) continue ;; esac
            [ "$(cat "$entry/nsid" 2>/dev/null)" = "$2" ] && [ -b "/dev/${entry##*/}" ] || continue
            echo "/dev/${entry##*/}"
            return
        done
    done
    return 1
}
# device NQN NSID: waits for the block device, and leaves it in $device. It appears a moment after connect returns; a
# write to a name that is no device would make a regular file, and a test of that would pass.
device() {
    wait_for 10 "namespace $2 of $1 appears" namespace "$1" "$2"
    device=$(namespace "$1" "$2")
    wait_for 10 "$device can be opened" dd if="$device" of=/dev/null bs=4096 count=1
}
gone() { ! namespace "$1" "$2"; }
disconnect() {
    nvme disconnect -n "$1" >/dev/null
    wait_for 10 "controller of $1 goes" no_controller "$1"
}
no_controller() { ! controller "$1"; }

# checked_io DEVICE: fio writes every block once with a checksum, in several sizes, and reads it back to check.
checked_io() {
    for size in 4k 128k; do
        fio --name="crc-$size" --filename="$1" --rw=randwrite --bs=$size --size=16M --direct=1 --ioengine=libaio \
            --iodepth=8 --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=7 --output-format=terse \
            >/tmp/fio.log 2>&1 || fail "fio with $size on $1: $(cat /tmp/fio.log)"
    done
}
# same_bytes A B MIB
same_bytes() {
    dd if="$1" of=/tmp/a.sum bs=1M count="$3" 2>/dev/null
    dd if="$2" of=/tmp/b.sum bs=1M count="$3" 2>/dev/null
    cmp /tmp/a.sum /tmp/b.sum || fail "$1 and $2 differ"
    rm /tmp/a.sum /tmp/b.sum
}

# nvmet_by_hand SUBSYSTEM PORT FILE...: the kernel's target, set up with nothing of ours, as another program would.
nvmet_by_hand() {
    subsystem=$configfs/subsystems/$1 port=$configfs/ports/$2 service=$2 nsid=0
    shift 2
    mkdir "$subsystem"
    echo 1 >"$subsystem/attr_allow_any_host"
    for path in "$@"; do
        nsid=$((nsid + 1))
        mkdir "$subsystem/namespaces/$nsid"
        printf %s "$path" >"$subsystem/namespaces/$nsid/device_path"
        echo 1 >"$subsystem/namespaces/$nsid/enable"
    done
    mkdir "$port"
    echo ipv4 >"$port/addr_adrfam"
    echo tcp >"$port/addr_trtype"
    echo 127.0.0.1 >"$port/addr_traddr"
    echo "$service" >"$port/addr_trsvcid"
    ln -s "$subsystem" "$port/subsystems/"
}
# publish NAME NQN PORT FILE...: the segment's description, as the engine of another make would write it.
publish() {
    buffers='' id=0 name=$1 subnqn=$2 service=$3
    shift 3
    for path in "$@"; do
        id=$((id + 1))
        bytes=$(blockdev --getsize64 "$path" 2>/dev/null || stat -c %s "$path")
        buffers="$buffers${buffers:+,}{\"id\":$id,\"path\":\"$path\",\"size\":$bytes,\"align\":0}"
    done
    body="{\"name\":\"$name\",\"protocol\":\"nvmeof_generic\",\"tcp_data_port\":0,\
\"timestamp\":\"2026-01-01 00:00:00.000000\",\"nvmeof_generic_trid\":{\"trtype\":\"tcp\",\"adrfam\":\"ipv4\",\
\"traddr\":\"127.0.0.1\",\"trsvcid\":\"$service\",\"subnqn\":\"$subnqn\"},\"file_buffers\":[$buffers]}"
    wait_for 10 "$name can be published" put "$name" "$body"
}
# Busybox's nc may leave before the answer has come: PUT can be repeated.
put() {
    {
        printf 'PUT /metadata?key=mooncake%%2Fram%%2F%s HTTP/1.1\r\nHost: localhost\r\n' "$1"
        printf 'Connection: close\r\nContent-Length: %s\r\n\r\n%s' "${#2}" "$2"
    } | nc 127.0.0.1 8080 | grep -q '^HTTP/1.1 200 '
}

# bad_device MIB BLOCKS: /dev/bad, in memory; reading or writing BLOCKS, such as +2048-2055, fails.
bad_device() {
    bad=/sys/kernel/config/nullb/bad
    mkdir $bad
    echo "$1" >$bad/size
    echo 1 >$bad/memory_backed
    echo "$2" >$bad/badblocks
    echo 1 >$bad/power
    [ -b /dev/bad ] || fail "null_blk made no /dev/bad"
}
# bad_block_read SEGMENT ARGUMENTS...: the bench on a segment of /dev/bad, whose 4 KiB at 1 MiB are bad.
bad_block_read() {
    segment=$1
    shift
    bad_block_range 1M "$@" >/dev/null || fail "blocks before the bad ones cannot be read"
    refused bad_block_range 1028k "$@"
    contains "$said" 1048576
    say "$(echo "$said" | tail -n 1)"
    bad_block_range 1M "$@" >/dev/null || fail "one bad block ended the connection for good"
}
bad_block_range() {
    range=$1
    shift
    bin/transfer-bench --mode=initiator --metadata_server=$metadata --segment_id="$segment" --queue_depth=1 \
        --local_server_name=initiator --block_size=4k --pattern=sequential --warmup=0 --duration=1 --batch_size=1 \
        --range="$range" "$@" 2>&1
}

# loopback FILE ARGUMENTS...: the bench as target and host in one process. Every byte of the file is written, read back and
# compared; afterwards nothing of it is left in the kernel.
loopback() {
    backing=$1
    shift
    before=$(cksum <"$backing")
    for operation in read write; do
        bin/transfer-bench --mode=loopback --files="$backing" --operation=$operation --verify --overwrite --duration=0.3 \
            --warmup=0 --queue_depth=8 --workers=1 "$@" >/tmp/loopback.log 2>&1 ||
            fail "loopback with $*: $(tail -n 8 /tmp/loopback.log)"
        grep -q '^Verified.* no mismatch' /tmp/loopback.log || fail "nothing was verified: $(cat /tmp/loopback.log)"
        nothing_left
    done
    [ "$before" != "$(cksum <"$backing")" ] || fail "the bytes did not go to $backing"
}
# Neither controller nor subsystem, port, host or record, and no regular file where a device should be.
nothing_left() {
    left=$(ls /sys/class/nvme $configfs/subsystems $configfs/ports $configfs/hosts /run/nvferry/nvmet 2>/dev/null |
        grep -v -e ':$' -e '^$' || true)
    eq 'what is left in the kernel' "$left" ''
    for entry in /dev/nvme*n*; do
        [ ! -e "$entry" ] || fail "$entry is left"
    done
}
# fresh_loop FILE: a loop device on it, in $loop.
fresh_loop() {
    loop=$(losetup -f)
    losetup "$loop" "$1"
}
# small_block_fs BLOCK: an ext4 file system of that block, in memory, mounted; its directory is in $mounted.
small_block_fs() {
    truncate -s 48M "$scratch/fs-$1"
    mkfs.ext4 -q -b "$1" -O ^has_journal "$scratch/fs-$1"
    fresh_loop "$scratch/fs-$1"
    mounted=/mnt/fs-$1
    mkdir -p "$mounted"
    mount "$loop" "$mounted"
}
