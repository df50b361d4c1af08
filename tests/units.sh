#!/bin/bash
# Makes rules of the unit files of real Debian packages with `conn learn --from-units`, and says which line became which rule.
#
# usage: tests/units.sh            on Debian; as root if the package lists are to be fetched first
#
# Downloads the packages below, unpacks them into a folder of its own (nothing is installed) and switches some of their sockets on
# there, as their installation would. Then:
#   - `conn check` must take what was made of them;
#   - every line that has one of the settings must be cited: above a rule, or among what is left out;
#   - chosen lines must have become the rules that stand here;
#   - of every service `systemd-analyze security`, which reads the same files without running anything, must say the same.
# CONN names a ready binary; without it cargo builds one.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(systemd systemd-resolved openssh-server rpcbind cups-daemon chrony redis-server memcached haproxy avahi-daemon
    nginx-common postgresql-common dovecot-core e2fsprogs)
enabled=(rpcbind.socket ssh.socket)

dir=$(mktemp -d /tmp/conn-units.XXXXXX)
trap 'rm -rf "$dir"' EXIT

if [ -z "${CONN:-}" ]; then
    cargo build --quiet -p conn-user
    CONN=${CARGO_TARGET_DIR:-target}/debug/conn
fi

download() {
    (cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}")
}
if ! download 2>"$dir/log"; then
    apt-get -qq update
    download
fi
root=$dir/root
for package in "$dir"/*.deb; do
    dpkg-deb -x "$package" "$root"
    echo "unpacked $(basename "$package")"
done
mkdir -p "$root/etc/systemd/system"
systemctl --quiet --root="$root" enable "${enabled[@]}" 2>/dev/null
# What an administrator may add: lists that are reset, taken from and replaced, by drop-ins of several sorts.
etc() {
    mkdir -p "$root/etc/systemd/system/$(dirname "$1")"
    printf '%s\n' "[Service]" "${@:2}" >"$root/etc/systemd/system/$1"
}
etc haproxy.service.d/a.conf RestrictAddressFamilies=AF_INET RestrictAddressFamilies=none
etc redis-server.service.d/a.conf "RestrictAddressFamilies=~AF_INET AF_INET6"
etc chrony-.service.d/a.conf PrivateNetwork=on
etc systemd-timedated.service.d/a.conf IPAddressAllow=192.0.2.0/24 RestrictAddressFamilies=
etc systemd-hostnamed.service.d/z.conf PrivateNetwork=no
etc systemd-localed.service.d/a.conf "IPAddressDeny=" "PrivateNetwork=maybe"
etc own.service ExecStart=/bin/true IPAddressDeny=any IPAddressAllow=localhost IPAddressAllow= PrivateNetwork=1 \
    "RestrictAddressFamilies=~AF_INET \\" "# between" "  AF_INET6"
# Packages of later releases have them below /usr alone.
units=()
for folder in etc/systemd/system lib/systemd/system usr/lib/systemd/system; do
    [ ! -d "$root/$folder" ] || units+=("$root/$folder")
done
learned=$dir/learned.toml
"$CONN" learn --from-units "${units[@]}" --output "$learned"

passed=0 failed=0
verdict() {
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $2" >&2
    fi
}

code=0
"$CONN" check "$learned" || code=$?
verdict "$code" "conn check"

# --- every line is reported -----------------------------------------------------------------------------------------------------------

# Overruled by a drop-in, these say nothing any more.
overruled='haproxy.service:|systemd-timedated.service:.*Restrict|systemd-localed.service:.*IPAddressDeny|systemd-hostnamed.service:.*PrivateNetwork|chrony-wait.service:.*Private|own.service:.*Allow'
settings='PrivateNetwork|NetworkNamespacePath|RestrictAddressFamilies|IPAddress(Allow|Deny)|SocketBind(Allow|Deny)|ListenStream'
lines=0
while IFS=: read -r file line setting; do
    lines=$((lines + 1))
    code=0
    grep -qF "$file:$line: " "$learned" || code=1
    verdict "$code" "$file:$line: $setting is neither above a rule nor among what is left out"
done < <(find "${units[@]}" -type f \( -name '*.service' -o -name '*.socket' -o -name '*.slice' \) -print0 |
    xargs -0 grep -nHE "^($settings)=." | grep -vE "$overruled")
echo "$lines lines with such a setting, each cited"
[ "$lines" -ge 25 ] || verdict 1 "only $lines lines"

# --- chosen lines -----------------------------------------------------------------------------------------------------------------

# The unit, its setting, and what the rule that cites it must have, line by line; behind `@`: the reason why there is none.
chosen() {
    local unit=$1 setting=$2 file line block want code=0
    shift 2
    file=$(find "${units[@]}" -name "$unit" -type f | head -1)
    line=$(grep -nxF "$setting" "$file" | head -1 | cut -d: -f1)
    if [ -z "$line" ]; then
        verdict 1 "$unit has no line $setting any more: choose another one"
        return
    fi
    block=$(awk -v RS= -v cite="$file:$line: " 'index($0, "# " cite) && /\[\[rule\]\]/' "$learned")
    printf '%s:%s: %s\n' "${file#"$root"}" "$line" "$setting"
    for want in "$@"; do
        if [ "${want:0:1}" = "@" ]; then
            block=$(grep -F "$file:$line: " "$learned" || true)
            want=${want:2}
        fi
        if grep -qF -- "$want" <<<"$block"; then
            printf '    %s\n' "$want"
        else
            code=1
        fi
    done
    verdict "$code" "$unit: $setting gave: $block"
}

chosen e2scrub@.service PrivateNetwork=true 'id = "unit.e2scrub_.service.private-network"' \
    "match = 'unit:e2scrub@*.service -user_unit:e2scrub@*.service -raddr:127.0.0.0/8,::1'"
chosen systemd-localed.service PrivateNetwork=yes 'kind = "path"' 'find = "forbidden"' \
    "match = 'unit:systemd-localed.service -user_unit:systemd-localed.service -raddr:127.0.0.0/8,::1'"
chosen systemd-logind.service "RestrictAddressFamilies=AF_UNIX AF_NETLINK" 'kind = "process"' 'find = "network"' \
    "match = 'unit:systemd-logind.service -user_unit:systemd-logind.service'"
chosen systemd-logind.service IPAddressDeny=any 'kind = "path"' "raddr:0.0.0.0/0,::/0'"
chosen chrony-wait.service IPAddressAllow=localhost 'id = "unit.chrony-wait.service.addresses"' \
    "match = 'unit:chrony-wait.service -user_unit:chrony-wait.service raddr:0.0.0.0/0,::/0'" "except = 'raddr:127.0.0.0/8,::1'"
chosen rpcbind.socket ListenStream=0.0.0.0:111 'kind = "missing"' 'expect = "listener"' \
    "match = 'unit:rpcbind.socket lport:111 laddr:0.0.0.0'"
chosen rpcbind.socket "ListenStream=[::]:111" "match = 'unit:rpcbind.socket lport:111 laddr:::'"
# It has a condition, so it may not start: the rule is there, and not active.
chosen ssh.socket ListenStream=22 "match = 'unit:ssh.socket lport:22 laddr:0.0.0.0,::'" "# Expected: sockets.target starts it." \
    'enabled = false'
chosen cups.socket ListenStream=/run/cups/cups.sock "@ a Unix socket: conn watches TCP"
chosen memcached.service "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX" "@ it may make sockets of IPv4 and of IPv6"

# --- systemd says the same --------------------------------------------------------------------------------------------------------

# Whether a rule of this kind is about the service, and has (or, behind `!`, has not) these words.
has() {
    local unit=$1 kind=$2 word=$3 without=$4
    awk -v RS= -v unit="'unit:$unit " -v kind="kind = \"$kind\"" -v word="$word" -v without="$without" \
        'index($0, unit) && index($0, kind) && index($0, word) && !index($0, without) { found = 1 } END { exit !found }' "$learned"
}
# Whether `systemd-analyze` has this field set: `"set":true,...,"json_field":"FIELD"`.
set_of() {
    grep -qE "\"set\":true,[^{]*\"json_field\":\"$1\"" <<<"$analysis"
}
compared=0 restricted=0
compare() {
    local field=$1 systemd=no ours=no
    shift
    ! set_of "$field" || systemd=yes
    ! has "$unit" "$@" || ours=yes
    compared=$((compared + 1))
    [ $systemd = no ] || restricted=$((restricted + 1))
    [ $systemd = $ours ] || ours=different
    code=0
    [ $ours != different ] || code=1
    verdict $code "$unit: $field: systemd-analyze says $systemd"
}
while read -r unit; do
    analysis=$(systemd-analyze security --offline=true --root="$root" --json=short "$unit" 2>/dev/null | tr '{' '\n') || continue
    compare PrivateNetwork path -raddr:127.0.0.0/8,::1 nothing-else
    compare RestrictAddressFamilies_AF_INET_INET6 process 'find = "network"' family:
    compare IPAddressDeny path "raddr:0.0.0.0/0,::/0'" "except = 'raddr:"
done < <(find "${units[@]}" -name '*.service' -type f ! -name '*@*' -printf '%f\n' | sort -u)
echo "$compared answers compared with those of systemd-analyze, $restricted of them restrictions"
[ "$restricted" -ge 15 ] || verdict 1 "only $restricted restrictions were compared"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
