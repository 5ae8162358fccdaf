#!/bin/sh
# Takes every trace of a setup on the build host out of an image: clean.sh [ROOT]. See README.md.
set -eu

root=${1:-/}
root=${root%/}

if [ -z "$root" ] && grep -q '"state": "\(ready\|degraded\)"' /run/nvme-agent/state.json 2>/dev/null; then
    echo "$0: drives of this build host are set up; run \`nvme-agent teardown --yes\` first" >&2
    exit 1
fi

# Records, intent, locks, and the binary as userData fetched it.
rm -rf "$root/var/lib/nvme-agent" "$root/run/nvme-agent"

# A line of ours has our option; a line of ours that a failed setup put out of force is a comment.
fstab_ours='^[[:space:]]*[^#[:space:]].*[[:space:],]x-nvme-agent\([,[:space:]]\|$\)'
fstab_disabled='^# nvme-agent: disabled, setup failed: '
fstab=$root/etc/fstab
if [ -f "$fstab" ]; then
    sed -i --follow-symlinks -e "/$fstab_ours/d" -e "/$fstab_disabled/d" "$fstab"
fi

mdadm_ours='# nvme-agent[[:space:]]*$'
for conf in "$root/etc/mdadm.conf" "$root/etc/mdadm/mdadm.conf"; do
    if [ -f "$conf" ]; then
        sed -i --follow-symlinks "/$mdadm_ours/d" "$conf"
    fi
done

tmpfiles=$root/etc/tmpfiles.d/tmp.conf
if [ -f "$tmpfiles" ] && head -n 1 "$tmpfiles" | grep -q '^# nvme-agent: '; then
    rm -f "$tmpfiles"
fi

# What the Node would say when it registers, of the drives of this build host. The agent writes its own first thing at
# every boot. nodeadm writes its environment file anew at every boot, so that a label there needs no cleaning.
label=$root/etc/eks/nodeadm.d/50-nvme-agent.yaml
rm -f "$label" "$root/etc/eks/nodeadm.d/.50-nvme-agent.yaml."*
feature=$root/etc/kubernetes/node-feature-discovery/features.d/nvme-agent
if [ -f "$feature" ] && head -n 1 "$feature" | grep -q '^# nvme-agent: '; then
    rm -f "$feature"
fi

# What tells one host from another: each instance makes its own. An empty machine id is a new one at the next boot; a
# missing one would be a system that has never booted, whose units are enabled anew by presets.
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
if [ -f "$root/var/lib/dbus/machine-id" ] && [ ! -L "$root/var/lib/dbus/machine-id" ]; then
    rm -f "$root/var/lib/dbus/machine-id"
fi
rm -f "$root/var/lib/systemd/random-seed"
# cloud-init runs userData once an instance, and knows instances by what it keeps here.
rm -rf "$root/var/lib/cloud/instance" "$root/var/lib/cloud/instances" "$root/var/lib/cloud/data" "$root/var/lib/cloud/sem"
# The build host's journal speaks of its drives.
rm -rf "$root"/var/log/journal/*

# Prove it.
left=$(
    ls -d "$root"/etc/ssh/ssh_host_* 2>/dev/null || true
    [ ! -s "$root/etc/machine-id" ] || echo "$root/etc/machine-id"
    [ ! -e "$root/var/lib/nvme-agent" ] || echo "$root/var/lib/nvme-agent"
    [ ! -e "$label" ] || echo "$label"
    grep -Hs -e "$fstab_ours" -e "$fstab_disabled" "$fstab" || true
    grep -Hs "$mdadm_ours" "$root/etc/mdadm.conf" "$root/etc/mdadm/mdadm.conf" || true
)
if [ -n "$left" ]; then
    printf '%s: traces are left:\n%s\n' "$0" "$left" >&2
    exit 1
fi
