ruleorder: fetch_published > compile


rule compile:
    """The model packed for the engine: conf.yaml says what runs, model.bin holds the weights
    with their checksums."""
    input:
        model=onnx_of,
    output:
        model_files("results/{task}/ir_{precision}"),
    log:
        "logs/{task}/compile_{precision}.log",
    conda:
        "../../envs/engine.yaml"
    threads: 1
    resources:
        runtime=15,
        mem_mb=4000,
    params:
        code=code("engine/commands/compile.py"),
        folder=lambda wildcards, output: Path(output[0]).parent,
    shell:
        "python -m engine compile {input.model} {params.folder} > {log} 2>&1"
