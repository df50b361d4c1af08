# shellcheck shell=bash disable=SC2154,SC2034

# What the scripts beside it share: packages, servers of their own on loopback, and the end of all that they started.
# To be sourced as root on Debian, with `script` set to the name of the script and `packages` to what it needs.

set -euo pipefail
# Not the agent of this machine.
export CONN_SOCKET=
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "$(id -u)" -ne 0 ]; then
    echo "$script.sh: only root can install packages and see every process: run it as root" >&2
    exit 2
fi

started=()
made=()
finish() {
    # The clients first, so that each server ends its own children. Who ended already may have left its id to another.
    local at
    for ((at = ${#started[@]} - 1; at >= 0; at--)); do
        if jobs -pr | grep -qx "${started[at]}"; then
            kill "${started[at]}" 2>/dev/null || true
            wait "${started[at]}" 2>/dev/null || true
        fi
    done
    for path in "${made[@]}"; do
        rm -rf "$path"
    done
}
trap finish EXIT

dir=$(mktemp -d "/tmp/conn-$script.XXXXXX")
made+=("$dir")
chmod 755 "$dir"

# Installs what is missing of the packages.
install_packages() {
    local package missing=() policy=/usr/sbin/policy-rc.d
    for package in "${packages[@]}"; do
        if ! dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed; then
            missing+=("$package")
        fi
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing ${missing[*]}"
    # The packages would start their servers on all addresses; this is how Debian is kept from it (invoke-rc.d(8)).
    if [ ! -e "$policy" ]; then
        made+=("$policy")
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
}

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
            echo "$script.sh: $what does not answer; its log:" >&2
            tail -20 "$dir/$what.log" >&2
            exit 1
        fi
        sleep 0.2
    done
}

# nginx at a port; its process id is then in `nginx`. It may be called again when that one ended.
serve_nginx() {
    local http=$1
    mkdir -p "$dir/nginx"
    echo hello >"$dir/nginx/index.html"
    cat >"$dir/nginx.conf" <<END
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
END
    start nginx nginx -c "$dir/nginx.conf" -e "$dir/nginx/error.log"
    nginx=$!
    until_works nginx curl -fs "http://127.0.0.1:$http/"
}

# PostgreSQL at a port, ready for pgbench: its process id is then in `postgres`, its programs in `pg_bin`, and what its clients
# need to find it in `pg`.
serve_postgres() {
    local sql=$1 as_postgres=(setpriv --reuid postgres --regid postgres --init-groups env LC_ALL=C)
    pg_bin=$(printf "%s\n" /usr/lib/postgresql/*/bin | sort -V | tail -1)
    mkdir "$dir/pg"
    chown postgres:postgres "$dir/pg"
    (cd "$dir/pg" && "${as_postgres[@]}" "$pg_bin/initdb" -D "$dir/pg/data" --auth trust --no-sync >"$dir/initdb.log" 2>&1)
    start postgres "${as_postgres[@]}" "$pg_bin/postgres" -D "$dir/pg/data" -p "$sql" -h "127.0.0.1,::1" -k "$dir/pg" -F
    postgres=$!
    pg=(--host 127.0.0.1 --port "$sql" --username postgres)
    until_works postgres "$pg_bin/pg_isready" "${pg[@]}"
    "$pg_bin/pgbench" "${pg[@]}" --initialize --quiet postgres >"$dir/pgbench-init.log" 2>&1
}

# sshd at a port; its process id is then in `sshd`, and what ssh needs to log in as root in `ssh_options`.
serve_ssh() {
    local port=$1
    if [ ! -d /run/sshd ]; then
        mkdir -m 755 /run/sshd
        made+=(/run/sshd)
    fi
    ssh-keygen -q -t ed25519 -N '' -f "$dir/host_key"
    ssh-keygen -q -t ed25519 -N '' -f "$dir/user_key"
    cp "$dir/user_key.pub" "$dir/authorized_keys"
    echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$dir/host_key.pub")" >"$dir/known_hosts"
    cat >"$dir/sshd_config" <<END
ListenAddress 127.0.0.1:$port
ListenAddress [::1]:$port
HostKey $dir/host_key
AuthorizedKeysFile $dir/authorized_keys
PidFile none
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
UsePAM no
END
    start sshd "$(command -v sshd)" -D -e -f "$dir/sshd_config"
    sshd=$!
    until_works sshd ssh-keyscan -p "$port" 127.0.0.1
    ssh_options=(-F none -p "$port" -i "$dir/user_key" -o UserKnownHostsFile="$dir/known_hosts" -o BatchMode=yes)
}
