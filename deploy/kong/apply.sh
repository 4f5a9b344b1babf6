#!/bin/sh
# apply.sh DIR: makes DIR/go.mod for `go build -modfile`, in which kong is the
# copy DIR/kong as linker.patch says. A new version of kong that the patch does
# not fit ends here.
set -eu
cd "$(dirname "$0")/../.."
go=${GO:-go}
rm -rf "$1"
mkdir -p "$1"
cp -r "$($go list -m -f '{{.Dir}}' github.com/alecthomas/kong)" "$1/kong"
chmod -R u+w "$1/kong"
git apply --directory="$1/kong" --unsafe-paths deploy/kong/linker.patch
cp go.mod go.sum "$1/"
$go mod edit -replace "github.com/alecthomas/kong=./$1/kong" "$1/go.mod"
