# Two commands cover most needs: `make demo` and `make test`. `make` alone lists every target.
PYTHON ?= python3
VENV ?= .venv
UV = $(VENV)/bin/python -m uv
INSTALLED = $(VENV)/.installed

.PHONY: help install demo compare augment submodels test lint lock clean
.DEFAULT_GOAL := help

help:  ## print the targets
	@sed -n 's/^\([a-z]*\):.*##/\1 :/p' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED)  ## install the locked packages and adaptkit into .venv

demo: install  ## install, then run egs/mini: synthesise, train, adapt, decode, score, report
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" egs/mini/run.sh

compare: install  ## compare every kind, three seeds each, on egs/voices; with AN4=folder FSDD=folder on real speech too
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" egs/voices/run.sh --adapter all --jobs 2
	test -z "$(FSDD)" || { export PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; egs/an4/run.sh --corpus "$(AN4)" && \
	  egs/fsdd/run.sh --corpus "$(FSDD)" --config conf/compare.yaml --adapter all --jobs 2; }

augment: install  ## compare augmentations in noise, with AN4=folder FSDD=folder NOISE=folder; resumes where it stopped
	export PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; \
	egs/an4/augment.sh --corpus "$(AN4)" --prepare-options "--noise $(NOISE)" && \
	egs/fsdd/augment.sh --corpus "$(FSDD)" --prepare-options "--noise $(NOISE)"

submodels: install  ## one job against many, tables against spaces, new speakers, on 128 voices; with FSDD=folder real ones too
	export PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; egs/voices/submodels.sh --jobs 2 && \
	{ test -z "$(FSDD)" || egs/fsdd/submodels.sh --corpus "$(FSDD)" --jobs 2; }

test: install  ## install, then run every test
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python -m pytest

lint: install  ## check the code and its layout with ruff
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

lock: install  ## resolve the requirements of setup.cfg again into requirements.lock
	$(UV) pip compile setup.cfg --all-extras --override requirements.overrides --python-version 3.10 \
	  --universal --no-header --no-annotate --upgrade -o requirements.lock

clean:  ## remove what the recipes made (not the installed packages)
	rm -rf egs/*/data egs/*/dump egs/*/exp

# uv installs the lock: pip 26 refuses the metadata of a package that espnet depends on, and pip 23 takes minutes.
$(INSTALLED): requirements.lock setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 12) else \
	  f"adaptkit needs Python 3.10 to 3.12, this is {v[0]}.{v[1]}; choose one with make PYTHON=python3.11")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m uv --version >/dev/null 2>&1 || $(VENV)/bin/python -m pip install -q uv
	$(UV) pip install -q --no-deps -r requirements.lock
	$(UV) pip install -q --no-deps --no-build-isolation -e .
	touch $@
