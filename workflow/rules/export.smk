rule export:
    input:
        model="results/{task}/model",
    output:
        "results/{task}/fp32.onnx",
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
        opset=config["export"]["opset"],
        inputs=config["export"]["inputs"],
    shell:
        "python -m workflow.scripts.convert.export --model {input.model} --opset {params.opset}"
        " --inputs {params.inputs} --out {output} > {log} 2>&1"
