PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
ARGS ?=

.PHONY: train test check bench compare board clean-venv

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

# The environment is whole only when its last file is written: an interrupted install starts again.
$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + "; choose another with make PYTHON=...")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
