"""A sparse Transformer, from its source to its measured speed: one rule per arrow, one file per artifact.

snakemake results/sst2_int8_throughput.csv        what there is: config/config.yaml
"""

from snakemake.utils import min_version

min_version("9.19")


configfile: "config/config.yaml"


workflow.global_resources.setdefault("timing", 1)  # no two timed jobs at once


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/quantize.smk"
include: "workflow/rules/compile.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/benchmark.smk"
include: "workflow/rules/sweep.smk"
include: "workflow/rules/contenders.smk"
include: "workflow/rules/bench.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/sparsify.smk"


rule all:
    default_target: True
    input:
        wanted_results(),
        "results/report.html",
