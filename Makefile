# SPDX-License-Identifier: GPL-2.0-or-later
# Every target does its own set-up, once: a virtual environment in .venv, anew when pyproject.toml changes.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# How many tests run at once; one at a time: make test WORKERS=0.
WORKERS ?= 4

# Those with targets (docs/speed.md) come first.
BENCHES ?= start boot compute slices saved kvm placement lpt watch

.PHONY: run test lint bench man fetch need-qemu need-test clean

run: $(STAMP)
	@$(BIN)/pvtime run --vcpus 2 --duration 10

test:
	@$(MAKE) --no-print-directory -j2 $(STAMP) need-test
	@$(MAKE) --no-print-directory -j2 lint fetch
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

# What every worker would compile or wait for. It takes as long as the type checker does.
fetch: $(STAMP)
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -q --collect-only > /dev/null 2>&1 || :
	@tools/fetch-prometheus
	@$(BIN)/pvtime images --fetch > /dev/null 2>&1 || :

NEED_QEMU := qemu-system-aarch64 qemu-system-arm "what runs in the lab is skipped"

need-qemu:
	@tools/need $(NEED_QEMU)

need-test:
	@tools/need $(NEED_QEMU) \
		aarch64-linux-gnu-as binutils-aarch64-linux-gnu "the guests' bytes are not compared" \
		x86_64-linux-gnu-as binutils-x86-64-linux-gnu "the guests' bytes are not compared" \
		aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu "the kernel module is not tested" \
		/usr/share/qemu-efi-aarch64/QEMU_EFI.fd qemu-efi-aarch64 "no firmware starts pvtime judge's image" \
		/usr/share/lava-common/lava-schema.py lava-common "jobs for LAVA are not checked by LAVA's schema" \
		sqfstar squashfs-tools "a large root file system is not tested" \
		cpio cpio "what pvtime archives is not listed by another program" \
		systemd-analyze systemd "the unit of pvtime export is not checked" \
		kubectl kubernetes-client "the DaemonSet of pvtime export is not checked"

clean:
	rm -rf $(VENV) build dist pvtime.1 .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml tools/make-venv
	@tools/make-venv $(VENV)
	@touch $@
