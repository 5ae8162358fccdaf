#!/bin/sh
# After the package has gone, and after an upgrade.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
exit 0
