# What: killed at every step of set-up and of tear-down: the next start works; another program's objects are byte for byte as before
# Target: kernel (by us)
# Host: none
# Needs: strace
# Timeout: 240
modules nvmet-tcp
a=$(file a 1)
b=$(file b 1)
start_metadata
# Another program's subsystem, host and port, which serve while all this happens.
nvmet_by_hand nqn.2020-01.org.example:theirs 4430 "$a"
mkdir $configfs/hosts/nqn.2020-01.org.example:h0
mkdir $configfs/subsystems/nqn.2020-01.org.example:idle
ln -s $configfs/hosts/nqn.2020-01.org.example:h0 $configfs/subsystems/nqn.2020-01.org.example:idle/allowed_hosts/

# Every directory and link with its inode number, and every attribute with its value.
dump() {
    find $configfs -exec stat -c '%n %F %i' {} + | grep -v 'regular file' | LC_ALL=C sort
    find $configfs -type f | LC_ALL=C sort | while read -r attribute; do
        echo "$attribute = $(cat "$attribute" 2>&1)"
    done
}
dump >/tmp/before
grep -q '4430' /tmp/before || fail 'the dump shows nothing'

# serve PROGRAM...: nvferry target for the file b. Of the two hosts that may come, another program made one, and the other
# has a secret.
printf '%s\n' nqn.2020-01.org.example:h0 "nqn.2020-01.org.example:h1 $(bin/nvferry secret)" >/tmp/hosts
chmod 600 /tmp/hosts
serve() {
    # In the background only: the shell becomes it.
    exec "$@" bin/nvferry target --metadata-server $metadata --server-name t --traddr 127.0.0.1 --trsvcid 4420 \
        --target-driver nvmet --allowed-hosts /tmp/hosts --file "$b"
}
changing=mkdir,symlink,rmdir,unlink,write
# As unharmed: starts, serves, is as the plan wants it, stops; then nvmet is as it was.
recovered() {
    : >/tmp/again
    serve >/tmp/again 2>&1 &
    again=$!
    wait_for 10 "a start after $1" grep -q ^serving /tmp/again
    eq "ports after $1" "$(ls $configfs/ports | wc -l)" 2
    contains "$(bin/nvferry target plan --server-name t --traddr 127.0.0.1 --trsvcid 4420 \
        --allowed-hosts /tmp/hosts --file "$b")" 'nothing to do'
    kill -TERM $again
    wait $again || fail "a stop after $1: $(cat /tmp/again)"
    dump >/tmp/after
    cmp /tmp/before /tmp/after || fail "after $1: $(diff /tmp/before /tmp/after)"
    eq "records after $1" "$(ls /run/nvferry/nvmet)" ''
}
recovered nothing

# strace counts each call by its name, and kills as the call begins: what came before is done, this is not. Calls that
# note something in the record are among them, so both "not made" and "made, and not yet noted" are met.
# killed_in_setup CALL K: fails where there is no K-th.
killed_in_setup() {
    : >/tmp/killed
    serve strace -f -qq -o /tmp/trace -e trace=$changing -e "inject=$1:signal=KILL:when=$2" >/tmp/killed 2>&1 &
    tracer=$!
    wait_for 10 "$1 $2 of the set-up" ended_or_serving $tracer
    if grep -q ^serving /tmp/killed; then
        kill -KILL "$(pidof nvferry | tr ' ' '\n' | grep -vx "$metadata_server")"
        wait $tracer || true
        return 1
    fi
    wait $tracer && fail "$1 $2: it was not killed: $(cat /tmp/killed)"
    return 0
}
ended_or_serving() { grep -q ^serving /tmp/killed || ! kill -0 "$1"; }
metadata_server=$started

killed=0
for call in mkdir symlink write; do
    k=1
    while killed_in_setup $call $k; do
        recovered "a kill at $call $k of the set-up"
        killed=$((killed + 1)) k=$((k + 1))
    done
    # That one was killed while it served.
    recovered "a kill while serving"
    say "set-up: killed at each of $((k - 1)) $call"
done
[ $killed -ge 30 ] || fail "only $killed kills: the set-up has more steps"

# killed_in_teardown CALL K
killed_in_teardown() {
    : >/tmp/killed
    serve >/tmp/killed 2>&1 &
    server=$!
    wait_for 10 'a start' grep -q ^serving /tmp/killed
    : >/tmp/attached
    strace -f -o /tmp/trace -e trace=$changing -e "inject=$1:signal=KILL:when=$2" -p $server 2>/tmp/attached &
    tracer=$!
    wait_for 10 'strace attaches' grep -q attached /tmp/attached
    kill -TERM $server
    status=0
    wait $server || status=$?
    wait $tracer || true
    [ $status -ne 0 ]
}
killed=0
for call in unlink rmdir write; do
    k=1
    while killed_in_teardown $call $k; do
        recovered "a kill at $call $k of the tear-down"
        killed=$((killed + 1)) k=$((k + 1))
    done
    say "tear-down: killed at each of $((k - 1)) $call"
done
[ $killed -ge 12 ] || fail "only $killed kills: the tear-down has more steps"
