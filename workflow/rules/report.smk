rule report:
    """Tables and plots of what the configuration asks for."""
    input:
        results=wanted_results(),
    output:
        report("results/report.html", category="Report"),
    log:
        "logs/report.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        runtime=15,
        mem_mb=2000,
    params:
        code=code("workflow/scripts/measure/report.py"),
    shell:
        "python -m workflow.scripts.measure.report {input.results} --out {output} > {log} 2>&1"


rule archive:
    """Results with their raw times and records, the configuration and the pins; the same files
    make the same bytes."""
    input:
        results=wanted_results(),
        report="results/report.html",
        pins=local(
            [
                str(own("requirements.txt")),
                *map(str, sorted(own("envs").glob("*.yaml"))),
            ]
        ),
    output:
        "results/archive.tar.gz",
    log:
        "logs/archive.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        runtime=15,
        mem_mb=2000,
    params:
        code=code("workflow/scripts/measure/archive.py"),
        config=json.dumps(config, indent=2, sort_keys=True),
    shell:
        "python -m workflow.scripts.measure.archive {input} --config {params.config:q} --out {output}"
        " > {log} 2>&1"


rule every_result:
    """Stands for every precision and mode of every task."""
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
