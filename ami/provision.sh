#!/bin/sh
# Puts nvme-agent into an image: provision.sh FILE [ROOT]. See README.md.
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 FILE [ROOT]" >&2
    exit 2
fi
file=$1
root=${2:-/}

if [ ! -f "$file" ]; then
    echo "$0: $file: no such file; expected the nvme-agent binary" >&2
    exit 1
fi

# `install` copies the binary that runs it. A private copy, because FILE may lie on a noexec mount.
work=$(mktemp -d /var/tmp/nvme-agent.XXXXXX)
trap 'rm -rf "$work"' EXIT
install -m 0755 "$file" "$work/nvme-agent"

"$work/nvme-agent" --version
"$work/nvme-agent" install --root "$root"
# The second run finds nothing to do, or the first one did not do what it said.
"$work/nvme-agent" install --root "$root" | grep -q '^nothing to do' || {
    echo "$0: the installation in $root is not stable" >&2
    exit 1
}
