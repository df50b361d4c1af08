#!/bin/bash
# `conn run` around curl, against a server on loopback, with every backend: passes with the rules that it learnt; fails and names the
# connection when the port is another; fails and names what is missing when the server is not contacted.
#
# usage: tests/run-curl.sh        as root, on Debian; installs curl and python3 if they are missing
#
# A backend that this kernel refuses (exit code 4) is skipped, and counted. CONN names a ready binary; without it cargo builds one.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for program in curl python3; do
    command -v "$program" >/dev/null || apt-get -qq install -y "$program" >/dev/null
done
if [ -z "${CONN:-}" ]; then
    cargo build --quiet -p conn-user
    CONN=${CARGO_TARGET_DIR:-target}/debug/conn
fi

dir=$(mktemp -d /tmp/conn-run-curl.XXXXXX)
servers=()
trap 'kill "${servers[@]}" 2>/dev/null || true; rm -rf "$dir"' EXIT

# A server on a port that the kernel chose, which it writes to a file.
serve() {
    (cd "$dir" && exec python3 -c '
import http.server, sys
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
print(server.server_port, flush=True)
server.serve_forever()' >"$1") &
    servers+=($!)
    until [ -s "$dir/$1" ]; do sleep 0.05; done
}
serve one
serve other
one=$(cat "$dir/one") other=$(cat "$dir/other")

passed=0 failed=0 skipped=0
# name, expected exit code, what the report must have, the command's words
expect() {
    local code=0
    "$CONN" run --backend "$backend" --output "$dir/report" "${@:4}" >/dev/null 2>"$dir/errors" || code=$?
    if [ "$code" -eq 4 ]; then
        skipped=$((skipped + 1))
        echo "skipped: $backend: $1: $(head -1 "$dir/errors")"
        return 1
    fi
    if [ "$code" -eq "$2" ] && grep -qF -- "$3" "$dir/report"; then
        passed=$((passed + 1))
        echo "passed: $backend: $1"
    else
        failed=$((failed + 1))
        echo "FAILED: $backend: $1: exit code $code" >&2
        cat "$dir/report" "$dir/errors" >&2
    fi
}
for backend in fentry kprobe tracepoint; do
    rm -f "$dir/report" "$dir/learnt.toml"
    expect "learns" 0 "127.0.0.1" --learn "$dir/learnt.toml" -- curl -sS -o /dev/null "http://127.0.0.1:$one/" || continue
    expect "the same again" 0 "as expected" --rules "$dir/learnt.toml" -- curl -sS -o /dev/null "http://127.0.0.1:$one/"
    expect "another port" 6 "-> 127.0.0.1:$other " --rules "$dir/learnt.toml" -- curl -sS -o /dev/null "http://127.0.0.1:$other/"
    expect "not contacted" 6 "dport:$one\": 0 of 1" --rules "$dir/learnt.toml" -- curl --version
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
