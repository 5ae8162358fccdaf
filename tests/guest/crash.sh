# shellcheck shell=bash
# Sourced by the crash scenarios (tests/src/scenarios/crash.rs): few forks, each costs 30 ms here.

# Device nodes of the instance-store drives, by serial.
drives() {
    local c s
    for c in /sys/class/nvme/nvme*; do
        read -r s < "$c/serial"
        case $s in AWS*) for n in "$c"/nvme*n*; do echo "$s /dev/${n##*/}"; done ;; esac
    done | sort | cut -d' ' -f2
}

# Nothing mounted from our drives, nothing assembled. What is on them stays.
settle_down() {
    local dev on rest md
    while read -r dev on rest; do
        case $dev in /dev/md* | /dev/nvme*) [ "$on" = / ] || umount "$on" ;; esac
    done < /proc/mounts
    for md in /sys/block/md*; do
        [ ! -e "$md" ] || mdadm --stop --quiet "/dev/${md##*/}"
    done
    return 0
}

# Without systemd, as far as the agent can tell: a daemon-reload takes seconds under emulation, and so many cases would each
# cost two. systemd never hears of our fstab line then. Nor of the arrays: it would stop Debian 13's own tmp.mount for an
# array that udev calls not ready, whatever is mounted there by then, and nobody waits for it here.
without_systemd() {
    mv /run/systemd/system /run/systemd/hidden
    mkdir -p /run/udev/rules.d
    echo 'KERNEL=="md*", ENV{SYSTEMD_READY}="0"' > /run/udev/rules.d/99-zz-lab.rules
    udevadm control --reload
}

# Our files as they were when the VM was restored.
forget() {
    local reload=
    [ -e /var/lib/lab-crash ] || { mkdir /var/lib/lab-crash; cp -p /etc/fstab /etc/mdadm/mdadm.conf /var/lib/lab-crash/; }
    cmp -s /var/lib/lab-crash/fstab /etc/fstab || reload=1
    cp -p /var/lib/lab-crash/fstab /etc/fstab
    cp -p /var/lib/lab-crash/mdadm.conf /etc/mdadm/mdadm.conf
    rm -rf /var/lib/nvme-agent /run/nvme-agent /etc/tmpfiles.d/tmp.conf /run/mdadm/creating-*
    # With the old line in mind systemd would unmount whatever is at the target as soon as the device goes.
    [ -z "$reload" ] || [ ! -d /run/systemd/system ] || systemctl daemon-reload
}

# A fresh instance: blank drives, no memory of earlier runs.
reset() {
    local d
    forget
    settle_down
    for d in $(drives); do blkdiscard -f "$d" 2> /dev/null & done
    wait
    rm -rf /data
    [ ! -e /run/udev/control ] || udevadm settle
}

# A filesystem of ours with a file in it, as users have it.
in_use() {
    [ -e /tmp/kept ] || { reset; nvme-agent setup > /run/in_use.out; echo kept > /tmp/kept; sync; }
}

# $1 is FAILPOINTS, the rest a command. Returns when a failpoint says that it hangs; the command's pid is in /run/hung.
until_hung() {
    local points=$1
    shift
    : > /run/hung.err
    FAILPOINTS=$points "$@" > /run/hung.out 2> /run/hung.err &
    echo $! > /run/hung
    for _ in {1..1200}; do
        ! grep -q '^failpoint .* reached' /run/hung.err || return 0
        [ -e "/proc/$!" ] || break
        sleep 0.05
    done
    cat /run/hung.out /run/hung.err >&2
    echo 'did not get as far as the failpoint' >&2
    return 1
}

# The filesystem that is in use, or could be.
was() {
    local device
    for device in $(findmnt -rno SOURCE "${1:-/tmp}" | grep '^/dev/') /dev/md0 $(drives | head -n 1); do
        [ ! -e "$device" ] || ! blkid -p -o value -s UUID "$device" || break
    done
}

# What a user would notice, KEY VALUE a line.
facts() {
    local target=${1:-/tmp} source at
    findmnt -rno SOURCE "$target" | while read -r source; do echo "source $source"; done
    source=$(findmnt -rno SOURCE "$target" | tail -n 1)
    case $source in
    /dev/*)
        echo "fs $(blkid -p -o value -s UUID "$source")"
        case $source in /dev/md*) mdadm --detail "$source" | sed -n 's/^ *UUID : /array /p' ;; esac
        echo "options $(findmnt -rno OPTIONS "$target" | tail -n 1)"
        echo "mode $(stat -c %a "$target")"
        ;;
    esac
    grep -H '^UUID=.* x-systemd' /etc/fstab | sed 's/^/fstab /' || true
    echo "fstab-lines $(grep -c "^UUID=[^ ]* $target " /etc/fstab)"
    echo "mdadm-lines $(grep -c '^ARRAY' /etc/mdadm/mdadm.conf)"
    for at in /var/lib/nvme-agent/intent.json /var/lib/nvme-agent/.* /etc/.*nvme-agent* /etc/mdadm/.*nvme-agent* \
        /etc/tmpfiles.d/.*nvme-agent* /dev/.nvme-agent* /run/mdadm/creating-* /run/mdadm/map.lock; do
        case $at in */.|*/..) ;; *) [ ! -e "$at" ] || echo "left $at" ;; esac
    done
}
