#!/bin/sh
# After installation and after an upgrade: of the rpm with the number of versions that there now are, of the deb with
# "configure" and the version before, which dpkg remembers after a removal, too. Nothing is started and nothing stopped: what is
# mounted stays, and the next boot, or whoever runs `nvme-agent setup`, uses the new binary.
set -u

case ${1:-1}:${2:-} in
    1: | configure:) first=yes ;;
    1:* | [2-9]*: | configure:* | abort-remove:*) first=no ;;
    *) exit 0 ;;
esac

# systemd 219 of Amazon Linux 2 does not know groups of system calls. It takes a filter of them for an empty one, with which no
# program starts.
release=$(sed -n -e 's/"//g' -e 's/^ID=//p' -e 's/^VERSION_ID=//p' /etc/os-release 2>/dev/null | sort -r | tr '\n' ' ')
if [ "$release" = "amzn 2 " ]; then
    for unit in nvme-agent.service nvme-agent-report.service nvme-agent-metrics.service; do
        mkdir -p "/etc/systemd/system/$unit.d"
        printf '%s\n' '# Written by the nvme-agent package, for systemd 219.' '[Service]' 'SystemCallFilter=' \
            >"/etc/systemd/system/$unit.d/10-systemd-219.conf"
    done
fi

# What an earlier `nvme-agent install` wrote to /etc would keep these units out of force, and another target than /tmp needs a
# drop-in. An image of another kind of machine cannot run it: there the boot does the rest.
/usr/bin/nvme-agent install --no-enable >/dev/null 2>&1 ||
    echo "nvme-agent: note: could not run here; 'nvme-agent install' on the machine says why"

# At the first installation only, and as the presets say: from then on it is the administrator's to decide. A deb that was removed
# and is back gets what the removal took away, and nothing else.
mark=/var/lib/nvme-agent/enabled-before-removal
before=$(cat "$mark" 2>/dev/null)
rm -f "$mark"
if command -v systemctl >/dev/null 2>&1; then
    if [ "$first" = yes ]; then
        systemctl --no-reload preset nvme-agent.service nvme-agent-report.service nvme-agent-report.timer \
            nvme-agent-metrics.service nvme-agent-metrics.timer >/dev/null 2>&1 ||
            echo "nvme-agent: note: its units are not enabled; 'systemctl preset nvme-agent.service' says why"
    elif [ -n "$before" ]; then
        # shellcheck disable=SC2086 # names of units
        systemctl --no-reload enable $before >/dev/null 2>&1 ||
            echo "nvme-agent: note: units that were enabled before the removal are not; 'systemctl enable nvme-agent.service' says why"
    fi
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
exit 0
