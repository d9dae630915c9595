# SPDX-License-Identifier: GPL-2.0-or-later
# Every target does its own set-up, once: a virtual environment in .venv, anew when pyproject.toml changes.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test lint bench clean

run: $(STAMP)
	@$(BIN)/pvtime run --vcpus 2 --duration 10

test: lint
	@tools/need-qemu
	@tools/need-cross
	@$(BIN)/pytest

lint: $(STAMP)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: $(STAMP)
	@tools/need-qemu
	@$(BIN)/python bench/boot.py
	@$(BIN)/python bench/placement.py
	@$(BIN)/python bench/saved.py
	@$(BIN)/python bench/kvm.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml tools/make-venv
	@tools/make-venv $(VENV)
	@touch $@
