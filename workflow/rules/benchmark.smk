rule benchmark:
    """Times of calls: a row per instance and shape (table), each call's time (raw), command,
    machine and versions (run)."""
    input:
        ir=model_files("results/{task}/ir_{precision}"),
        model="results/{task}/model",
        sentences="results/{task}/data/validation.npz",
        dataset="results/{task}/data/source.json",
    output:
        table=report(
            "results/{task}_{precision}_{mode}.csv",
            category="{mode}",
            labels={"task": "{task}", "precision": "{precision}", "what": "times"},
        ),
        raw="results/{task}_{precision}_{mode}.raw.csv.gz",
        run=report(
            "results/{task}_{precision}_{mode}.run.json",
            category="{mode}",
            labels={"task": "{task}", "precision": "{precision}", "what": "how"},
        ),
    log:
        "logs/{task}/{mode}_{precision}.log",
    wildcard_constraints:
        mode="throughput|latency",
    conda:
        "../../envs/engine.yaml"
    threads: timed_cores
    resources:
        timing=1,
        runtime=60,
        mem_mb=8000,
        constraint=machine("constraint"),
        slurm_partition=machine("partition"),
        slurm_account=machine("account"),
        slurm_extra="--exclusive",
    params:
        code=code(
            "workflow/scripts/measure/benchmark.py",
            "engine/measure/instance_worker.py",
            "engine/__init__.py",
        ),
        ir=lambda wildcards, input: Path(input.ir[0]).parent,
        options=lambda wildcards: timing_options(wildcards.mode),
    shell:
        "python -m workflow.scripts.measure.benchmark --task {wildcards.task} --precision {wildcards.precision}"
        " --mode {wildcards.mode} --ir {params.ir} --model {input.model} --sentences {input.sentences}"
        " --dataset {input.dataset} {params.options} --table {output.table} --raw {output.raw}"
        " --run {output.run} 2>&1 | tee {log}"
