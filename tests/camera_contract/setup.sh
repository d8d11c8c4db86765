#!/bin/sh
# Make the Debian trixie in which the camera's contract runs: tests/camera_contract/setup.sh CACHE
#
# A root with Python 3.13 and libcamera from Debian, and picamera2 with what it needs as wheels by hash. Needs root (it
# is entered by chroot), mmdebstrap, and the tree's .venv for pip.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
tree=$(CDPATH='' cd -- "$here/../.." && pwd)
cache=$1

mkdir -p "$cache"
if [ ! -e "$cache/trixie/.complete" ]; then
	rm -rf "$cache/trixie"
	mmdebstrap --quiet --variant=apt --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--include=python3,python3-libcamera,python3-numpy,python3-pil,python3-prctl,python3-jsonschema,python3-piexif \
		--include=python3-tqdm,python3-libarchive-c,libcamera-tools,libcamera-ipa trixie "$cache/trixie"
	touch "$cache/trixie/.complete"
fi

lock=$tree/requirements/camera-contract.lock
sum=$(sha256sum "$lock" | cut -c1-16)
if [ ! -e "$cache/trixie/opt/wheels-$sum/.complete" ]; then
	rm -rf "$cache"/trixie/opt/wheels-*
	"$tree/.venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes \
		--only-binary=:all: --python-version 3.13 --implementation cp --platform manylinux_2_28_x86_64 \
		--platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --target "$cache/trixie/opt/wheels-$sum" -r "$lock"
	touch "$cache/trixie/opt/wheels-$sum/.complete"
fi
ln -sfn "wheels-$sum" "$cache/trixie/opt/wheels"

# Only the device's package and this contract go in.
rm -rf "$cache/trixie/opt/tree"
mkdir -p "$cache/trixie/opt/tree"
cp -R "$tree/gateway" "$here/contract.py" "$cache/trixie/opt/tree/"
