#!/bin/sh
# Before the package goes: of the rpm with 0, of the deb with "remove". At an upgrade nothing happens. The drives are left as they
# are, mounted and with their line in fstab: `nvme-agent teardown --yes`, run before, gives them up.
set -u

case ${1:-0} in
    0 | remove) ;;
    *) exit 0 ;;
esac

units='nvme-agent.service nvme-agent-report.service nvme-agent-report.timer nvme-agent-metrics.service nvme-agent-metrics.timer'
if command -v systemctl >/dev/null 2>&1; then
    # The next installation of the deb is no first one: postinstall enables these again. Of the rpm it is, and the presets hold.
    if [ "${1:-}" = remove ]; then
        enabled=
        for unit in $units; do
            [ "$(systemctl is-enabled "$unit" 2>/dev/null)" != enabled ] || enabled="$enabled $unit"
        done
        # Never overwritten by a removal that was tried before.
        if [ -n "$enabled" ]; then
            mkdir -p /var/lib/nvme-agent
            echo "${enabled# }" >/var/lib/nvme-agent/enabled-before-removal
        fi
    fi
    # shellcheck disable=SC2086 # names of units
    systemctl --no-reload disable $units >/dev/null 2>&1 || :
    # The timers alone would go on and fail. Stopping the others would do nothing: they have ended.
    if [ -d /run/systemd/system ]; then
        systemctl stop nvme-agent-report.timer nvme-agent-metrics.timer || :
    fi
fi

# Files that nobody keeps true from now on: gates that would keep the node from joining, since there is nothing to ask, and what
# says to the next Node of this machine, or of an image of it, that its storage is ready. Other people's files stay.
for file in /etc/systemd/system/nodeadm-run.service.d/50-nvme-agent.conf \
    /etc/systemd/system/kubelet.service.d/50-nvme-agent.conf \
    /etc/systemd/system/nvme-agent.service.d/50-target.conf \
    /etc/systemd/system/nvme-agent.service.d/10-systemd-219.conf \
    /etc/systemd/system/nvme-agent-report.service.d/10-systemd-219.conf \
    /etc/systemd/system/nvme-agent-metrics.service.d/10-systemd-219.conf \
    /etc/kubernetes/node-feature-discovery/features.d/nvme-agent; do
    case $(head -n 1 "$file" 2>/dev/null) in
        "# Written by "*nvme-agent* | "# nvme-agent: "*) rm -f "$file" ;;
    esac
done
# Its name is ours whoever wrote it: the agent, or userData before there was one.
rm -f /etc/eks/nodeadm.d/50-nvme-agent.yaml
# So are these: node_exporter would go on saying what was true at the last look.
rm -f /var/lib/node_exporter/textfile_collector/nvme-agent.prom
rmdir /etc/systemd/system/nvme-agent.service.d /etc/systemd/system/nvme-agent-report.service.d \
    /etc/systemd/system/nvme-agent-metrics.service.d 2>/dev/null || :
exit 0
