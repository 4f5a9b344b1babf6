#!/bin/sh
# units.sh EXPOSURE: the units are well-formed, and the agent's exposure is at
# most EXPOSURE tenths (0 is none, 100 all).
set -eu
cd "$(dirname "$0")"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/usr/bin" "$root/bin" "$root/etc/systemd/system" "$root/lib/systemd/system"
printf '#!/bin/sh\n' >"$root/usr/bin/sapflow-agent"
chmod 0755 "$root/usr/bin/sapflow-agent"
cp "$root/usr/bin/sapflow-agent" "$root/bin/kill"
cp sapflow-agent.service sapflow-agent.path "$root/etc/systemd/system/"
cp /lib/systemd/system/*.target /lib/systemd/system/*.slice "$root/lib/systemd/system/"
said=$(systemd-analyze --root="$root" verify sapflow-agent.service sapflow-agent.path 2>&1) || { echo "$said"; exit 1; }
if echo "$said" | grep sapflow; then
	echo "the units have warnings"
	exit 1
fi
systemd-analyze --root="$root" security --offline=true --no-pager --threshold="$1" sapflow-agent.service >"$root/report" || { cat "$root/report"; exit 1; }
tail -n 1 "$root/report"
