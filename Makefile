PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
MADE := .venv/made_by_make
ARGS ?=
FOREIGN = $(shell test -L .venv && echo "is a symbolic link" || \
	{ test -e .venv && ! test -e $(MADE) && ! test -e $(READY) && echo "was not made by make"; })

.PHONY: help environment train test check bench compare board own
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

environment: $(READY)  ## .venv with all that is needed, made or brought up to date; PYTHON=python3.12 for another

train: $(READY)  ## train the embedded default and score it; ARGS="configs/... --set ..." for another run
	$(BIN)/python train.py $(ARGS)

test: check  ## the whole suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(READY)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## our training step against the textbook's; appends to benchmarks/results.jsonl and prints the change
	$(BIN)/python benchmarks/throughput.py --record $(ARGS)

compare: $(READY)  ## a comparison of arms over seeds; ARGS="configs/experiments/..." for another
	$(BIN)/python compare.py $(if $(ARGS),$(ARGS),configs/experiments/smoke.yaml)

board: $(READY)  ## TensorBoard of all runs
	$(BIN)/tensorboard --logdir outputs

# An environment is made once and brought up to date in place, never cleared. It is whole only when its last file is
# written: an interrupted install goes on.
$(READY): requirements.txt | own
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + "; choose another with make PYTHON=...")'
	@test -x $(BIN)/pip || { mkdir -p .venv && touch $(MADE) && $(PYTHON) -m venv .venv; }
	@echo "installing PyTorch and the rest into .venv: some 6 GB, minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $(MADE) $@

# What make has not made may belong to another checkout: it is neither changed nor used.
own:
	@$(if $(FOREIGN),$(error .venv $(FOREIGN), and make changes only what it made; move it away, or work in it without make))true
