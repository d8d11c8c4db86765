# Every task of the project. `make` alone prints this list.

PYTHON ?= python3
CAMERA ?= room
FUZZ_S ?= 60
N ?= 50
RECORDS ?= 10000
SECONDS ?= 600
CAMERA_CACHE ?= $(or $(XDG_CACHE_HOME),/var/tmp)/tillsyn-camera-contract
NM_CACHE ?= $(or $(XDG_CACHE_HOME),/var/tmp)/tillsyn-networkmanager-contract
RAUC_CACHE ?= $(or $(XDG_CACHE_HOME),/var/tmp)/tillsyn-rauc-contract
ONLY ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
APT_PACKAGES := mosquitto python3-venv
# program=package. Only what is missing is asked for: a machine with another packager's Node.js refuses Debian's npm.
APT_TEST_PROGRAMS := chromium=chromium node=nodejs npm=npm shellcheck=shellcheck strace=strace softhsm2-util=softhsm2 zbarimg=zbar-tools \
	systemd-analyze=systemd \
	unshare=util-linux nsenter=util-linux ip=iproute2 pgrep=procps dbus-daemon=dbus wg=wireguard-tools \
	wireguard-go=wireguard-go turnserver=coturn nft=nftables tcpdump=tcpdump tshark=tshark pg_ctlcluster=postgresql
GST_PACKAGES := gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-nice \
	gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0 gir1.2-gst-plugins-bad-1.0 python3-gi
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Where it is set, every process of every test compiles its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup check check-words check-unit check-tree fix demo demo-once test bench centre-load fuzz wizard-run networkmanager-contract mutations power-cut marker-scan net-lab check-soak media-stress second-peer camera-contract lock apt apt-test apt-gst clean outbox-soak rauc-contract fleet-rollout fleet-storm restore return

# What is printed on the way goes to standard error: standard output is the answer of the command that was asked for.
# A fresh machine may still be installing something else: that is waited for.
APT = { $(SUDO) apt-get update -q && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -yq \
	--no-install-recommends

include image-build/image.mk

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP) apt ## install what demo and services need (apt, and wheels by hash into .venv)

apt:
	@command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || $(APT) $(APT_PACKAGES); } >&2

apt-test: apt
	@for pair in $(APT_TEST_PROGRAMS); do \
		command -v $${pair%%=*} >/dev/null || missing="$$missing $${pair##*=}"; done; \
	[ -z "$$missing" ] || $(APT) $$missing; } >&2

apt-gst:
	@dpkg-query -W $(GST_PACKAGES) >/dev/null 2>&1 || $(APT) $(GST_PACKAGES); } >&2

$(STAMP): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(APT) python3-venv; } >&2
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked wheels into $(VENV)" >&2
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/dev.lock >&2
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e . >&2
	@touch $(STAMP)

demo: setup ## one home and one centre on this machine; prints the console's address (CAMERA=room|file:PATH|v4l2:/dev/videoN)
	@$(BIN)/tillsyn demo --camera "$(CAMERA)"

demo-once: setup ## the same without a browser: one check, one JSON object on standard output
	@$(BIN)/tillsyn demo --once --camera "$(CAMERA)"

check: $(STAMP) ## format, lint, types, import contracts, and the tests that start no services (under a minute)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target check-unit check-words check-tree

check-words:
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/lint-imports >/dev/null || $(BIN)/lint-imports
	$(BIN)/codespell gateway centre provisioning tests docs *.md
	$(BIN)/mypy

# Two lanes of make, and no workers within them: to gather the tests twice and tell of each costs more than it saves.
QUICK = $(BIN)/python -m pytest -q -p no:schemathesis -p no:xdist -m "not slow"

check-unit:
	$(QUICK) tests/unit

check-tree:
	$(QUICK) tests/contract tests/house tests/mutations

fix: $(STAMP) ## let the formatter and the linter mend what they can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup apt-test check ## every test: the checks above, then services, faults and a real browser
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=line test-slow test-services
	$(BIN)/python -m pytest -q -m alone tests/service tests/faults

test-slow:
	nice -n 5 $(BIN)/python -m pytest -q -m slow tests/contract tests/unit

# These wait more than they work: what is left of the processors is for the lane beside them.
test-services:
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not alone" tests/service tests/faults tests/browser

restore: setup ## two homes, a centre's backup taken under load, and a centre that begins again from it
	$(BIN)/python -m pytest -q -s tests/restore

return: setup ## a returned device: what its erasing counts on, with LUKS2 on a loop device (root)
	@command -v cryptsetup >/dev/null || $(APT) cryptsetup-bin; } >&2
	$(BIN)/python -m pytest -q tests/returning tests/contract/test_volume.py tests/unit/test_erase.py tests/unit/test_returned_device.py

wizard-run: setup apt-test ## the installer's evening at length: both languages, failures, power cuts, sslyze
	@command -v cc >/dev/null || $(APT) gcc libc6-dev; } >&2
	@[ -x $(VENV)/tls/bin/python ] || $(PYTHON) -m venv $(VENV)/tls
	@$(VENV)/tls/bin/python -m pip install -q --require-hashes -r requirements/tls.lock >&2
	$(BIN)/python -m pytest -q -s tests/wizard

fuzz: $(STAMP) ## hostile bytes at every door for FUZZ_S seconds (default 60)
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/fuzz.lock >&2
	$(BIN)/python tests/fuzz --seconds $(FUZZ_S)

power-cut: $(STAMP) ## cut the power of a small guest N times under a ledger that is being written (root; slow)
	tests/power_cut/setup.sh >&2
	$(BIN)/python tests/power_cut --cuts $(N) --prove

net-lab: setup apt-test ## a check through each network in namespaces, a table (root; ONLY=plain,udp-blocked)
	$(BIN)/python -m tests.net_lab --only "$(ONLY)"

media-stress: setup apt-test ## the picture at 200 ms, 5 % loss and 400 kbit/s; covered when old; stills below (root)
	$(BIN)/python -m tests.stress

check-soak: setup apt-test ## N checks in a row through the tunnel, and what they leave behind (root; slow)
	$(BIN)/python -m tests.net_lab.soak --checks $(N)

second-peer: setup apt-gst ## GStreamer's webrtcbin plays the stream in the browser's place; frames decoded, one line
	@$(BIN)/python -m tests.second_peer

outbox-soak: setup ## RECORDS records (default 10000) without a broker, processes killed in between; then once and in order
	$(BIN)/python tests/soak/outbox.py --records $(RECORDS)

marker-scan: setup ## stream marker frames for SECONDS (default 600) and look for them in all that was written (root)
	$(BIN)/python tests/marker_scan --seconds $(SECONDS)

camera-contract: $(STAMP) ## the camera's adapter against the real picamera2 and libcamera in a Debian trixie (root; first time slow)
	@command -v mmdebstrap >/dev/null || $(APT) mmdebstrap; } >&2
	tests/camera_contract/setup.sh "$(CAMERA_CACHE)" >&2
	$(SUDO) unshare --mount --pid --fork sh -c 'mount -t proc proc "$$0/proc" && exec chroot "$$0" env \
		PYTHONPATH=/opt/tree:/opt/wheels PYTHONDONTWRITEBYTECODE=1 python3 /opt/tree/contract.py' "$(CAMERA_CACHE)/trixie"

networkmanager-contract: $(STAMP) ## the wizard's network port against Debian's NetworkManager and simulated radios in QEMU (root; slow)
	tests/networkmanager_contract/setup.sh "$(NM_CACHE)" >&2
	$(BIN)/python -m tests.networkmanager_contract "$(NM_CACHE)" --build-only
	$(SUDO) unshare --net --mount --pid --fork --kill-child tests/networkmanager_contract/namespace.sh "$(NM_CACHE)"
	nice -n 19 $(BIN)/python -m tests.networkmanager_contract "$(NM_CACHE)"

mutations: $(STAMP) ## break the guard on purpose, one line at a time; every break must turn a test red
	PYTHONPATH=. $(BIN)/python -m tests.mutations

bench: setup apt-gst ## ratios, each measured against something beside it in the same run
	$(BIN)/python -m bench

centre-load: setup apt-test ## the centre under N simulated homes (default 1000; N="250 500 1000 2000"): waits, CPU, memory
	$(BIN)/python -m bench.centre_load $(if $(filter 50,$(N)),1000,$(N))

rauc-contract: setup apt-test ## upkeep's adapter and proxy against the real RAUC 1.13 of a Debian trixie (root; first time slow)
	@command -v mmdebstrap >/dev/null || $(APT) mmdebstrap; } >&2
	tests/rauc/setup.sh "$(RAUC_CACHE)" >&2
	TILLSYN_RAUC_ROOT="$(RAUC_CACHE)/trixie" $(BIN)/python -m pytest -q tests/rauc

fleet-rollout: setup apt-test ## a rollout over N played gateways (default 2000), 3 % of them failing: figures as JSON (slow)
	nice -n 19 $(BIN)/tillsyn fleet simulate $(if $(filter 50,$(N)),2000,$(N)) --limit-s 3600

fleet-storm: setup apt-test ## N connections (default 2000), the broker restarts: a histogram, and what is lost (slow)
	nice -n 19 $(BIN)/tillsyn fleet storm $(if $(filter 50,$(N)),2000,$(N)) --limit-s 3600

lock: $(STAMP) ## renew requirements/dev.lock: every wheel by version and hash, no addresses
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra centre --extra setup --extra factory --extra dev pyproject.toml -o requirements/dev.lock

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
