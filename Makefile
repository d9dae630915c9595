# SPDX-License-Identifier: GPL-2.0-or-later
# Every target does its own set-up, once: a virtual environment in .venv, anew when pyproject.toml changes.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# How many tests run at once; one at a time: make test WORKERS=0.
WORKERS ?= 4

# Those with targets (docs/speed.md) come first.
BENCHES ?= start boot compute slices saved kvm placement lpt watch

.PHONY: run test lint bench man need-qemu clean

run: $(STAMP)
	@$(BIN)/pvtime run --vcpus 2 --duration 10

test: need-qemu $(STAMP)
# The tests are compiled once, beside the type checker, and not by every worker: 4 s less.
	@$(BIN)/pytest -q --collect-only > /dev/null 2>&1 & $(MAKE) --no-print-directory lint && wait
	@tools/need aarch64-linux-gnu-as binutils-aarch64-linux-gnu "the guests' bytes are not compared"
	@tools/need x86_64-linux-gnu-as binutils-x86-64-linux-gnu "the guests' bytes are not compared"
	@tools/need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu "the kernel module is not tested"
	@tools/need /usr/share/qemu-efi-aarch64/QEMU_EFI.fd qemu-efi-aarch64 "no firmware starts pvtime judge's image"
	@tools/need /usr/share/lava-common/lava-schema.py lava-common "jobs for LAVA are not checked by LAVA's schema"
	@tools/fetch-prometheus
	@tools/need sqfstar squashfs-tools "a large root file system is not tested"
	@tools/need cpio cpio "what pvtime archives is not listed by another program"
	@tools/need systemd-analyze systemd "the unit of pvtime export is not checked"
	@tools/need kubectl kubernetes-client "the DaemonSet of pvtime export is not checked"
	@$(BIN)/pytest -n $(WORKERS)

lint: $(STAMP)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: $(STAMP) need-qemu
	@rows=$$(mktemp) && trap 'rm -f "$$rows"' EXIT && export PVTIME_BENCH_ROWS="$$rows" && \
	for name in $(BENCHES); do $(BIN)/python bench/$$name.py || exit; done && \
	echo && $(BIN)/python bench/table.py "$$rows"

man: $(STAMP)
	@$(BIN)/python tools/write-man > pvtime.1
	@echo "pvtime.1: man ./pvtime.1, or copy it to ~/.local/share/man/man1"

need-qemu:
	@tools/need qemu-system-aarch64 qemu-system-arm "what runs in the lab is skipped"

clean:
	rm -rf $(VENV) build dist pvtime.1 .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml tools/make-venv
	@tools/make-venv $(VENV)
	@touch $@
