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

set -euo pipefail
cd "$(dirname "$0")/.."

packages=(nginx postgresql openssh-server openssh-client wrk iproute2 curl)
load_seconds=12
wrk_connections=60
pg_clients=10

if [ "$(id -u)" -ne 0 ]; then
    echo "real-servers.sh: only root can install packages and see every process: run it as root" >&2
    exit 2
fi

started=()
made=()
finish() {
    # The clients first, so that each server ends its own children.
    local at
    for ((at = ${#started[@]} - 1; at >= 0; at--)); do
        kill "${started[at]}" 2>/dev/null || true
        wait "${started[at]}" 2>/dev/null || true
    done
    for path in "${made[@]}"; do
        rm -rf "$path"
    done
}
trap finish EXIT

# --- packages -------------------------------------------------------------------------------------------------------------------

missing=()
for package in "${packages[@]}"; do
    if ! dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed; then
        missing+=("$package")
    fi
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    # The packages would start their servers on all addresses; this is how Debian is told not to (invoke-rc.d(8)).
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        made+=("$policy")
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
fi

# --- binaries -------------------------------------------------------------------------------------------------------------------

if [ -z "${CONN:-}" ] || [ -z "${CONN_AGAINST_SS:-}" ]; then
    cargo build --quiet -p conn-user -p conn-tests
    target=${CARGO_TARGET_DIR:-target}/debug
    CONN=${CONN:-$target/conn}
    CONN_AGAINST_SS=${CONN_AGAINST_SS:-$target/conn-against-ss}
fi

# --- servers --------------------------------------------------------------------------------------------------------------------

dir=$(mktemp -d /tmp/conn-real-servers.XXXXXX)
made+=("$dir")
chmod 755 "$dir"
mapfile -t ports < <("$CONN_AGAINST_SS" ports 4)
http=${ports[0]} sql=${ports[1]} ssh=${ports[2]} forward=${ports[3]}

# Runs a command in the background; its process id is then in $!, and it is ended with the script.
start() {
    local log=$dir/$1.log
    shift
    "$@" >"$log" 2>&1 </dev/null &
    started+=($!)
}

# Tries a command until it succeeds, for at most 30 s.
until_works() {
    local what=$1 tries=0
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -ge 150 ]; then
            echo "real-servers.sh: $what does not answer; its log:" >&2
            tail -20 "$dir/$what.log" >&2
            exit 1
        fi
        sleep 0.2
    done
}

mkdir "$dir/nginx"
echo hello >"$dir/nginx/index.html"
cat >"$dir/nginx.conf" <<EOF
daemon off;
user www-data;
worker_processes 4;
pid $dir/nginx.pid;
error_log $dir/nginx/error.log;
events { worker_connections 512; }
http {
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path $dir/nginx/body;
    proxy_temp_path $dir/nginx/proxy;
    fastcgi_temp_path $dir/nginx/fastcgi;
    uwsgi_temp_path $dir/nginx/uwsgi;
    scgi_temp_path $dir/nginx/scgi;
    server {
        listen 127.0.0.1:$http;
        listen [::1]:$http;
        root $dir/nginx;
    }
}
EOF
start nginx nginx -c "$dir/nginx.conf" -e "$dir/nginx/error.log"
nginx=$!
until_works nginx curl -fs "http://127.0.0.1:$http/"

pg_bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
as_postgres=(setpriv --reuid postgres --regid postgres --init-groups env LC_ALL=C)
mkdir "$dir/pg"
chown postgres:postgres "$dir/pg"
(cd "$dir/pg" && "${as_postgres[@]}" "$pg_bin/initdb" -D "$dir/pg/data" --auth trust --no-sync >"$dir/initdb.log" 2>&1)
start postgres "${as_postgres[@]}" "$pg_bin/postgres" -D "$dir/pg/data" -p "$sql" -h "127.0.0.1,::1" -k "$dir/pg" -F
postgres=$!
pg=(--host 127.0.0.1 --port "$sql" --username postgres)
until_works postgres "$pg_bin/pg_isready" "${pg[@]}"
"$pg_bin/pgbench" "${pg[@]}" --initialize --quiet postgres >"$dir/pgbench-init.log" 2>&1

if [ ! -d /run/sshd ]; then
    mkdir -m 755 /run/sshd
    made+=(/run/sshd)
fi
ssh-keygen -q -t ed25519 -N '' -f "$dir/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$dir/user_key"
cp "$dir/user_key.pub" "$dir/authorized_keys"
echo "[127.0.0.1]:$ssh $(cut -d' ' -f1,2 "$dir/host_key.pub")" >"$dir/known_hosts"
cat >"$dir/sshd_config" <<EOF
ListenAddress 127.0.0.1:$ssh
ListenAddress [::1]:$ssh
HostKey $dir/host_key
AuthorizedKeysFile $dir/authorized_keys
PidFile none
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
UsePAM no
EOF
start sshd "$(command -v sshd)" -D -e -f "$dir/sshd_config"
sshd=$!
until_works sshd ssh-keyscan -p "$ssh" 127.0.0.1

# --- load -----------------------------------------------------------------------------------------------------------------------

# A session that does nothing: cat waits for a pipe that nobody writes to. It also forwards a port, which ssh listens on.
mkfifo "$dir/silence"
exec 9<>"$dir/silence"
ssh -F none -T -p "$ssh" -i "$dir/user_key" -o UserKnownHostsFile="$dir/known_hosts" -o BatchMode=yes -o ExitOnForwardFailure=yes \
    -L "127.0.0.1:$forward:127.0.0.1:$http" root@127.0.0.1 cat <&9 >"$dir/ssh.log" 2>&1 &
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
    [ "$(ss -Htn state established "$@" | wc -l)" -ge "$least" ]
}
least=$wrk_connections until_works wrk established dport = ":$http"
least=$pg_clients until_works pgbench established dport = ":$sql"

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
