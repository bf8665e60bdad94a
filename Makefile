# Two commands cover most needs: `make demo` and `make test`. `make` alone lists every target.
PYTHON ?= python3
VENV ?= .venv
UV = $(VENV)/bin/python -m uv
INSTALLED = $(VENV)/.installed
INSTALLED_TEST = $(VENV)/.installed-test
IN_VENV = export PATH="$(abspath $(VENV))/bin:$$PATH"

.PHONY: help install install-test demo compare augment submodels speakers bench-gpu test test-next-espnet check fuzz kill audit lint catalog readme docs lock clean
.DEFAULT_GOAL := help

help:  ## print the targets
	@sed -n 's/^\([a-z-]*\):.*##/\1 :/p' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED)  ## install adaptkit and the locked packages it needs into .venv

install-test: $(INSTALLED_TEST)  ## install what the tests need besides

demo: install  ## install, then run egs/mini: synthesise, train, adapt, decode, score, report
	$(IN_VENV); egs/mini/run.sh

compare: install  ## compare adapters, three seeds each, on egs/voices; with AN4=folder FSDD=folder on real speech too
	$(IN_VENV); egs/voices/compare.sh --jobs 2 && \
	{ test -z "$(FSDD)" || { egs/an4/run.sh --corpus "$$(realpath "$(AN4)")" && \
	  egs/fsdd/compare.sh --corpus "$$(realpath "$(FSDD)")" --jobs 2; }; }

augment: install  ## compare augmentations in noise, with AN4=folder FSDD=folder NOISE=folder; resumes where it stopped
	$(IN_VENV); egs/an4/augment.sh --corpus "$$(realpath "$(AN4)")" --prepare-options "--noise $$(realpath "$(NOISE)")" && \
	egs/fsdd/augment.sh --corpus "$$(realpath "$(FSDD)")" --prepare-options "--noise $$(realpath "$(NOISE)")"

submodels: install  ## one job against many, speaker embeddings, new speakers, on 128 voices; with FSDD=folder real ones too
	$(IN_VENV); egs/voices/submodels.sh --jobs 2 && \
	{ test -z "$(FSDD)" || egs/fsdd/submodels.sh --corpus "$$(realpath "$(FSDD)")" --jobs 2; }

speakers: install  ## adapt to 50 people, with SPEECHOCEAN=folder AN4=folder; resumes where it stopped, as all of these do
	$(IN_VENV); cd egs/speechocean762; export prepare="--an4 $(abspath $(AN4)) --nj 2"; \
	./run.sh --corpus "$(abspath $(SPEECHOCEAN))" --prepare-options "$$prepare" && \
	./compare.sh --corpus "$(abspath $(SPEECHOCEAN))" --prepare-options "$$prepare" --jobs 2 && \
	./checkpoints.sh --jobs 2 && \
	./submodels.sh --corpus "$(abspath $(SPEECHOCEAN))" --prepare-options "$$prepare" --jobs 2 && ./budget.sh --jobs 2

# A host without a network has torch, PEFT and a folder, SITE, with the other packages: see docs/speed.md.
bench-gpu: $(if $(SITE),,install-test)  ## run all benchmarks on a GPU into exp/bench, with OPTIONS=--small on a CPU; see docs/speed.md
	$(if $(SITE),export PYTHONPATH="$(abspath $(SITE)):$(CURDIR)"; $(PYTHON),$(IN_VENV); python) \
	  -m adaptkit bench gpu --out exp/bench $(OPTIONS)

# Each worker runs whole files, with one thread; compiled modules are kept, which halves the start of every process.
WORKERS ?= 3
PYTEST = $(IN_VENV); export PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1; \
	python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

test: install-test  ## install, then run every test
	$(PYTEST)

# The wheel is pure Python and runs on 3.11 too; everything else that it needs is installed already.
NEXT_ESPNET = $(abspath $(VENV))/next-espnet
test-next-espnet: install-test  ## test base models and adapters with ESPnet 202611 too, unpacked beside 202511
	$(UV) pip install -q --no-deps --python-version 3.12 --target $(NEXT_ESPNET) -r requirements-next-espnet.lock
	export PYTHONPATH=$(NEXT_ESPNET); $(PYTEST) tests/base tests/adapters tests/model

check: lint  ## check the code and its layout, then run the tests that start no processes and take no seconds
	$(PYTEST) -q -m "not slow"

fuzz: install-test  ## try N damaged inputs (N=20000) and print what they did, by class
	$(IN_VENV); OMP_NUM_THREADS=1 python -m tests.fuzz $(or $(N),2000) --jobs $(WORKERS)

kill: install-test  ## kill commands that write N times (N=40), and fill their disk; they must go on to the same files
	$(IN_VENV); python -m tests.kill $(or $(N),40)

lint: install-test  ## check the code with ruff, and which module may import which with import-linter
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/lint-imports

catalog: install  ## describe the adapter types again in adaptkit/adapters/catalog.json, after one has changed
	$(IN_VENV); python -m adaptkit.adapters.describe

readme: install  ## fill the tables of README.md and docs/ from the results again, after these have changed
	$(VENV)/bin/python docs/theme/tables.py

docs: install-test  ## build the documentation into site/, without a network; links that lead nowhere are errors
	$(IN_VENV); NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict --quiet

# The second lock holds what the first has not: what the tests need besides. The third is for test-next-espnet.
LOCK = $(UV) pip compile setup.cfg --override requirements.overrides --python-version 3.10 --universal \
	--generate-hashes --no-header --no-annotate --upgrade
lock: install  ## resolve the requirements of setup.cfg again into requirements.lock and requirements-test.lock
	$(LOCK) --extra mini --extra serve -o requirements.lock
	$(LOCK) --all-extras -c requirements.lock -o requirements-all.lock
	awk 'NR == FNR { if (/==/) locked[$$0]; next } /==/ { is_new = !($$0 in locked) } is_new' \
	  requirements.lock requirements-all.lock >requirements-test.lock
	rm requirements-all.lock
	printf 'espnet==202611\nomniio\n' | $(UV) pip compile - --no-deps --python-version 3.12 --generate-hashes \
	  --no-header --no-annotate --upgrade -o requirements-next-espnet.lock

audit: install  ## look up the locked packages among known vulnerabilities; needs the network
	$(UV) tool run pip-audit --strict --disable-pip --no-deps -r requirements.lock

clean:  ## remove what the recipes made (not the installed packages)
	rm -rf egs/*/data egs/*/dump egs/*/exp

# uv installs the locks: pip 26 refuses the metadata of a package that espnet depends on, and pip 23 takes minutes.
$(INSTALLED): requirements.lock setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 12) else \
	  f"adaptkit needs Python 3.10 to 3.12, this is {v[0]}.{v[1]}; choose one with make PYTHON=python3.11")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m uv --version >/dev/null 2>&1 || $(VENV)/bin/python -m pip install -q uv
	$(UV) pip install -q --no-deps -r requirements.lock
	$(UV) pip install -q --no-deps --no-build-isolation -e .
	touch $@

$(INSTALLED_TEST): $(INSTALLED) requirements-test.lock
	$(UV) pip install -q --no-deps -r requirements-test.lock
	touch $@
