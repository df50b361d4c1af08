#!/bin/bash
# A FUSE file system whose server stops to answer, with programs that run from it: `conn tail`, `conn agent`, `conn run` and `conn list`
# start, show the connections of others and of these programs with their owners, go on to look into other processes, and end at SIGTERM.
#
# usage: tests/hung-filesystem.sh        as root
#
# CONN and HUNG name ready binaries; without them cargo builds them. What waits for the file system cannot be killed until its
# connection is aborted, which is done at the end, whatever happens.

set -euo pipefail
# Not the agent of this machine.
export CONN_SOCKET=
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${CONN:-}" ] || [ -z "${HUNG:-}" ]; then
    cargo build --quiet -p conn-user -p conn-tests
    CONN=${CARGO_TARGET_DIR:-target}/debug/conn
    HUNG=${CARGO_TARGET_DIR:-target}/debug/hung-filesystem
fi
if [ ! -c /dev/fuse ]; then
    echo "skipped: this kernel has no FUSE"
    exit 0
fi

other=$(realpath "$HUNG")
dir=$(mktemp -d /tmp/conn-hung.XXXXXX)
mkdir "$dir/mnt"
connection=
started=()
declare -A inputs=() pids=()
cleanup() {
    if [ -n "$connection" ]; then
        mountpoint -q /sys/fs/fuse/connections || mount -t fusectl none /sys/fs/fuse/connections
        echo 1 >"/sys/fs/fuse/connections/$connection/abort" || true
    fi
    kill "${started[@]}" 2>/dev/null || true
    umount -l "$dir/mnt" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

fail() {
    echo "FAILED: $*" >&2
    tail -n 5 "$dir"/*.err >&2 || true
    exit 1
}
# A command that has to become true, and how long that may take: far longer than it does on a busy machine.
within() {
    local seconds=$1 what=$2 end
    shift 2
    end=$((SECONDS + seconds))
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "$what: not within $seconds s"
        sleep 0.1
    done
}
has() { grep -q -- "$1" "$2" 2>/dev/null; }
ended() { ! kill -0 "$1" 2>/dev/null || [ "$(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null)" = Z ]; }

# Each has a FIFO as standard input, which the shell holds open.
start() { # name, command...
    local name=$1
    shift
    mkfifo "$dir/$name.in"
    "$@" <"$dir/$name.in" >"$dir/$name.out" 2>"$dir/$name.err" &
    started+=($!)
    exec {fd}>"$dir/$name.in"
    inputs[$name]=$fd
    pids[$name]=${started[-1]}
}

start server "$HUNG" serve "$dir/mnt" "$HUNG"
within 30 "the file system is mounted" has '^[0-9]' "$dir/server.out"
connection=$(head -1 "$dir/server.out")
start listener "$HUNG" listen
within 30 "a port" has '^[0-9]' "$dir/listener.out"
port=$(head -1 "$dir/listener.out")
for client in before tail agent; do
    start "hung_$client" "$dir/mnt/program" client "$port"
    within 30 "a program runs" has ready "$dir/hung_$client.out"
done
echo >&"${inputs[hung_before]}"
within 30 "it connects" has connected "$dir/hung_before.out"
echo >&"${inputs[server]}"
within 30 "the file system hangs" has hangs "$dir/server.out"

# A program of a usual file system connects and ends.
connect() {
    { echo; sleep 0.5; } | "$HUNG" client "$port" >/dev/null
}
# Until all is known of one when it closes its connection.
inspected() {
    connect
    has "\"kind\":\"close\".*\"dir\":\"out\".*\"exe\":\"$other\".*\"exe_sha256\":\"" "$1"
}
traces() { # name, fd of the program that connects now, its pid, the command
    local name=$1 fd=$2 hung=$3 pid begin
    shift 3
    "$@" >"$dir/$name.out" 2>"$dir/$name.err" &
    pid=$!
    started+=("$pid")
    within 60 "$name starts" has 'tracing with backend' "$dir/$name.err"
    echo >&"$fd"
    within 60 "$name shows who connects from the hung file system" \
        has "\"kind\":\"connect\".*\"pid\":$hung,.*\"exe\":\"$dir/mnt/program\"" "$dir/$name.out"
    within 60 "$name still looks into other processes" inspected "$dir/$name.out"
    begin=$(date +%s%N)
    kill -TERM "$pid"
    within 30 "$name ends" ended "$pid"
    echo "passed: $name, ended $((($(date +%s%N) - begin) / 1000000)) ms after SIGTERM"
}

traces tail "${inputs[hung_tail]}" "${pids[hung_tail]}" "$CONN" tail --json --no-rules
printf '[events]\nfile = "-"\n' >"$dir/agent.toml"
traces agent "${inputs[hung_agent]}" "${pids[hung_agent]}" "$CONN" agent --config "$dir/agent.toml"

"$CONN" run --output "$dir/report" -- "$HUNG" client "$port" <<<"" >/dev/null 2>"$dir/run.err" &
run=$!
started+=("$run")
within 60 "run ends" ended "$run"
has "127.0.0.1 *$port" "$dir/report" || fail "run: $(cat "$dir/report")"
echo "passed: run"

"$CONN" list --json >"$dir/list.out" 2>"$dir/list.err" &
list=$!
started+=("$list")
within 60 "list ends" ended "$list"
has "\"exe\":\"$dir/mnt/program\"" "$dir/list.out" || fail "list does not show the owner"
echo "passed: list"
