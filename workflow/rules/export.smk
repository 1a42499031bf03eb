rule export:
    """The model in float32 as ONNX, and its configuration beside it, where Optimum looks for it."""
    input:
        model="results/{task}/model",
    output:
        onnx="results/{task}/fp32.onnx",
        config="results/{task}/config.json",
    log:
        "logs/{task}/export.log",
    conda:
        "../../envs/transformers.yaml"
    threads: 1
    resources:
        runtime=15,
        mem_mb=4000,
    params:
        code=code("workflow/scripts/convert/export.py"),
        options=options(config["export"]),
        kind=kind,
    shell:
        "python -m workflow.scripts.convert.export --model {input.model} {params.kind} {params.options}"
        " --out {output.onnx} --config {output.config} > {log} 2>&1"
