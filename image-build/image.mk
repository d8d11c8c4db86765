# The device's image. Included by the Makefile of the tree; `make` prints these targets with the others.

BOARD ?= qemu
VERSION ?= 0.1.0
# `developer` has a root shell on the serial console; it has a signer of its own, and takes no release's bundle.
VARIANT ?= release
IMAGE_OUT ?= artefacts/image/$(BOARD)$(if $(filter-out release,$(VARIANT)),-$(VARIANT))
IMAGE_CACHE ?= $(or $(XDG_CACHE_HOME),/var/tmp)/tillsyn-image
# Where Debian is read from: empty means what this host's apt reads. A snapshot service's addresses fit as well, and a
# release is built from them, so that its lock can be rebuilt when the mirrors have moved on.
MIRROR ?=
SECURITY_MIRROR ?=
# The certificate whose bundles the image takes; empty means a throw-away signer made on this machine.
KEYRING ?=
# Where weaknesses are reported (a mailto: or https: address), for the release's security.txt.
CONTACT ?=
TRACKER ?=
RELEASE ?= $(IMAGE_OUT)
IMAGE_OPTIONS = --board $(BOARD) --version $(VERSION) --variant $(VARIANT) $(if $(MIRROR),--mirror $(MIRROR)) \
	$(if $(SECURITY_MIRROR),--security-mirror $(SECURITY_MIRROR)) $(if $(KEYRING),--keyring $(abspath $(KEYRING))) \
	$(if $(CONTACT),--contact $(CONTACT))
APT_IMAGE_PROGRAMS := mmdebstrap=mmdebstrap arch-test=arch-test mkfs.erofs=erofs-utils veritysetup=cryptsetup-bin mkfs.vfat=dosfstools \
	mcopy=mtools sfdisk=fdisk depmod=kmod systemctl=systemd rauc=rauc mksquashfs=squashfs-tools git=git openssl=openssl
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)

.PHONY: image image-next image-lock image-verify image-gate image-test bundle sbom apt-image apt-image-lab
APT_IMAGE_LAB_PROGRAMS := qemu-system-aarch64=qemu-system-arm fdtput=device-tree-compiler mcopy=mtools debugfs=e2fsprogs
CUTS ?= 10

apt-image:
	@for pair in $(APT_IMAGE_PROGRAMS); do \
		PATH="$$PATH:/usr/sbin:/sbin" command -v $${pair%%=*} >/dev/null || missing="$$missing $${pair##*=}"; done; \
	[ -e /usr/share/keyrings/debian-archive-trixie-stable.gpg ] || missing="$$missing debian-archive-keyring"; \
	[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || [ "$$(uname -m)" = aarch64 ] || \
		[ -e /usr/lib/binfmt.d/qemu-aarch64.conf ] || missing="$$missing qemu-user-static binfmt-support"; \
	[ -z "$$missing" ] || $(APT) $$missing; } >&2
	@[ "$$(uname -m)" = aarch64 ] || [ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || { \
		$(SUDO) mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc; $(SUDO) /usr/lib/systemd/systemd-binfmt; } >&2

image-lock: setup apt-image ## renew the image's lock: every Debian package and wheel by version and hash (BOARD=qemu)
	$(BIN)/tillsyn image lock $(IMAGE_OPTIONS) --cache $(IMAGE_CACHE)
	$(BIN)/uv pip compile -q --python-version 3.13 --python-platform aarch64-manylinux_2_28 --no-emit-index-url --no-header \
		--no-annotate --generate-hashes -c requirements/dev.lock pyproject.toml -o image-build/lock/wheels-arm64.lock

image: setup apt-image ## build the device's image and its update bundle (BOARD=qemu; root; 10 to 40 minutes)
	$(AS_ROOT) $(BIN)/tillsyn image build $(IMAGE_OPTIONS) --cache $(IMAGE_CACHE) --out $(IMAGE_OUT)
	$(BIN)/tillsyn image bundle $(IMAGE_OUT) --signers $(IMAGE_CACHE)/throw-away
	$(BIN)/tillsyn image show $(IMAGE_OUT)

image-verify: setup apt-image ## build the image a second time, otherwise in every way, and compare to the byte
	rm -rf $(IMAGE_OUT).again
	umask 077; TZ=Asia/Tokyo LC_ALL=sv_SE.UTF-8 HOME=/tmp nice taskset -c 0 $(AS_ROOT) $(BIN)/tillsyn image build \
		$(IMAGE_OPTIONS) --keyring $(or $(abspath $(KEYRING)),$(IMAGE_CACHE)/throw-away/$(VARIANT).pem) \
		--cache $(IMAGE_CACHE)/again --out $(IMAGE_OUT).again
	$(BIN)/tillsyn image compare $(IMAGE_OUT) $(IMAGE_OUT).again || \
		{ command -v diffoscope >/dev/null && diffoscope $(IMAGE_OUT) $(IMAGE_OUT).again; exit 1; }
	$(BIN)/tillsyn image verify $(RELEASE) --built $(IMAGE_OUT).again

apt-image-lab:
	@for pair in $(APT_IMAGE_LAB_PROGRAMS); do \
		PATH="$$PATH:/usr/sbin:/sbin" command -v $${pair%%=*} >/dev/null || missing="$$missing $${pair##*=}"; done; \
	[ -z "$$missing" ] || $(APT) $$missing; } >&2

image-test: setup apt-test apt-image apt-image-lab ## boot the built image in QEMU and try it: a check, walls, power cuts, updates (root; ONLY=armed,check CUTS=10 KEEP=armed FROM=armed; after image-next also ONLY=refused,offered,points)
	newer=$$($(BIN)/python -m tests.image_lab.emulator $(IMAGE_CACHE)) && \
		$(AS_ROOT) env PATH="$${newer:+$$newer:}$$PATH" $(BIN)/python -u -m tests.image_lab --built $(IMAGE_OUT) --signers $(IMAGE_CACHE)/throw-away --cuts $(CUTS) \
		--only "$(ONLY)" --keep "$(KEEP)" --from "$(FROM)"

# The next version, in which one line of the gateway is another: for who wants to see an update, and what it fetches.
NEXT_VERSION ?= 0.2.0
image-next: setup apt-image ## build a next version from this commit with one line of the gateway changed, to update to
	rm -rf $(IMAGE_OUT).next $(IMAGE_OUT).next.tree
	mkdir -p $(IMAGE_OUT).next.tree
	git archive HEAD | tar -x -C $(IMAGE_OUT).next.tree
	sed -i 's/LOG.info("update %s: %s %s"/LOG.info("this update, %s: %s %s"/' $(IMAGE_OUT).next.tree/gateway/services/upkeep.py
	cd $(IMAGE_OUT).next.tree && git init -q && git add -A && \
		git -c user.name=next -c user.email=next@example.org commit -q -m "a line changed"
	! git diff --quiet --no-index gateway/services/upkeep.py $(IMAGE_OUT).next.tree/gateway/services/upkeep.py
	$(AS_ROOT) env PYTHONPATH=$(abspath $(IMAGE_OUT).next.tree) $(BIN)/tillsyn image build $(IMAGE_OPTIONS) --version $(NEXT_VERSION) \
		--keyring $(or $(abspath $(KEYRING)),$(IMAGE_CACHE)/throw-away/$(VARIANT).pem) \
		--cache $(IMAGE_CACHE) --out $(abspath $(IMAGE_OUT).next)
	$(BIN)/tillsyn image bundle $(IMAGE_OUT).next --signers $(IMAGE_CACHE)/throw-away

image-gate: setup ## fail on a locked package with a known fixed vulnerability (TRACKER=Debian's tracker as JSON)
	$(BIN)/tillsyn image gate --board $(BOARD) --tracker $(TRACKER)

bundle: setup apt-image ## sign a built image as an update
	$(BIN)/tillsyn image bundle $(IMAGE_OUT) --signers $(IMAGE_CACHE)/throw-away

sbom: setup ## the image's bill of materials, CycloneDX, on standard output
	@$(BIN)/tillsyn image sbom --board $(BOARD) --version $(VERSION)
