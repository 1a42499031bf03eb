# The workflow, the engine and their pinned packages: docs/elsewhere.md
FROM debian:12-slim

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates git libjemalloc2 make python3.11 python3.11-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/sparse-engine
ENV PATH=/opt/sparse-engine/.venv/bin:$PATH
COPY requirements.txt requirements-data.txt ./
RUN python3.11 -m venv .venv \
    && pip install --no-cache-dir --requirement requirements.txt \
    && pip install --no-cache-dir --no-deps --requirement requirements-data.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --editable .

WORKDIR /work
CMD ["snakemake", "--snakefile", "/opt/sparse-engine/Snakefile", "--cores", "all"]
