#!/bin/sh
# Takes every trace of a setup on the build host out of an image: clean.sh [--identity] [ROOT]. See README.md.
set -eu

identity=no
if [ "${1:-}" = --identity ]; then
    identity=yes
    shift
fi
case $#:${1:-/} in
    [01]:/*) ;;
    *)
        echo "usage: $0 [--identity] [ROOT]" >&2
        exit 2
        ;;
esac
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

# Of the build host's own userData. What somebody else wrote is the image's configuration.
config=$root/etc/nvme-agent/config.toml
config_ours='# By userData'
if grep -qsx "$config_ours" "$config"; then
    rm -f "$config"
fi

# What the Node would say when it registers, of the drives of this build host. The agent writes its own first thing at
# every boot. nodeadm writes its environment file anew at every boot, so that a label there needs no cleaning.
label=$root/etc/eks/nodeadm.d/50-nvme-agent.yaml
rm -f "$label" "$root/etc/eks/nodeadm.d/.50-nvme-agent.yaml."*
feature=$root/etc/kubernetes/node-feature-discovery/features.d/nvme-agent
if [ -f "$feature" ] && head -n 1 "$feature" | grep -q '^# nvme-agent: '; then
    rm -f "$feature"
fi

# What makes two instances of one image the same machine. Keys and seeds are made anew at boot where they are not there; the
# machine id where its file is empty. cloud-init takes the next boot for a new instance anyhow, but would keep this one's user data.
if [ "$identity" = yes ]; then
    rm -f "$root"/etc/ssh/ssh_host_*_key "$root"/etc/ssh/ssh_host_*_key.pub "$root/var/lib/systemd/random-seed" \
        "$root/var/lib/systemd/credential.secret" "$root/root/.ssh/authorized_keys" "$root"/home/*/.ssh/authorized_keys
    rm -rf "$root/var/lib/cloud" "$root"/var/log/cloud-init*.log "$root"/var/log/journal/*
    if [ -e "$root/etc/machine-id" ]; then
        : >"$root/etc/machine-id"
    fi
    # Of D-Bus before it read /etc/machine-id.
    [ -L "$root/var/lib/dbus/machine-id" ] || rm -f "$root/var/lib/dbus/machine-id"
fi

# Prove it.
left=$(
    [ ! -e "$root/var/lib/nvme-agent" ] || echo "$root/var/lib/nvme-agent"
    [ ! -e "$label" ] || echo "$label"
    grep -Hsx "$config_ours" "$config" || true
    grep -Hs -e "$fstab_ours" -e "$fstab_disabled" "$fstab" || true
    grep -Hs "$mdadm_ours" "$root/etc/mdadm.conf" "$root/etc/mdadm/mdadm.conf" || true
)
if [ -n "$left" ]; then
    printf '%s: traces are left:\n%s\n' "$0" "$left" >&2
    exit 1
fi
