#!/bin/bash
# Shows a baseline at work: what was learnt under load is silent under the same load, and what is new is reported, once each.
#
# usage: tests/baseline.sh                as root, on Debian
#
# Installs what is missing of the Debian packages below (they stay installed), and starts servers of its own on loopback, as
# tests/real-servers.sh does. `conn learn` watches nginx and PostgreSQL under load; then `conn tail` judges the same load by
# what was learnt, and then a new peer, a new listener and a new program, which must be exactly one alert each. The three are
# accepted, and done again they must be silent. Alerts about processes that are none of the script's are counted and reported, but no
# part of a verdict: a machine has others at work. Ends only what it started. Takes about three minutes. Exit status 1: a check failed.
#
# CONN names a ready binary; without it cargo builds one. LOAD is how many seconds the load takes, 60 if nothing is said. BACKEND
# names one of conn's backends.

# shellcheck disable=SC2034
script=baseline
packages=(nginx postgresql wrk curl python3 util-linux iproute2)
. "$(dirname "$0")/servers.sh"
install_packages

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
if [ -z "${CONN:-}" ]; then
    cargo build --quiet -p conn-user
    CONN=$target/debug/conn
fi
seconds=${LOAD:-60}
backend=${BACKEND:-auto}
python=/usr/bin/python3

mapfile -t ports < <("$python" -c '
import socket
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(s.getsockname()[1] for s in taken), sep="\n")')
http=${ports[0]} sql=${ports[1]} spare=${ports[2]}
serve_nginx "$http"
serve_postgres "$sql"

# --- the load -------------------------------------------------------------------------------------------------------------------

# Clients of both servers: long connections and such that come and go. Their process ids are then in `load`.
load() {
    local duration=$1
    load=()
    start wrk wrk -t 2 -c 20 -d "${duration}s" "http://127.0.0.1:$http/"
    load+=($!)
    start pgbench "$pg_bin/pgbench" "${pg[@]}" -c 4 -j 1 -T "$duration" postgres
    load+=($!)
    start churn "$pg_bin/pgbench" "${pg[@]}" -C -c 2 -T "$duration" postgres
    load+=($!)
    # shellcheck disable=SC2016 # the shell that is started expands them
    start visits bash -c 'end=$((SECONDS + $1)); while [ "$SECONDS" -lt "$end" ]; do curl -fs "$2" >/dev/null; sleep 0.2; done' \
        visits "$duration" "http://127.0.0.1:$http/"
    load+=($!)
    start script "$python" -c '
import sys, time, urllib.request
end = time.monotonic() + int(sys.argv[1])
while time.monotonic() < end:
    urllib.request.urlopen(sys.argv[2]).read()
    time.sleep(0.2)
' "$duration" "http://127.0.0.1:$http/"
    load+=($!)
}

# --- checks ---------------------------------------------------------------------------------------------------------------------

passed=0 failed=0
check() {
    local name=$1
    shift
    printf '%-74s ' "$name"
    if "$@"; then
        passed=$((passed + 1))
        echo ok
    else
        failed=$((failed + 1))
        echo FAILED
    fi
}

# The alerts of a file that were raised about processes of this script, as rule=exe in order; those of others are counted.
foreign=0
own() {
    "$python" -c '
import json, sys
mine, path, keep = int(sys.argv[1]), sys.argv[2], sys.argv[3]
others = 0
with open(path) as lines, open(keep, "w") as kept:
    for line in lines:
        event = json.loads(line)
        if event["kind"] != "alert" or event["alert"]["phase"] != "raised":
            continue
        process = event["process"]
        if mine in [process["pid"]] + [a["pid"] for a in process["ancestors"]]:
            print(event["alert"]["rule"] + "=" + process["exe"].rsplit("/", 1)[-1])
            kept.write(line)
        else:
            others += 1
print(others, file=sys.stderr)
' "$$" "$1" "$dir/own.jsonl" 2>"$dir/others" | sort
    foreign=$((foreign + $(tail -1 "$dir/others")))
}
reported() {
    local want alerts
    want=$(printf '%s\n' "${@:2}" | sort)
    own "$1" >"$dir/reported"
    alerts=$(cat "$dir/reported")
    [ "$alerts" = "$want" ] || {
        printf '\nexpected:\n%s\ntold:\n%s\n' "$want" "$alerts" >&2
        return 1
    }
}
has() {
    grep -q -- "$1" "$2"
}

# Judges by the baseline while a function runs.
watch() {
    local name=$1
    shift
    "$CONN" tail --backend "$backend" --json --alerts --rules "$dir/baseline.toml" >"$dir/$name.jsonl" 2>"$dir/$name.log" </dev/null &
    started+=($!)
    local conn=$!
    until_works "$name" grep -q "conn: tracing" "$dir/$name.log"
    "$@"
    # What is in the ring is read.
    sleep 1
    kill "$conn"
    wait "$conn"
}
whole_load() {
    load "$seconds"
    wait "${load[@]}"
}
python_version=$(basename "$(realpath "$python")")
cp "$(realpath "$(command -v curl)")" "$dir/new-tool"
news() {
    # A known program goes to a host that none went to: nobody answers there, but the attempt counts.
    curl -s --max-time 1 "http://192.0.2.9:81/" >/dev/null || true
    # A known program listens that only connected.
    "$python" -c '
import socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    time.sleep(0.5)
' "$spare"
    # A program that used no network.
    "$dir/new-tool" -fs "http://127.0.0.1:$http/" >/dev/null
}

# --- what happens ---------------------------------------------------------------------------------------------------------------

# Nothing leaves the machine: the other host is an address of its own.
if ! ip -4 addr show dev lo | grep -q ' 192\.0\.2\.9/'; then
    ip addr add 192.0.2.9/32 dev lo
    address_made=1
fi
finish_all() {
    [ -z "${address_made:-}" ] || ip addr del 192.0.2.9/32 dev lo || true
    finish
}
trap finish_all EXIT

load $((seconds + 10))
"$CONN" learn --for "${seconds}s" --backend "$backend" -o "$dir/baseline.toml" 2>"$dir/learn.log" || {
    cat "$dir/learn.log" >&2
    exit 1
}
wait "${load[@]}"
echo "learnt: $(grep -m1 'events; ' "$dir/baseline.toml" | cut -c3-), $(wc -l <"$dir/baseline.toml") lines; $(grep -m1 Requests/sec "$dir/wrk.log" | tr -s ' '), $(grep ^tps "$dir/churn.log" | cut -d' ' -f3) connections/s"
takes() {
    "$CONN" check "$1" >"$dir/check.log"
}
check "conn check takes what was learnt" takes "$dir/baseline.toml"
tail -1 "$dir/check.log"
check "PostgreSQL is learnt without its version" has 'exe = "/usr/lib/postgresql/\*/bin/postgres"' "$dir/baseline.toml"
check "nothing was lost while it was learnt" has '^lost = 0$' "$dir/baseline.toml"

watch same whole_load
check "the same load for ${seconds} s: no alert" reported "$dir/same.jsonl"

watch news news
check "a new peer, a new listener, a new program: exactly these three alerts" \
    reported "$dir/news.jsonl" baseline.path=curl "baseline.server=$python_version" baseline.process=new-tool

cp "$dir/baseline.toml" "$dir/before.toml"
cp "$dir/own.jsonl" "$dir/accept.jsonl"
accepts() {
    "$CONN" learn --accept "$dir/accept.jsonl" -o "$dir/baseline.toml" 2>"$dir/accept.log"
}
check "the three are accepted" accepts
cat "$dir/accept.log"
check "and nothing else in the file has changed" cmp -s -n "$(wc -c <"$dir/before.toml")" "$dir/before.toml" "$dir/baseline.toml"
"$CONN" learn --diff "$dir/before.toml" "$dir/baseline.toml" >"$dir/diff.log"
cat "$dir/diff.log"
check "the difference is the three" has '^3 new, 0 gone$' "$dir/diff.log"

watch again news
check "the same three again: no alert" reported "$dir/again.jsonl"

echo "alerts about processes that are none of this script's: $foreign"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
