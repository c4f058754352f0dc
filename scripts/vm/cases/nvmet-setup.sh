# What: the set-up itself: plan, status and connected hosts, buffered and direct, ipv6, loop, allowed hosts and secrets, two engines, what cannot be
# Target: kernel (by us)
# Host: kernel (by hand)
# Needs: setpriv
# Timeout: 120
modules nvmet-tcp nvme-tcp nvme-loop
a=$(file a 8)
b=$(file b 8)
start_metadata
stop() {
    kill -TERM "$1"
    wait "$1" || fail "the target: $(cat /tmp/target-*.log)"
}
plan() { bin/nvferry target plan --server-name t --traddr 127.0.0.1 --trsvcid 4420 --file "$a" "$@"; }
# nvmet fills a serial number up with blanks.
attribute() { sed "s/ *$//" "$configfs/$1"; }

say 'the plan is what is done'
plan >/tmp/plan
for options in '--direct on' '--direct off'; do
    # shellcheck disable=SC2086
    start_target t 4420 --target-driver nvmet --file "$a" $options
    # shellcheck disable=SC2086
    contains "$(plan $options)" 'nothing to do'
    contains "$(plan)" "process $target serves this subsystem"
    wanted=0
    [ "$options" = '--direct on' ] || wanted=1
    eq buffered_io "$(attribute "subsystems/$nqn/namespaces/1/buffered_io")" $wanted
    # Every object and value of the plan is there; what is not there was optional.
    if [ $wanted = 0 ]; then
        awk '$1 == "make" { print $2 }' /tmp/plan | while read -r path; do
            [ -d "$configfs/$path" ] || fail "$path was planned and is not there"
        done
        awk '$1 == "set" { print $2, $4 }' /tmp/plan | while read -r path value; do
            eq "$path" "$(attribute "$path")" "$value"
        done
    fi
    connect "$nqn" 4420
    device "$nqn" 1
    eq 'the uuid' "$(cat "/sys/block/${device##*/}/uuid")" "$(attribute "subsystems/$nqn/namespaces/1/device_uuid")"
    eq 'the nguid' "$(cat "/sys/block/${device##*/}/nguid")" "$(attribute "subsystems/$nqn/namespaces/1/device_nguid")"
    checked_io "$device"
    same_bytes "$device" "$a" 8
    disconnect "$nqn"
    stop "$target"
    nothing_left
done

say 'ipv6'
ip link set lo up 2>/dev/null || true
if [ -e /proc/net/if_inet6 ] && grep -q ' lo$' /proc/net/if_inet6; then
    start /tmp/target-six.log '^serving' bin/nvferry target --metadata-server $metadata --server-name six --traddr ::1 \
        --trsvcid 4420 --target-driver nvmet --file "$a"
    nvme connect -t tcp -a ::1 -s 4420 -n nqn.2016-06.io.mc:six -q $host_nqn -I $host_id >/tmp/connect.log
    device nqn.2016-06.io.mc:six 1
    same_bytes "$device" "$a" 8
    disconnect nqn.2016-06.io.mc:six
    stop "$started"
    nothing_left
else
    say 'this kernel has no ipv6'
fi

say 'trtype=loop'
start_target t 4420 --target-driver nvmet --trtype loop --file "$a"
nvme connect -t loop -n "$nqn" -q $host_nqn -I $host_id >/tmp/connect.log
device "$nqn" 1
checked_io "$device"
same_bytes "$device" "$a" 8
disconnect "$nqn"
stop "$target"
nothing_left

say 'allowed hosts, one of them with a secret'
secret=$(bin/nvferry secret)
known=nqn.2014-08.org.nvmexpress:uuid:22222222-2222-2222-2222-222222222222
printf '%s\n' $host_nqn "$known $secret" >/tmp/hosts
chmod 600 /tmp/hosts
start_target t 4420 --target-driver nvmet --file "$a" --allowed-hosts /tmp/hosts --metrics-listen 127.0.0.1:9420
contains "$(plan --allowed-hosts /tmp/hosts)" 'nothing to do'
# Who is connected, where this kernel tells it: not those who may connect.
connected_hosts() { bin/nvferry target status --json | tr -d ' \n' | sed 's/.*"hosts":\[\([^]]*\)\].*/\1/'; }
eq 'who is connected' "$(connected_hosts)" ''
connect "$nqn" 4420
device "$nqn" 1
if [ -d /sys/kernel/debug/nvmet ]; then
    contains "$(connected_hosts)" "{\"nqn\":\"$host_nqn\",\"address\":\"127.0.0.1\",\"cntlid\":"
    contains "$(bin/nvferry target status --interval 0)" "$host_nqn"
    say "connected: $(connected_hosts)"
else
    say 'this kernel does not tell who is connected'
fi
disconnect "$nqn"
eq 'who is connected' "$(connected_hosts)" ''
as() {
    host=$1
    shift
    nvme connect -t tcp -a 127.0.0.1 -s 4420 -n "$nqn" -q "$host" -I "${host##*:}" "$@"
}
refused as nqn.2014-08.org.nvmexpress:uuid:33333333-3333-3333-3333-333333333333
refused as $known
refused as $known --dhchap-secret="$(bin/nvferry secret)"
as $known --dhchap-secret="$secret" >/dev/null
device "$nqn" 1
same_bytes "$device" "$a" 8
disconnect "$nqn"
stop "$target"
nothing_left

say 'two engines; either ends first, by a signal or by being killed'
for ends in 'one TERM' 'two TERM' 'one KILL' 'two KILL'; do
    start_target one 4420 --target-driver nvmet --file "$a" --allowed-hosts /tmp/hosts
    one=$target
    start_target two 4421 --target-driver nvmet --file "$b"
    two=$target
    case $ends in one*) first=$one port=4421 other=two data=$b ;; *) first=$two port=4420 other=one data=$a ;; esac
    kill -"${ends#* }" "$first"
    wait "$first" || [ "${ends#* }" = KILL ] || fail "$ends: $(cat /tmp/target-*.log)"
    connect nqn.2016-06.io.mc:$other $port
    device nqn.2016-06.io.mc:$other 1
    same_bytes "$device" "$data" 8
    disconnect nqn.2016-06.io.mc:$other
    if [ "${ends#* }" = KILL ]; then
        case $ends in
        one*) start_target one 4420 --target-driver nvmet --file "$a" ;;
        two*) start_target two 4421 --target-driver nvmet --file "$b" ;;
        esac
        stop "$target"
    fi
    case $ends in one*) stop "$two" ;; *) stop "$one" ;; esac
    nothing_left
done

say 'what cannot be'
serve() {
    timeout 20 bin/nvferry target --metadata-server $metadata --server-name t --target-driver nvmet --file "$a" "$@"
}
# The metadata service listens there.
refused serve --traddr 127.0.0.1 --trsvcid 8080
contains "$said" 'choose another trsvcid'
start_target one 4420 --target-driver nvmet --file "$b"
refused serve --traddr 127.0.0.1 --trsvcid 4420
contains "$said" "nvferry process $target"
stop "$target"
refused serve --traddr 192.0.2.1 --trsvcid 4420
contains "$said" 'not on this machine'
refused serve --traddr 127.0.0.1 --trsvcid 4420 --trtype rdma
contains "$said" module
nothing_left
# Port 0 takes a free one.
start_target t 0 --target-driver nvmet --file "$a"
connect "$nqn" "$(cat $configfs/ports/*/addr_trsvcid)"
disconnect "$nqn"
stop "$target"
nothing_left
# Not root.
chmod 666 "$a"
refused /usr/bin/setpriv --reuid=65534 --regid=65534 --clear-groups bin/nvferry target --metadata-server $metadata --server-name t \
    --target-driver nvmet --traddr 127.0.0.1 --trsvcid 4420 --file "$a"
contains "$said" root
contains "$said" userspace
nothing_left
# configfs not mounted: it is mounted.
umount /sys/kernel/config
start_target t 4420 --target-driver nvmet --file "$a"
[ -d $configfs/subsystems/"$nqn" ] || fail 'configfs was not mounted'
stop "$target"
nothing_left
