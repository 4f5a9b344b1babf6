#!/bin/sh
# test.sh PACKAGE: install, upgrade with a backlog on disk, remove and purge in
# a clean Debian root, as root. The hub is bin/sapflow-hub on loopback.
set -eu
deb=$(realpath "$1")
top=$(cd "$(dirname "$0")/../.." && pwd)
suite=${SUITE:-bookworm}
work=$(mktemp -d)
root=$work/root
hub=
agent=

stop() { # PID: ends a process that this script started
	[ -z "$1" ] || { kill -TERM "$1" 2>/dev/null && wait "$1" 2>/dev/null; } || true
}

cleanup() {
	stop "$agent"
	stop "$hub"
	umount "$root/proc" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

fail() {
	echo "FAIL: $*"
	tail -n 20 "$work"/*.log 2>/dev/null || true
	exit 1
}

await() { # WHAT COMMAND...: repeats the command for a minute
	what=$1
	shift
	for _ in $(seq 300); do
		if "$@" >/dev/null 2>&1; then return; fi
		sleep 0.2
	done
	fail "not in a minute: $what"
}

in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }

as_user() { in_root setpriv --reuid sapflow --regid sapflow --init-groups "$@"; }

run_agent() {
	(exec chroot "$root" env -i PATH=/usr/bin setpriv --reuid sapflow --regid sapflow --init-groups \
		sapflow-agent run --config /etc/sapflow/agent.yaml --listen 127.0.0.1:0) >>"$work/agent.log" 2>&1 &
	agent=$!
	await "the agent runs" as_user sapflow-agent get "$id" --data /var/lib/sapflow
}

stop_agent() {
	stop "$agent"
	agent=
	[ -f "$root/var/lib/sapflow/clean" ] || fail "the agent did not stop cleanly"
}

backlog() { as_user sapflow-agent status --data /var/lib/sapflow --json | sed -n 's/.*"backlogPoints":\([0-9]*\).*/\1/p'; }

echo "== a clean root ($suite)"
mmdebstrap --quiet --variant=minbase --include=adduser,ca-certificates,init-system-helpers,curl "$suite" "$root"
mount -t proc proc "$root/proc"

echo "== install"
cp "$deb" "$root/new.deb"
in_root dpkg -i /new.deb >"$work/dpkg.log" 2>&1 || fail "install"
in_root id sapflow >/dev/null || fail "no user"
[ "$(in_root stat -c %U:%a /var/lib/sapflow)" = sapflow:700 ] || fail "owner of the state"
[ "$(in_root stat -c %G:%a /etc/sapflow/agent.yaml)" = sapflow:640 ] || fail "mode of the settings"
in_root sapflow-agent --version || fail "the program does not run"

echo "== enrol as root, run as its user"
SAPFLOW_METRICS=127.0.0.1:0 "$top/bin/sapflow-hub" serve --data "$work/hub" --http 127.0.0.1:0 --leaf 127.0.0.1:0 --listen 127.0.0.1:0 >"$work/hub.log" 2>&1 &
hub=$!
await "the hub runs" "$top/bin/sapflow-hub" status --data "$work/hub"
line=$("$top/bin/sapflow-hub" device add gw1 --data "$work/hub" --json)
id=$(echo "$line" | sed -n 's/.*"id":"\([^"]*\)".*/\1/p')
token=$(echo "$line" | sed -n 's/.*"token":"\([^"]*\)".*/\1/p')
http=$(sed -n 's/.*"http":"\([^"]*\)".*/\1/p' "$work/hub/run.json")
echo "$token" >"$root/token"
in_root sapflow-agent enroll "http://$http" --token-file /token --data /var/lib/sapflow || fail "enrol"
[ -z "$(in_root find /var/lib/sapflow ! -user sapflow)" ] || fail "what root enrolled is not the user's"
run_agent
await "the link is open" sh -c "chroot '$root' setpriv --reuid sapflow --regid sapflow --init-groups sapflow-agent status --data /var/lib/sapflow --json | grep -q '\"connected\":true'"
metrics=$(sed -n 's/.*"metrics":"\([^"]*\)".*/\1/p' "$root/var/lib/sapflow/run.json")
in_root curl -fsS "http://$metrics/readyz" >/dev/null || fail "not ready"
in_root curl -fsS "http://$metrics/metrics" | grep -q '^sapflow_ready 1$' || fail "no metrics"

echo "== a backlog"
stop "$hub"
hub=
for n in 1 2 3 4 5; do as_user sapflow-agent set "$id" level "$n" --data /var/lib/sapflow >/dev/null || fail "set"; done
before=$(backlog)
[ "$before" -ge 5 ] || fail "a backlog of $before points"
stop_agent

echo "== upgrade: settings that were changed and the backlog stay"
echo "commitEvery: 7s" >>"$root/etc/sapflow/agent.yaml"
dpkg-deb -R "$deb" "$work/next"
sed -i 's/^Version: .*/&+upgrade/' "$work/next/DEBIAN/control"
echo "# a newer package" >>"$work/next/etc/sapflow/agent.yaml"
dpkg-deb --root-owner-group -b "$work/next" "$root/next.deb" >/dev/null
in_root dpkg -i --force-confold /next.deb >"$work/dpkg.log" 2>&1 || fail "upgrade"
case $(in_root dpkg-query -W -f '${Version}' sapflow-agent) in *+upgrade) ;; *) fail "not the newer version" ;; esac
grep -q '^commitEvery: 7s$' "$root/etc/sapflow/agent.yaml" || fail "changed settings were replaced"
run_agent
after=$(backlog)
[ "$after" -ge "$before" ] || fail "a backlog of $after points after the upgrade, $before before"
as_user sapflow-agent get "$id" --data /var/lib/sapflow | grep -q 'level.* 5' || fail "the value is gone"
SAPFLOW_METRICS=127.0.0.1:0 "$top/bin/sapflow-hub" serve --data "$work/hub" --http "$http" --leaf "$(sed -n 's/.*nats-leaf:\/\/\([0-9.:]*\).*/\1/p' "$root/var/lib/sapflow/identity/identity.json" | head -n 1)" --listen 127.0.0.1:0 >>"$work/hub.log" 2>&1 &
hub=$!
await "the hub has the backlog" sh -c "'$top/bin/sapflow-hub' get '$id' --data '$work/hub' | grep -q 'level.* 5'"
await "nothing is left of it" sh -c "chroot '$root' setpriv --reuid sapflow --regid sapflow --init-groups sapflow-agent status --data /var/lib/sapflow --json | grep -q '\"backlogPoints\":0,'"
stop_agent

echo "== remove: the state stays"
in_root dpkg -r sapflow-agent >"$work/dpkg.log" 2>&1 || fail "remove"
[ ! -e "$root/usr/bin/sapflow-agent" ] || fail "the program is still there"
[ -d "$root/var/lib/sapflow/jetstream" ] || fail "the state is gone"
[ -f "$root/etc/sapflow/agent.yaml" ] || fail "the settings are gone"

echo "== install again: it goes on"
in_root dpkg -i --force-confold /new.deb >"$work/dpkg.log" 2>&1 || fail "install again"
run_agent
stop_agent

echo "== purge: nothing stays"
in_root dpkg -P sapflow-agent >"$work/dpkg.log" 2>&1 || fail "purge"
for path in /var/lib/sapflow /etc/sapflow /usr/bin/sapflow-agent /lib/systemd/system/sapflow-agent.service; do
	[ ! -e "$root$path" ] || fail "$path is still there"
done
echo "ok"
