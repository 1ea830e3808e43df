PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-lowest lint bench docs clean

demo: $(VENV)/.installed
	$(BIN)/semu erase --concept cigarette --output demo --overwrite

test: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# The lowest versions that pyproject.toml allows, in an environment of their own.
test-lowest: $(VENV)-lowest/.installed
	$(VENV)-lowest/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.installed
	$(BIN)/python -m eval.pictograms.each

# torch comes first, on its own: with it settled, whatever else needs it cannot pull in another one.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo "error: '$(PYTHON)' is not Python 3.10 or later; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)-lowest/.installed: pyproject.toml scripts/lower_bounds.py
	$(PYTHON) -m venv $(VENV)-lowest
	$(PYTHON) scripts/lower_bounds.py > $(VENV)-lowest/requirements.txt
	$(VENV)-lowest/bin/python -m pip install -r $(VENV)-lowest/requirements.txt
	$(VENV)-lowest/bin/python -m pip install --no-deps -e .
	@touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf demo build/site .pytest_cache .ruff_cache *.egg-info
	find semu_diffusion tests eval scripts -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
