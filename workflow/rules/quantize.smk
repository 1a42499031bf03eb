rule quantize_int8:
    """Activations of products in uint8, ranges from the calibration sentences; weights in int8 per
    channel: QuantizeLinear and DequantizeLinear."""
    input:
        model="results/{task}/fp32.onnx",
        sentences="results/{task}/data/calibration.npz",
    output:
        "results/{task}/int8.onnx",
    log:
        "logs/{task}/quantize_int8.log",
    conda:
        "../../envs/onnxruntime.yaml"
    threads: 1
    resources:
        runtime=60,
        mem_mb=8000,
    params:
        code=code("workflow/scripts/convert/quantize.py"),
        options=options(config["quantize"]),
    shell:
        "python -m workflow.scripts.convert.quantize int8 --model {input.model} --out {output}"
        " --calibration {input.sentences} {params.options} > {log} 2>&1"


rule quantize_dynamic_int8:
    """Weights in int8 per channel; activations in uint8, their range found at each run."""
    input:
        model="results/{task}/fp32.onnx",
    output:
        "results/{task}/dynamic_int8.onnx",
    log:
        "logs/{task}/quantize_dynamic_int8.log",
    conda:
        "../../envs/onnxruntime.yaml"
    threads: 1
    resources:
        runtime=15,
        mem_mb=4000,
    params:
        code=code("workflow/scripts/convert/quantize.py"),
    shell:
        "python -m workflow.scripts.convert.quantize dynamic_int8 --model {input.model} --out {output}"
        " > {log} 2>&1"


rule convert_bf16:
    """Weights of products in bfloat16, each with a Cast."""
    input:
        model="results/{task}/fp32.onnx",
    output:
        "results/{task}/bf16.onnx",
    log:
        "logs/{task}/convert_bf16.log",
    conda:
        "../../envs/onnxruntime.yaml"
    threads: 1
    resources:
        runtime=15,
        mem_mb=4000,
    params:
        code=code("workflow/scripts/convert/bfloat16.py"),
    shell:
        "python -m workflow.scripts.convert.bfloat16 --model {input.model} --out {output} > {log} 2>&1"
