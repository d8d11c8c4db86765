#!/bin/sh
# Fetch what the guest is made of: tests/networkmanager_contract/setup.sh CACHE
#
# A Debian that is unpacked and never installed: its kernel (mac80211_hwsim is in it), NetworkManager, wpa_supplicant,
# hostapd. One wheel of the lock, by hash. On the host: QEMU, mmdebstrap, kmod, nothing else.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
tree=$(CDPATH='' cd -- "$here/../.." && pwd)
cache=$1
mirror=http://deb.debian.org/debian
security=http://security.debian.org/debian-security

missing=
for pair in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap depmod:kmod; do
	program=${pair%%:*}
	command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || [ -x "/sbin/$program" ] || missing="$missing ${pair#*:}"
done
if [ -n "$missing" ]; then
	apt-get update -q
	# shellcheck disable=SC2086 # a list of names
	DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends $missing
fi

mkdir -p "$cache"
if [ ! -e "$cache/debian/.complete" ]; then
	rm -rf "$cache/debian" "$cache/debian.tar"
	# "extract" resolves dependencies and unpacks; no maintainer script runs, on the host or anywhere.
	mmdebstrap --quiet --variant=extract --include=network-manager,wpasupplicant,hostapd,dnsmasq-base,nftables \
		--include=dbus,avahi-daemon,udev,iproute2,iw,kmod,python3,busybox-static,linux-image-amd64 \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		bookworm "$cache/debian.tar" "$mirror" "deb $security bookworm-security main"
	mkdir "$cache/debian"
	tar -C "$cache/debian" --no-same-owner -xf "$cache/debian.tar" --exclude='./dev/*' --exclude='*/kernel/drivers/gpu' \
		--exclude='*/kernel/drivers/media' --exclude='*/kernel/drivers/net/ethernet' --exclude='*/kernel/sound' \
		--exclude='*/kernel/fs' --exclude='*/kernel/drivers/scsi' --exclude='*/kernel/drivers/infiniband' \
		--exclude='*/kernel/drivers/staging' --exclude='*/kernel/drivers/usb' --exclude='*/kernel/drivers/iio'
	rm "$cache/debian.tar"
	touch "$cache/debian/.complete"
fi

lock=$(sed -n "/^dbus-fast==/,/^[^ ]/{/^dbus-fast==/p;/^    --hash/p}" "$tree/requirements/dev.lock")
sum=$(printf '%s\n' "$lock" | sha256sum | cut -c1-16)
if [ ! -e "$cache/wheels-$sum/.complete" ]; then
	rm -rf "$cache"/wheels-*
	mkdir "$cache/wheels-$sum"
	printf '%s\n' "$lock" >"$cache/wheels.lock"
	# The guest's Python is 3.11, whatever runs the host.
	"$tree/.venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
		--only-binary=:all: --python-version 3.11 --implementation cp --platform manylinux_2_36_x86_64 \
		--platform manylinux_2_34_x86_64 --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
		--platform manylinux2014_x86_64 --target "$cache/wheels-$sum" -r "$cache/wheels.lock"
	touch "$cache/wheels-$sum/.complete"
fi
echo "$cache: ready"
