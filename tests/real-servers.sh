#!/bin/bash
# Compares `conn list` with `ss` on a machine with real servers under load: nginx, PostgreSQL and sshd.
#
# usage: tests/real-servers.sh            as root, on Debian
#
# Installs what is missing of the Debian packages below (they stay installed), starts the servers by hand on loopback with
# configuration, data and ports of their own, and puts them under load. Then `conn list` must show the sockets that ss shows, in
# the same states, held by the same processes. ss looks before and after each list: only what ss itself shows as changed
# between the two is let pass, and counted. Ends only what it started. Takes about a minute.
#
# CONN and CONN_AGAINST_SS name ready binaries; without them cargo builds both.

# shellcheck disable=SC2034
script=real-servers
packages=(nginx postgresql openssh-server openssh-client wrk iproute2 curl)
load_seconds=12
wrk_connections=60
pg_clients=10
. "$(dirname "$0")/servers.sh"
install_packages

if [ -z "${CONN:-}" ] || [ -z "${CONN_AGAINST_SS:-}" ]; then
    cargo build --quiet -p conn-user -p conn-tests
    target=${CARGO_TARGET_DIR:-target}/debug
    CONN=${CONN:-$target/conn}
    CONN_AGAINST_SS=${CONN_AGAINST_SS:-$target/conn-against-ss}
fi

mapfile -t ports < <("$CONN_AGAINST_SS" ports 4)
http=${ports[0]} sql=${ports[1]} ssh=${ports[2]} forward=${ports[3]}
serve_nginx "$http"
serve_postgres "$sql"
serve_ssh "$ssh"

# --- load -----------------------------------------------------------------------------------------------------------------------

# A session that does nothing: cat waits for a pipe that nobody writes to. It also forwards a port, which ssh listens on.
mkfifo "$dir/suppress"
exec 9<>"$dir/suppress"
ssh "${ssh_options[@]}" -T -o ExitOnForwardFailure=yes -L "127.0.0.1:$forward:127.0.0.1:$http" root@127.0.0.1 cat <&9 >"$dir/ssh.log" 2>&1 &
started+=($!)
until_works ssh curl -fs "http://127.0.0.1:$forward/"

start wrk wrk -t 2 -c "$wrk_connections" -d "${load_seconds}s" "http://127.0.0.1:$http/"
wrk=$!
start pgbench "$pg_bin/pgbench" "${pg[@]}" -c "$pg_clients" -j 2 -T "$load_seconds" postgres
pgbench=$!
# Connections that come and go: one for each transaction.
start churn "$pg_bin/pgbench" "${pg[@]}" -C -c 2 -T "$load_seconds" postgres
churn=$!
established() {
    local least=$1
    shift
    [ "$(ss -Htn state established "$@" | wc -l)" -ge "$least" ]
}
until_works wrk established "$wrk_connections" dport = ":$http"
until_works pgbench established "$pg_clients" dport = ":$sql"

# --- checks ---------------------------------------------------------------------------------------------------------------------

passed=0 failed=0
verdict() {
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
        echo ok
    else
        failed=$((failed + 1))
        echo FAILED
    fi
}

printf '%-34s %6s %9s %6s %6s\n' "sockets" same changing brief wrong
compare() {
    local name=$1 code=0 line
    shift
    line=$("$CONN_AGAINST_SS" compare "$CONN" "$@" 2>"$dir/wrong") || code=$?
    printf '%-34s %s  ' "$name" "$line"
    verdict "$code"
    cat "$dir/wrong" >&2
}

# Two ends of each connection of wrk and of pgbench, and of the ssh session; three servers on two addresses, and the forwarding.
connections=$((2 * (wrk_connections + pg_clients + 1)))
listeners=7
# A new backend of PostgreSQL holds both of its listeners for a moment, which may change them while both look.
steady=5
for round in 1 2 3; do
    compare "under load $round: ss -tanp" $((connections / 2)) -tan -a
    compare "under load $round: ss -tlnp" "$steady" -tln -l
    compare "under load $round: ss -tnp" $((connections / 2)) -tn
done

# A name before the id of its oldest holder, and how many more there are.
holds() {
    local name=$1 pattern=$2 shown
    shift 2
    shown=$("$CONN" list "$@" 2>/dev/null | sed 1d)
    printf '%-67s ' "$name"
    if grep -Eq -- "$pattern" <<<"$shown"; then verdict 0; else
        verdict 1
        printf '%s\n' "$shown" >&2
    fi
}
holds "nginx: the master and four workers listen" "nginx\[$nginx\] \+4 " -l "lport:$http" laddr:127.0.0.1
holds "PostgreSQL: the postmaster listens" "postgres\[$postgres\] " -l "lport:$sql" laddr:::1
holds "sshd: it listens" "sshd\[$sshd\] " -l "lport:$ssh" laddr:127.0.0.1
holds "ssh: it listens for what it forwards" "ssh\[[0-9]+\] " -l "lport:$forward"
holds "ssh: the session is known on both sides" "in +sshd\[[0-9]+\]" "lport:$ssh"
holds "wrk: its connections go out" "out +wrk\[$wrk\]" "pid:$wrk"
holds "PostgreSQL: a backend for each client" "in +postgres\[[0-9]+\]" proc:postgres "lport:$sql"

wait "$wrk" "$pgbench" "$churn" || true
compare "after the load: ss -tanp" "$listeners" -tan -a
compare "after the load: ss -tlnp" "$listeners" -tln -l

echo "load: $(grep Requests/sec "$dir/wrk.log" | tr -s ' '), $(grep ^tps "$dir/pgbench.log" | cut -d' ' -f1-3) transactions/s, $(grep ^tps "$dir/churn.log" | cut -d' ' -f3) connections/s"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
