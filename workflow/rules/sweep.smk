use rule benchmark as benchmark_on with:
    output:
        table="results/machines/{machine}/{task}_{precision}_{mode}.csv",
        raw="results/machines/{machine}/{task}_{precision}_{mode}.raw.csv.gz",
        run="results/machines/{machine}/{task}_{precision}_{mode}.run.json",
    log:
        "logs/{task}/{mode}_{precision}_{machine}.log",


use rule benchmark as sweep_point with:
    output:
        table="results/sweep/{task}_{precision}_{mode}_{batch}x{length}_{cores}.csv",
        raw="results/sweep/{task}_{precision}_{mode}_{batch}x{length}_{cores}.raw.csv.gz",
        run="results/sweep/{task}_{precision}_{mode}_{batch}x{length}_{cores}.run.json",
    log:
        "logs/{task}/sweep_{precision}_{mode}_{batch}x{length}_{cores}.log",
    params:
        options=point_options,


rule join_machines:
    """The timed results of every machine of `machines`, a column for its name."""
    input:
        tables=machine_tables,
    output:
        report("results/machines.csv", category="machines"),
    log:
        "logs/machines.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        runtime=5,
        mem_mb=500,
    params:
        code=code("workflow/scripts/measure/join.py"),
    shell:
        "python -m workflow.scripts.measure.join {input.tables} --column machine --out {output} > {log} 2>&1"


rule join_sweep:
    """The timed results of every point of `sweep`."""
    input:
        tables=sweep_tables,
    output:
        report("results/{task}_sweep.csv", category="sweep", labels={"task": "{task}"}),
    log:
        "logs/{task}/sweep.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        runtime=5,
        mem_mb=500,
    params:
        code=code("workflow/scripts/measure/join.py"),
    shell:
        "python -m workflow.scripts.measure.join {input.tables} --out {output} > {log} 2>&1"
