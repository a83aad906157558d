.DEFAULT_GOAL := help
.PHONY: help deps build static deb demo test fuzz test-runtimes test-cluster test-vm test-boot test-static test-provision test-deb vagrant-validate lint litmus bench bench-against clean
# cargo is parallel already, and the order of prerequisites is the order of work.
.NOTPARALLEL:

# rustup's own place, for shells that have not read its env file; and that of tc, nft, sysctl, bpftool
# and debootstrap, which Debian puts on root's path only.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin
CLANG_FORMAT ?= clang-format

# Root is for the binaries that talk to the kernel; cargo stays the user's, or target/ would become root's.
ifneq ($(shell id -u),0)
ifneq ($(shell command -v sudo 2>/dev/null),)
SUDO := sudo -E env PATH="$(PATH)"
RUNNER := --config 'target."cfg(unix)".runner = ["sudo", "-E", "env", "PATH=$(PATH)"]'
else
UNPRIVILEGED := @echo '*** Not root, and no sudo: WHAT NEEDS ROOT IS SKIPPED OR FAILS. ***' >&2
endif
endif

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

deps: ## install the Debian packages that are missing for build, test and demo
	@scripts/deps build test

build: ## build target/release/cilmark and target/release/cilmark-sync
	scripts/release

static: ## build a cilmark that needs no library of the machine that it runs on
	@scripts/deps build static
	scripts/static

deb: ## build the Debian packages of cilmark and cilmark-sync in target/debian
	@scripts/deps build deb
	scripts/deb

demo: deps build ## show it at work on real packets, in network namespaces of its own
	$(UNPRIVILEGED)
	$(SUDO) examples/demo.sh
	$(SUDO) examples/policy-test.sh $${CARGO_TARGET_DIR:-target}/release

test: deps ## run every test (as root, through sudo if need be)
	$(UNPRIVILEGED)
	# Some wait for clocks.
	cargo test --locked $(RUNNER) -- --test-threads=$$(($$(nproc) + 2))

fuzz: deps ## make frames and judge them by a model: SECONDS=600 for each target, SEED=0x... of a finding
	$(UNPRIVILEGED)
	CILMARK_FUZZ_SECONDS=$(or $(SECONDS),600) $(if $(SEED),CILMARK_FUZZ_SEED=$(SEED)) \
		cargo test --locked $(RUNNER) --test main -- fuzz:: --nocapture --test-threads=2

test-runtimes: ## start workloads by Docker, Podman, containerd, runc, LXC and libvirt, on hosts of their own: FILTER="part of a name"
	@scripts/deps build test vm runtimes
	$(UNPRIVILEGED)
	CILMARK_RUNTIMES=1 cargo test --locked $(RUNNER) --test main -- runtimes::$(FILTER) --test-threads=1

test-cluster: ## share identities between hosts by real etcds that are stopped, cut off and replaced: FILTER="part of a name"
	@scripts/deps build test
	$(UNPRIVILEGED)
	CILMARK_CLUSTER=1 cargo test --locked $(RUNNER) --package cilmark --test main -- cluster::$(FILTER) --test-threads=3
	CILMARK_CLUSTER=1 cargo test --locked $(RUNNER) --package cilmark-sync --test main -- $(FILTER) --test-threads=3

test-vm: ## run the tests on Debian's kernels, emulated: KERNEL=6.1 or 6.12, FILTER="part of a name ..."; without, test-boot too
	@scripts/deps build test vm
	scripts/test-vm $(addprefix --kernel ,$(KERNEL)) $(if $(ACCEL),--accel $(ACCEL)) $(if $(LIMIT),--limit $(LIMIT)) $(FILTER)
	$(if $(FILTER),,$(MAKE) test-boot)

test-boot: ## boot Debian 12 with the units of packaging/, emulated, again and again: KERNEL=6.1 or 6.12
	@scripts/deps build static vm boot
	@mkdir -p $${CARGO_TARGET_DIR:-target}/vm # or it becomes root's
	$(SUDO) scripts/boot-root >/dev/null
	binary=$$(scripts/static) && scripts/test-boot $(addprefix --kernel ,$(KERNEL)) $(if $(ACCEL),--accel $(ACCEL)) "$$binary"

test-static: ## run the static build on Linux 6.1 (emulated) with busybox alone beside it
	@scripts/deps build static vm
	binary=$$(scripts/static) && scripts/test-static "$$binary"

test-provision: ## run what the Vagrantfile runs, and build the tests, in a fresh Debian 12
	@scripts/deps provision
	@mkdir -p "$${XDG_CACHE_HOME:-$$HOME/.cache}/cilmark" # or it becomes root's
	$(SUDO) scripts/test-provision

test-deb: ## build the packages twice, compare them, and install, upgrade, remove and purge them in a Debian 12 and 13
	@scripts/deps build deb packages
	@mkdir -p "$${XDG_CACHE_HOME:-$$HOME/.cache}/cilmark" # or it becomes root's
	scripts/check-deb $${CARGO_TARGET_DIR:-target}/debian/before
	$(SUDO) scripts/test-deb $${CARGO_TARGET_DIR:-target}/debian $${CARGO_TARGET_DIR:-target}/debian/before

vagrant-validate: ## check the Vagrantfile
	@scripts/deps vagrant
	scripts/vagrant-validate

lint: ## check formatting, warnings, each C header alone, who calls whom, scripts, licences and advisories
	@scripts/deps build lint
	cargo fmt --check
	$(CLANG_FORMAT) --dry-run --Werror $$(find src/bpf benches -name '*.[ch]')
	shellcheck --severity=warning $$(grep -rlE '^#!.*sh$$' .ci examples packaging scripts tests/boot tests/packages tests/runtimes)
	python3 -B -m unittest discover -q -s scripts -p '*_test.py'
	scripts/check-headers
	scripts/check-house
	cargo clippy --all-targets --locked -- -D warnings
	scripts/deny

litmus: ## check the order in which CPUs see a flow's reads and writes, by the kernel's memory model: wants herd7
	scripts/litmus

bench: ## measure everything, and draw docs/performance.md from it: SECTIONS="packet soak" takes some
	@scripts/deps build bench
	$(UNPRIVILEGED)
	scripts/bench $(RUNNER)

bench-against: ## measure what a packet costs here and in another version, in turn, and compare: BASE=commit RUNS=5
	@scripts/deps build bench
	$(UNPRIVILEGED)
	scripts/bench-against $(addprefix --base ,$(BASE)) $(addprefix --runs ,$(RUNS)) $(if $(SUDO),--runner '$(SUDO)') \
		--json $${CARGO_TARGET_DIR:-target}/bench/against.json

clean: ## remove what was built
	cargo clean
