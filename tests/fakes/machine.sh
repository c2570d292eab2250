#!/bin/sh
# Called as root: boots a copy of this machine, whose changes stay in memory, and runs one program in it as its only service.
#   machine.sh FOLDER SITE: FOLDER holds check.sh and is /check in the copy, SITE the libraries, /usr/lib/warpline-site there.
# It ends when check.sh has ended, after 10 minutes at most; its words are in FOLDER/log. The machine itself is only read.
set -eu
if [ "${INSIDE-}" != yes ]; then
    INSIDE=yes exec unshare --mount "$0" "$@"
fi
folder=$1 site=$2
mount -t tmpfs tmpfs /mnt
mkdir /mnt/up /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/up,workdir=/mnt/work /mnt/root
mount -t tmpfs tmpfs /run
mkdir -p /mnt/root/check /mnt/root/usr/lib/warpline-site
for each in networking ifupdown-wait-online systemd-networkd-wait-online NetworkManager-wait-online; do
    ln -sf /dev/null "/mnt/root/etc/systemd/system/$each.service" # there is no network in the copy to be waited for
done
cat >/mnt/root/etc/systemd/system/check.service <<'END'
[Unit]
DefaultDependencies=no
Requires=sysinit.target dbus.socket
After=sysinit.target basic.target dbus.socket
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
TimeoutStartSec=600
ExecStart=/bin/sh /check/check.sh
StandardOutput=file:/check/log
StandardError=file:/check/log
END
exec timeout --kill-after=10 620 env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --directory=/mnt/root --register=no --keep-unit \
    --private-network --uuid=0123456789abcdef0123456789abcdef --link-journal=no --console=pipe \
    --bind="$folder:/check" --bind-ro="$site:/usr/lib/warpline-site" --boot systemd.unit=check.service </dev/null
