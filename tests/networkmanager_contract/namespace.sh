#!/bin/sh
# The cases without a radio, in namespaces and a chroot of the Debian that setup.sh unpacked: namespace.sh CACHE
#
# Run by `unshare --net --mount --pid --fork --kill-child`: everything that is started here ends with it. The cable is a
# veth whose far end is in a second namespace. /sys is read-only, by which NetworkManager knows that there is no udev.
set -eu

root=$1/debian
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sys "$root/sys"
mount -t tmpfs run "$root/run"
mount --bind /dev "$root/dev"
mkdir -p "$root/run/dbus" "$root/run/netns" "$root/applets"
ip link set lo up

# shellcheck disable=SC2016 # it is the inner shell's
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/applets exec chroot "$root" /bin/busybox sh -euc '
/bin/busybox --install -s /applets
ip() { /bin/ip "$@"; } # and not the own one of this shell
[ -e /bin/sh ] || busybox ln -s /bin/busybox /bin/sh
ip netns add far
ip link add eth0 type veth peer name far netns far
ip netns exec far ip address add 10.77.0.1/24 dev far
dbus-daemon --system --fork --nopidfile
NetworkManager --config=/opt/contract/NetworkManager.conf >/run/nm.log 2>&1
for _ in $(seq 60); do
	[ "$(nmcli -t -f RUNNING general 2>/dev/null)" = running ] && break
	sleep 0.5
done
nmcli device set eth0 managed yes
sleep 2
echo "namespace: NetworkManager $(NetworkManager --version)"
cd /opt/contract
PYTHONPATH=/opt/contract PYTHONDONTWRITEBYTECODE=1 python3 -u contract.py --namespace ${ONLY:-} || { tail -60 /run/nm.log; exit 1; }
[ -z "${ONLY:-}" ] || exit 0
avahi-daemon --no-drop-root --no-chroot --no-rlimits --daemonize
sleep 2
PYTHONPATH=/opt/contract PYTHONDONTWRITEBYTECODE=1 python3 policy.py
nmcli device set eth0 managed no
ip address replace 10.77.0.2/24 dev eth0
ip link set eth0 up
ip netns exec far ip link set far up
sleep 2
PYTHONPATH=/opt/contract PYTHONDONTWRITEBYTECODE=1 python3 announce.py
'
