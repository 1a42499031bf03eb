rule peer_models:
    """The model in the form that DeepSparse reads; with `PEERS_HOME` only."""
    input:
        model="results/{task}/fp32.onnx",
    output:
        fp32="results/bench/peers/{task}_fp32.onnx",
        int8="results/bench/peers/{task}_int8.onnx",
    log:
        "logs/bench/peers_{task}.log",
    conda:
        "../../envs/onnxruntime.yaml"
    threads: 1
    resources:
        runtime=10,
        mem_mb=4000,
    params:
        code=code("workflow/scripts/side_by_side/peer_models.py"),
    shell:
        "python -m workflow.scripts.side_by_side.peer_models --model {input.model} --fp32 {output.fp32}"
        " --int8 {output.int8} > {log} 2>&1"


rule side_by_side:
    """The same model in several engines, taking turns: milliseconds a call."""
    input:
        models=lambda wildcards: bench_models(wildcards).values(),
        sentences=bench_sentences,
    output:
        table="results/bench/{subject}.csv",
        run="results/bench/{subject}.run.json",
    log:
        log="logs/bench/{subject}.log",
        engines="logs/bench/{subject}_engines.log",
    wildcard_constraints:
        subject="[A-Za-z0-9-]+",
    conda:
        "../../envs/engine.yaml"
    threads: timed_cores
    resources:
        timing=1,
        runtime=30,
        mem_mb=8000,
    params:
        code=code(
            "workflow/scripts/side_by_side/side_by_side.py",
            "engine/__init__.py",
            *contender_scripts(),
        ),
        models=lambda wildcards, input: options(
            {"model": dict(zip(bench_models(wildcards), input.models))}
        ),
        peers=options({"peers": PEERS}),
    shell:
        "python -m workflow.scripts.side_by_side.side_by_side --name {wildcards.subject} {params.models}"
        " --dataset '{input.sentences}' {params.peers} --table {output.table}"
        " --run {output.run} --engines-log {log.engines} > {log.log} 2>&1"


rule whole_runs:
    """What only a process of its own shows: start, memory, allocations, padding, two cores."""
    input:
        model=lambda wildcards: bench_models(wildcards)["int8"],
        sentences=bench_sentences,
    output:
        "results/bench/{subject}_whole.json",
    log:
        "logs/bench/{subject}_whole.log",
    wildcard_constraints:
        subject="[A-Za-z0-9-]+",
    conda:
        "../../envs/engine.yaml"
    threads: timed_cores
    resources:
        timing=1,
        runtime=30,
        mem_mb=8000,
    params:
        code=code(
            "workflow/scripts/side_by_side/whole_runs.py",
            "workflow/scripts/side_by_side/first_answer.py",
            "engine/measure/instance_worker.py",
            "engine/__init__.py",
        ),
    shell:
        "python -m workflow.scripts.side_by_side.whole_runs --name {wildcards.subject} --model {input.model}"
        " --dataset '{input.sentences}' --out {output} > {log} 2>&1"


rule kernel_table:
    """Products alone, by shape and pattern, as shares of the peak of this core."""
    output:
        "results/bench/kernels.csv",
    log:
        "logs/bench/kernels.log",
    conda:
        "../../envs/engine.yaml"
    threads: timed_cores
    resources:
        timing=1,
        runtime=30,
        mem_mb=4000,
    params:
        code=code("engine/commands/kernels.py", "engine/commands/cli.py"),
    shell:
        "python -m engine kernels --passes 2 --csv {output} > {log} 2>&1"


rule profile_steps:
    """Where the time of a call goes, step by step."""
    input:
        model=lambda wildcards: bench_models(wildcards)[wildcards.precision],
    output:
        "results/bench/{subject}_{precision}_profile_{batch}.json",
    log:
        "logs/bench/{subject}_{precision}_profile_{batch}.log",
    wildcard_constraints:
        subject="[A-Za-z0-9-]+",
        precision="int8|bf16|fp32",
        batch=r"\d+",
    conda:
        "../../envs/engine.yaml"
    threads: timed_cores
    resources:
        timing=1,
        runtime=10,
        mem_mb=4000,
    params:
        code=code("engine/commands/profile.py", "engine/commands/cli.py"),
    shell:
        "(python -m engine profile {input.model} --batch_size {wildcards.batch} --iterations 100"
        " --json > {output}.new && mv {output}.new {output}) 2> {log}"


rule performance:
    """The page docs/performance.md, from the tables of `make bench`."""
    input:
        tables=expand("results/bench/{subject}.csv", subject=bench_subjects()),
        runs=expand("results/bench/{subject}.run.json", subject=bench_subjects()),
        whole=expand("results/bench/{subject}_whole.json", subject=bench_subjects()),
        profiles=expand(
            "results/bench/{subject}_{precision}_profile_{batch}.json",
            subject=bench_subjects()[-1],
            precision=["int8", "bf16", "fp32"],
            batch=[1, 32],
        ),
        kernels="results/bench/kernels.csv",
        template=local(str(own("workflow/scripts/side_by_side/performance.md"))),
    output:
        "results/bench/performance.md",
    log:
        "logs/bench/performance.log",
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        runtime=5,
        mem_mb=1000,
    params:
        code=code("workflow/scripts/side_by_side/performance.py"),
    shell:
        "python -m workflow.scripts.side_by_side.performance --tables {input.tables} --runs {input.runs}"
        " --whole {input.whole} --profiles {input.profiles} --kernels {input.kernels}"
        " --template {input.template} --out {output} > {log} 2>&1"
