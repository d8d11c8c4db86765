#!/bin/sh
# Make the guest in which the network port meets the real NetworkManager: tests/networkmanager_contract/setup.sh CACHE
#
# A Debian with its kernel (mac80211_hwsim is in it), NetworkManager, wpa_supplicant and hostapd. On the host: QEMU,
# mmdebstrap, e2fsprogs, nothing else. Needs root for mmdebstrap's chroot.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
tree=$(CDPATH='' cd -- "$here/../.." && pwd)
cache=$1

missing=
for pair in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs; do
	program=${pair%%:*}
	command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || missing="$missing ${pair#*:}"
done
if [ -n "$missing" ]; then
	apt-get update -q
	# shellcheck disable=SC2086 # a list of names
	DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends $missing
fi

mkdir -p "$cache"
if [ ! -e "$cache/root/.complete" ]; then
	rm -rf "$cache/root"
	mmdebstrap --quiet --variant=minbase --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--include=network-manager,wpasupplicant,hostapd,dnsmasq-base,nftables,dbus,udev,iproute2,iw,kmod,python3 \
		--include=linux-image-amd64 bookworm "$cache/root"
	touch "$cache/root/.complete"
fi

# One wheel of the lock, by hash, for the guest's Python.
lock=$(sed -n "/^dbus-fast==/,/^[^ ]/{/^dbus-fast==/p;/^    --hash/p}" "$tree/requirements/dev.lock")
sum=$(printf '%s\n' "$lock" | sha256sum | cut -c1-16)
if [ ! -e "$cache/wheels-$sum/.complete" ]; then
	rm -rf "$cache"/wheels-*
	mkdir "$cache/wheels-$sum"
	printf '%s\n' "$lock" >"$cache/wheels.lock"
	"$tree/.venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
		--only-binary=:all: --python-version 3.11 --implementation cp --platform manylinux_2_36_x86_64 \
		--platform manylinux_2_34_x86_64 --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
		--platform manylinux2014_x86_64 --target "$cache/wheels-$sum" -r "$cache/wheels.lock"
	touch "$cache/wheels-$sum/.complete"
fi

# Only the port, its suite and this lane's own files go in.
contract=$cache/root/opt/contract
rm -rf "$contract"
mkdir -p "$contract/gateway/core" "$contract/provisioning/wizard"
cp -R "$cache/wheels-$sum/." "$here/guest/." "$tree/tests/contract/network_suite.py" "$contract/"
cp "$tree/gateway/__init__.py" "$contract/gateway/"
cp "$tree/gateway/core/__init__.py" "$tree/gateway/core/error.py" "$contract/gateway/core/"
cp "$tree/provisioning/__init__.py" "$contract/provisioning/"
for name in __init__ network_dbus network_port; do
	cp "$tree/provisioning/wizard/$name.py" "$contract/provisioning/wizard/"
done
rm -f "$cache/disk.img"
truncate -s 2G "$cache/disk.img"
PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -d "$cache/root" "$cache/disk.img"
echo "$cache: ready"
