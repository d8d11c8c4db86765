#!/bin/sh
# A Debian trixie root with RAUC 1.13 in it and nothing else: tests/rauc/setup.sh CACHE. Needs root and mmdebstrap.
set -eu

cache=$1
mkdir -p "$cache"
if [ ! -e "$cache/trixie/.complete" ]; then
	rm -rf "$cache/trixie"
	mmdebstrap --quiet --variant=extract --include=rauc,squashfs-tools \
		--keyring=/usr/share/keyrings/debian-archive-trixie-stable.gpg trixie "$cache/trixie"
	mkdir -p "$cache/trixie/mnt" "$cache/trixie/proc" "$cache/trixie/dev"
	# RAUC reads streams as this user.
	echo 'nobody:x:65534:65534:nobody:/:/bin/false' >"$cache/trixie/etc/passwd"
	echo 'nogroup:x:65534:' >"$cache/trixie/etc/group"
	touch "$cache/trixie/.complete"
fi
