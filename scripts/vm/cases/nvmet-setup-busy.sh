# What: a namespace is taken away while hosts use it, and while its device hangs: the target answers by its deadline, others go on
# Target: kernel (by us)
# Host: kernel (by hand)
# Needs: dmsetup fio
# Timeout: 120
modules nvmet-tcp nvme-tcp loop dm-mod
start_metadata
a=$(file a 16)
b=$(file b 16)
fresh_loop "$b"
dmsetup create hangs --table "0 32768 linear $loop 0"
[ -b /dev/mapper/hangs ] || dmsetup mknodes
list=/tmp/list
printf '%s\n' "$a" /dev/mapper/hangs >$list
start_target t 4420 --target-driver nvmet --files-from $list
connect "$nqn" 4420
device "$nqn" 2
hanging=$device
device "$nqn" 1
steady=$device
hammer() {
    fio --name="hammer" --filename="$1" --rw=randrw --bs=4k --direct=1 --ioengine=libaio --iodepth=16 --time_based \
        --runtime="$2" --size=16M --output-format=terse >"/tmp/fio-${1##*/}.log" 2>&1
}
# Reads and writes that the device has done: fields 1 and 5.
done_so_far() { awk '{ print $1 + $5 }' /sys/block/dm-0/stat; }
has_done_more_than() { [ "$(done_so_far)" -gt "$1" ]; }
# The host waits for answers, and none comes.
hangs() {
    path=$(echo /sys/block/"${hanging##*/}" | sed 's/n\([0-9]*\)$/c*n\1/')
    then=$(awk '{ print $1, $5, $9 }' $path/stat)
    sleep 0.5
    [ "$then" = "$(awk '{ print $1, $5, $9 }' $path/stat)" ] && [ "${then##* }" -gt 0 ]
}
offered=$configfs/subsystems/$nqn

say 'under load'
before=$(done_so_far)
hammer "$hanging" 20 &
hammer "$steady" 4 &
steadily=$!
wait_for 10 'I/O reaches the device' has_done_more_than "$((before + 16))"
echo "$a" >$list
kill -HUP "$target"
wait_for 10 'the namespace goes under load' [ ! -d "$offered/namespaces/2" ]
wait_for 10 'its device goes' gone "$nqn" 2
wait $steadily || fail "the other namespace met an error: $(cat "/tmp/fio-${steady##*/}.log")"

say 'while its device hangs'
printf '%s\n' "$a" /dev/mapper/hangs >$list
kill -HUP "$target"
device "$nqn" 3
hanging=$device
before=$(done_so_far)
hammer "$hanging" 20 &
wait_for 10 'I/O reaches the device' has_done_more_than "$((before + 16))"
dmsetup suspend --noflush --nolockfs hangs
# What was answered before makes room for what now hangs: the guest has one processor, and fio may not have had it yet.
wait_for 10 'I/O hangs' hangs
echo "$a" >$list
kill -HUP "$target"
wait_for 40 'the target tells that it waits' grep -q 'not done by its deadline' /tmp/target-t.log
dmsetup resume hangs
wait_for 10 'it goes once its I/O ends' [ ! -d "$offered/namespaces/3" ]
dd if="$steady" of=/dev/null bs=4k count=4 iflag=direct 2>/dev/null || fail 'the other namespace does not answer'
disconnect "$nqn"
kill -TERM "$target"
wait "$target" || fail "the target: $(cat /tmp/target-t.log)"
nothing_left
