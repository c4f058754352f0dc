# What: files added and withdrawn under the connected host, under I/O on another; a name given again is a new device
# Target: ours
# Host: kernel
# Needs: nvme fio
modules nvme-tcp
start_metadata
keep=$(file keep 24) first=$(file first 9) second=$(file second 17)
echo "$keep" >/tmp/list
start_target t 4420 --files-from /tmp/list
# reload COUNT: the target reads its list again, and then says how many files it serves.
reload() {
    kill -HUP "$target"
    wait_for 10 "the target serves $1" sh -c "tail -n 1 /tmp/target-t.log | grep -q '^serving $1 file'"
}
connect "$nqn" 4420
device "$nqn" 1
kept=$device
fio --name=beside --filename="$kept" --rw=randwrite --bs=16k --size=24M --direct=1 --ioengine=libaio --iodepth=4 \
    --rate=6M --verify=crc32c --verify_fatal=1 --do_verify=1 >/tmp/fio.log 2>&1 &
fio=$!

printf '%s\n' "$keep" "$first" >/tmp/list
reload 2
device "$nqn" 2
eq 'size' "$(blockdev --getsize64 "$device")" $((9 << 20))
same_bytes "$device" "$first" 9
echo "$keep" >/tmp/list
reload 1
wait_for 10 'the withdrawn namespace goes' gone "$nqn" 2

printf '%s\n' "$keep" "$second" >/tmp/list
reload 2
nsid=$(nvme list-ns "/dev/$(controller "$nqn")" | sed -n 's/.*:0x//p' | tail -n 1)
device "$nqn" $((0x$nsid))
eq 'size' "$(blockdev --getsize64 "$device")" $((17 << 20))
same_bytes "$device" "$second" 17

# What cannot be served changes nothing, and is said.
printf '%s\n' "$keep" "$second" /not/there >/tmp/list
kill -HUP "$target"
wait_for 10 'the bad list is refused' grep -q '/not/there' /tmp/target-t.log
same_bytes "$device" "$second" 17
wait $fio || fail "fio: $(cat /tmp/fio.log)"
