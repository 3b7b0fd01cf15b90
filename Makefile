# Everything starts here: `make` lists the targets. The environment lives in .venv and is made when first needed.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
INSTALL = -m pip install --disable-pip-version-check --progress-bar off -q
QUICK = $(addprefix tests/test_,$(addsuffix .py,learners episodes data_published data_folder data_table lightning cli results wandb))

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench slow mutations kills life lowest supply clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

demo: $(VENV)/.made  ## make the environment and run a whole experiment: OP-LSTM on built-in characters, ~3 minutes
	$(RUN) train.py experiment=demo overwrite=true

test: $(VENV)/.made  ## make the environment and pass the tests
	$(RUN) -m pytest -n 2 --dist worksteal -m "not slow"

slow: $(VENV)/.made  ## pass the tests that need a compiler, many processes or minutes
	$(RUN) -m pytest -n 2 --dist worksteal -m slow

lint: $(VENV)/.made  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(VENV)/.made  ## time every learner on sine waves and on images in Omniglot's shape, count what a step does; ~5 minutes
	$(RUN) -m benchmarks

mutations: $(VENV)/.made  ## flip one sign, norm or axis at a time: every one must turn a test red
	$(RUN) -m tests.mutations

kills: $(VENV)/.made  ## kill commands at random moments, 200 times: each must end as an undisturbed one; an hour at most
	$(RUN) -m tests.kill_tests --kills 200 --minutes 60 --outputs outputs/kills

life: $(VENV)/.made  ## train 20 000 steps and more, and see that memory, open files and temporary files stay as they are
	$(RUN) -m tests.long_life

lowest:  ## pass the quick tests with the lowest versions that pyproject.toml allows, in an environment of their own
	$(PYTHON) -m venv --clear build/lowest
	build/lowest/bin/python $(INSTALL) uv
	build/lowest/bin/uv pip install -q --python build/lowest --resolution lowest-direct -e '.[dev,tensorboard,bench,sweeps]'
	build/lowest/bin/python -m pytest -n 2 --dist worksteal $(QUICK)

supply:  ## licences and known vulnerabilities of every dependency, optional ones too, in an environment of their own
	$(PYTHON) -m venv --clear build/supply
	build/supply/bin/python $(INSTALL) -c constraints.txt -e '.[supply]'
	build/supply/bin/pip-licenses --summary
	build/supply/bin/python -m pip freeze --exclude-editable > build/supply/installed
	build/supply/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r build/supply/installed \
		2> build/supply/audit; status=$$?; tail -n 1 build/supply/audit; exit $$status

clean:  ## remove the environment and caches; runs and prepared data stay
	rm -rf $(VENV) build .pytest_cache .hypothesis .mypy_cache .ruff_cache *.egg-info

$(VENV)/.made: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fewshot needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) $(INSTALL) -c constraints.txt -e '.[dev]'
	touch $@
