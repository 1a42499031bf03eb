rule report:
    input:
        results=wanted_results(),
    output:
        "results/report.html",
    log:
        "logs/report.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        runtime=15,
        mem_mb=2000,
    params:
        code=code("workflow/scripts/report.py"),
    shell:
        "python -m workflow.scripts.report {input.results} --out {output} > {log} 2>&1"


rule every_result:
    input:
        results(config["tasks"], PRECISIONS, SUFFIX),
    output:
        touch("results/all"),
    log:
        "logs/all.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        runtime=5,
        mem_mb=500,
    shell:
        "echo 'all results are there' > {log}"
