#!/bin/sh
# The first process of the aarch64 machine (tests/src/arm/boot.rs): runs each line of /commands, tells the console what came
# of it, and switches off.
export PATH=/usr/sbin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
# The kernel's own messages would come in the middle of an answer.
dmesg -n 1
while read -r command; do
    sh -c "$command" </dev/null >/run/out 2>/run/err
    code=$?
    sed 's/^/LAB out /' /run/out
    sed 's/^/LAB err /' /run/err
    echo "LAB end $code"
done </commands
poweroff -f
