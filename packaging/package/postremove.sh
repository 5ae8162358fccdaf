#!/bin/sh
# After the package has gone, and after an upgrade. A purge of the deb (apt purge) is the end of what the removal remembered; our
# records of the drives stay with the drives.
if [ "${1:-}" = purge ]; then
    rm -f /var/lib/nvme-agent/enabled-before-removal
    rmdir /var/lib/nvme-agent 2>/dev/null || :
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
exit 0
