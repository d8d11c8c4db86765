#!/bin/sh
# Fetch what the power-cut lane needs: tests/power_cut/setup.sh [cache directory]
#
# On the host: apt packages (QEMU, mmdebstrap, e2fsprogs), nothing else. Everything the guest is made of goes to the
# cache directory: a Debian bookworm that is unpacked and never installed, kernel included, and three wheels by hash.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
tree=$(CDPATH='' cd -- "$here/../.." && pwd)
cache=${1:-${XDG_CACHE_HOME:-/var/tmp}/tillsyn-power-cut}
mirror=http://deb.debian.org/debian
security=http://security.debian.org/debian-security

missing=
for pair in qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap mke2fs:e2fsprogs mount:mount; do
	program=${pair%%:*}
	command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ] || [ -x "/sbin/$program" ] || missing="$missing ${pair#*:}"
done
if [ -n "$missing" ]; then
	sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	$sudo apt-get update -q
	# shellcheck disable=SC2086 # a list of names
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends $missing
fi

mkdir -p "$cache"
if [ ! -e "$cache/debian/.complete" ]; then
	rm -rf "$cache/debian" "$cache/debian.tar"
	# "extract" resolves dependencies and unpacks; no maintainer script runs, on the host or anywhere.
	mmdebstrap --quiet --variant=extract --include=python3.11,dmsetup,busybox-static,linux-image-amd64 \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		bookworm "$cache/debian.tar" "$mirror" "deb $security bookworm-security main"
	mkdir "$cache/debian"
	tar -C "$cache/debian" --no-same-owner -xf "$cache/debian.tar" \
		--exclude='./dev/*' --exclude='*/kernel/drivers/net' --exclude='*/kernel/drivers/gpu' --exclude='*/kernel/drivers/media' \
		--exclude='*/kernel/sound' --exclude='*/kernel/net'
	rm "$cache/debian.tar"
	touch "$cache/debian/.complete"
fi

# The guest's Python is 3.11 whatever runs the host, so its wheels are fetched for it, with the lock's hashes.
wanted="msgspec cryptography cffi tzdata"
lock=$(for name in $wanted; do
	sed -n "/^$name==/,/^[^ ]/{/^$name==/p;/^    --hash/p}" "$tree/requirements/dev.lock"
done)
sum=$(printf '%s\n' "$lock" | sha256sum | cut -c1-16)
if [ ! -e "$cache/wheels-$sum/.complete" ]; then
	rm -rf "$cache"/wheels-*
	mkdir "$cache/wheels-$sum"
	printf '%s\n' "$lock" >"$cache/wheels.lock"
	"$tree/.venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
		--only-binary=:all: --python-version 3.11 --implementation cp \
		--platform manylinux_2_34_x86_64 --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
		--platform manylinux2014_x86_64 --target "$cache/wheels-$sum" -r "$cache/wheels.lock"
	touch "$cache/wheels-$sum/.complete"
fi
echo "$cache: ready"
