#!/bin/sh
# test.sh TOOLS SCHEMAS: lint the chart, render it with every values file, check
# each object against the schemas, and see that mistakes are found. KUBERNETES
# is the version, HUB the binary that must take the settings.
set -eu
tools=$(realpath "$1")
schemas=$(realpath "$2")
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HELM_CACHE_HOME="$work/cache" HELM_CONFIG_HOME="$work/config" HELM_DATA_HOME="$work/data"

conform() { # ServiceMonitor is not of Kubernetes
	"$tools/kubeconform" -strict -summary -skip ServiceMonitor \
		-schema-location "$schemas/{{.ResourceKind}}{{.KindSuffix}}.json" "$@"
}

fail() {
	echo "FAIL: $*"
	exit 1
}

for values in sapflow-hub/values.yaml sapflow-hub/ci/*.yaml; do
	echo "== $values"
	"$tools/helm" lint --strict --quiet --kube-version "$KUBERNETES" sapflow-hub -f "$values"
	"$tools/helm" template --kube-version "$KUBERNETES" hub sapflow-hub -f "$values" >"$work/out.yaml"
	conform "$work/out.yaml"
done

# The chart's settings are those of the hub.
for values in sapflow-hub/values.yaml sapflow-hub/ci/*.yaml; do
	"$tools/helm" template --kube-version "$KUBERNETES" hub sapflow-hub -f "$values" -s templates/configmap.yaml | sed -n '/hub.yaml: |/,$s/^    //p' >"$work/hub.yaml"
	grep -q '^data: /data$' "$work/hub.yaml" || fail "no settings for $values"
	if [ -n "${HUB:-}" ]; then
		said=$("$HUB" serve --config "$work/hub.yaml" --data /dev/null/none 2>&1) && fail "the hub ran"
		case $said in *"make data directory"*) ;; *) fail "the hub does not take the settings of $values: $said" ;; esac
	fi
done

# Mistakes are found.
"$tools/helm" template --kube-version "$KUBERNETES" hub sapflow-hub --set tls.secretName=x >/dev/null 2>&1 && fail "TLS without leafAdvertise was accepted"
"$tools/helm" template --kube-version "$KUBERNETES" hub sapflow-hub --set replicas=2 >/dev/null 2>&1 && fail "an unknown value was accepted"
"$tools/helm" template --kube-version "$KUBERNETES" hub sapflow-hub --set config.data=/x >/dev/null 2>&1 && fail "a setting of the chart was replaced"
"$tools/helm" template --kube-version "$KUBERNETES" hub sapflow-hub --set ingress.enabled=true >/dev/null 2>&1 && fail "an Ingress without a host was accepted"
sed 's/readOnlyRootFilesystem/readOnlyRotFilesystem/' "$work/out.yaml" >"$work/bad.yaml"
conform "$work/bad.yaml" >/dev/null 2>&1 && fail "a misspelt field was accepted"
echo ok
