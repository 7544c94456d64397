# Apus. `make run` and `make test` are all a newcomer needs; README.md explains the rest.

# One optimised build for product and tests alike (preconditions stay on), so that neither
# undoes the other's work and byte loops run at full speed under test.
SWIFT_FLAGS := -c release -Xswiftc -enable-testing
PACKAGES := libisal-dev liburing-dev libsqlite3-dev
TEST_PACKAGES := rclone python3-venv
# The yardsticks of `make bench`.
BENCH_PACKAGES := fio nginx-light iperf3 linux-perf
DIR ?= apus-data
# The clients that tests use, apart from the system's.
VENV := .venv
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help
help:
	@echo "make run     build, and run a cluster under DIR=$(DIR)"
	@echo "make test    build, and run all tests with the clients they need"
	@echo "make build   the program: .build/release/apus"
	@echo "make deb     a Debian package: .build/apus_VERSION_ARCH.deb"
	@echo "make lint    check the format of the sources"
	@echo "make chaos   kills, cuts, lost and rotten disks by chance under a load that checks every answer; ARGS=\"--minutes N --seed N\""
	@echo "make bench   measure everything beside its yardstick; ARGS=\"--rows 9,10 --json FILE\""
	@echo "make simulate  Raft clusters from seeds until one fails; ARGS=\"[--driver] --from SEED --minutes N\""
	@echo "make mutants   that the simulator finds defects put into Raft's core; ARGS=--driver: into driver and log"
	@echo "make bench-kernels   measure the arithmetic beside ISA-L and memcpy"
	@echo "make deps    install the system packages that the build needs"
	@echo "make proto   generate the Swift of the protobuf messages"

.PHONY: deps
deps:
	@missing=""; for package in $(PACKAGES); do \
		dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then $(SUDO) apt-get update -q && \
		$(SUDO) apt-get install -y -q --no-install-recommends $$missing; fi

.PHONY: deps-test
deps-test: deps
	@missing=""; for package in $(TEST_PACKAGES); do \
		dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then $(SUDO) apt-get update -q && \
		$(SUDO) apt-get install -y -q --no-install-recommends $$missing; fi
	@[ -x $(VENV)/bin/aws ] || { python3 -m venv $(VENV) && \
		$(VENV)/bin/pip install -q awscli boto3 pyarrow; }

.PHONY: build
build: deps
	swift build $(SWIFT_FLAGS) --product apus

.PHONY: run
run: build
	.build/release/apus up --dir $(DIR)

# All programs and the tests, and no more: --build-tests also builds what the packages below have,
# such as protobuf's compiler in C++.
PRODUCTS := apus simulate http-load datapath-bench kernel-bench raft-bench scm-bench

# Eight tests at a time: all at once starve each other of the two threads that a small machine has,
# and what waits for a peer with a deadline then meets it. Where a test hangs, the last lines name it.
.PHONY: test
test: deps-test deps-deb
	for product in $(PRODUCTS) apusPackageTests; do \
		swift build $(SWIFT_FLAGS) --product $$product || exit 1; done
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" bash -o pipefail -c 'timeout --kill-after 10 2400 \
		swift test $(SWIFT_FLAGS) --skip-build --experimental-maximum-parallelization-width 8 2>&1 \
		| tee .build/unit-tests.log' || { echo "What failed, once more:"; \
		grep -a -E "^(✘|↳)" .build/unit-tests.log; exit 1; }
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/conformance.py
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/cluster_test.py
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/idle_sockets.py
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/load_test.py
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/failover_test.py
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/disk_test.py --nouns om --seconds 10 --out .build
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/failing_disks_test.py --out .build
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/recovery_test.py
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/repair_test.py
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/leaving_test.py
	Sources/apus/Package/build-deb.sh .build/release .build
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/hosts_test.py
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/partition_test.py --out .build
	$(VENV)/bin/python Tests/Cluster/expected_test.py

# Stops after ARGS="--minutes N", 2 otherwise, and prints the command that repeats it; logs of what
# failed are kept in .build.
.PHONY: chaos
chaos: build deps-test
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Tests/Cluster/chaos.py --out .build $(ARGS)

# A package counts as there if another one brought its program: nginx-light beside nginx-core.
# RUNLEVEL=1 keeps Debian from starting nginx as a service.
.PHONY: deps-bench
deps-bench: deps-test
	@missing=""; for package in $(BENCH_PACKAGES); do \
		PATH="$$PATH:/usr/sbin" command -v $${package%-light} >/dev/null 2>&1 || \
			missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then $(SUDO) apt-get update -q && \
		$(SUDO) env RUNLEVEL=1 apt-get install -y -q --no-install-recommends $$missing; fi

# Rows, rounds and output: make bench ARGS="--rows 9,10 --rounds 7 --quick --json FILE"
.PHONY: bench
bench: build deps-bench
	swift build $(SWIFT_FLAGS) --product http-load
	swift build $(SWIFT_FLAGS) --product datapath-bench
	swift build $(SWIFT_FLAGS) --product kernel-bench
	swift build $(SWIFT_FLAGS) --product scm-bench
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python Bench/bench.py $(ARGS)

.PHONY: bench-kernels
bench-kernels: deps
	swift build $(SWIFT_FLAGS) --product kernel-bench
	.build/release/kernel-bench

# Stops at the first failure with the command that repeats it, or after ARGS="--minutes N".
.PHONY: simulate
simulate:
	swift build $(SWIFT_FLAGS) --product simulate
	.build/release/simulate $(ARGS)

# Each defect of the core is built into a copy of it; those of driver and log (ARGS=--driver) are all
# in one program, built once. Both take minutes; words in ARGS choose defects by name.
.PHONY: mutants
mutants:
	python3 Tests/Mutants/mutants.py $(ARGS)

# dpkg-shlibdeps tells which libraries the program needs.
.PHONY: deps-deb
deps-deb:
	@command -v dpkg-shlibdeps >/dev/null || { $(SUDO) apt-get update -q && \
		$(SUDO) apt-get install -y -q --no-install-recommends dpkg-dev; }

.PHONY: deb
deb: build deps-deb
	Sources/apus/Package/build-deb.sh .build/release .build

.PHONY: lint
lint:
	swift format lint --strict --recursive --parallel Package.swift Sources Tests Bench

.PHONY: format
format:
	swift format --in-place --recursive --parallel Package.swift Sources Tests Bench

# The Swift of the protobuf messages is committed; run this after changing a .proto.
.PHONY: proto
proto:
	protoc -I Sources/Wire/proto --swift_opt=Visibility=Public \
		--swift_out=Sources/Wire/Generated Sources/Wire/proto/*.proto
