rule accuracy:
    """The task's metric of engine, ONNX Runtime and the float32 file on the measured split, how
    far they agree, and what was run."""
    input:
        ir=model_files("results/{task}/ir_{precision}"),
        onnx=onnx_of,
        fp32="results/{task}/fp32.onnx",
        model="results/{task}/model",
        sentences="results/{task}/data/validation.npz",
        examples="results/{task}/data/validation.jsonl",
        dataset="results/{task}/data/source.json",
    output:
        report(
            "results/{task}_{precision}_accuracy.json",
            category="accuracy",
            labels={"task": "{task}", "precision": "{precision}"},
        ),
    log:
        "logs/{task}/accuracy_{precision}.log",
    conda:
        "../../envs/onnxruntime.yaml"
    threads: 2
    resources:
        runtime=60,
        mem_mb=8000,
    params:
        code=code("workflow/scripts/measure/evaluate.py"),
        ir=lambda wildcards, input: Path(input.ir[0]).parent,
        options=options(config["accuracy"]),
        kind=kind,
    shell:
        "python -m workflow.scripts.measure.evaluate --task {wildcards.task} --precision {wildcards.precision}"
        " {params.kind} --examples {input.examples} --ir {params.ir} --onnx {input.onnx} --fp32 {input.fp32} --model {input.model}"
        " --validation {input.sentences} --dataset {input.dataset} {params.options}"
        " --threads {threads} --out {output} > {log} 2>&1"
