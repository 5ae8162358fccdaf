#!/bin/sh
# Makes a bootable root disk from a userland and a kernel's modules. Run as root by the lab (tests/src/image.rs).
# $1 work directory (holds channel.pl, lab.service), $2 userland tar, $3 modules tar, $4 PARTUUID, $5 size in MiB
set -eu
work=$1 userland=$2 modules=$3 partuuid=$4 size=$5
root=$work/root
mkdir "$root"
tar -C "$root" --xattrs --numeric-owner -xpf "$userland" --exclude='./dev/*' --exclude='./var/cache/apt/*'
tar -C "$root" --keep-directory-symlink -xf "$modules"
umask 022

install -D -m 755 "$work/channel.pl" "$root/usr/lib/lab/channel.pl"
install -D -m 644 "$work/lab.service" "$root/etc/systemd/system/lab.service"
mkdir -p "$root/etc/systemd/system/sysinit.target.wants"
ln -s ../lab.service "$root/etc/systemd/system/sysinit.target.wants/lab.service"

# A machine id makes it an instance that has booted before: no presets, no first-boot units.
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
echo ip-10-0-1-23 >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 ip-10-0-1-23\n' >"$root/etc/hosts"
echo "PARTUUID=$partuuid / ext4 defaults 0 1" >"$root/etc/fstab"
# Timers that go by the calendar would all fire when a restored machine's clock is set.
for unit in apt-daily.timer apt-daily-upgrade.timer man-db.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer mdcheck_start.timer mdcheck_continue.timer mdmonitor-oneshot.timer \
    logrotate.timer xfs_scrub_all.timer getty@tty1.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# Things of no interest here that cost seconds of every boot under emulation.
for unit in systemd-pstore.service modprobe@efi_pstore.service modprobe@drm.service systemd-hibernate-clear.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# The journal in memory: it is read over the channel, and a kill of the VM leaves no half-written one.
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\nRateLimitBurst=0\n' >"$root/etc/systemd/journald.conf.d/lab.conf"

image=$work/root.img
truncate -s "${size}M" "$image"
printf 'label: gpt\nstart=2048, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=%s\n' "$partuuid" | sfdisk -q "$image"
mkfs.ext4 -q -F -L cloudimg-root -i 32768 -E offset=1048576,lazy_itable_init=0,nodiscard -d "$root" "$image" \
    "$((size - 2))M"
rm -rf "$root"
