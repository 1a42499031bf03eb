import os

# Engines side by side (make bench). With PEERS_HOME set also those that need environments of their own.
PEERS = os.environ.get("PEERS_HOME", "")
RANDOM = f"{PEERS}/models/mini"  # the random sparse BERT-mini that its setup made


def contender_scripts():
    folder = ROOT / "workflow/scripts/side_by_side/contenders"
    return sorted(str(path.relative_to(ROOT)) for path in folder.glob("*.py"))


def bench_subjects():
    return ([*config["tasks"]][:1]) + (["random"] if PEERS else [])


def bench_models(wildcards):
    """Key of side_by_side.CONTENDERS -> file."""
    if wildcards.subject == "random":
        names = {
            "int8": "int8-model.onnx",
            "bf16": "bf16-model.onnx",
            "fp32": "fp32-model.onnx",
            "torch": "state.pt",
            "itrex_sparse": "ir_int8_sparse",
            "itrex_dense": "ir_int8_dense",
            "deepsparse_int8": "ds-int8.onnx",
            "deepsparse_fp32": "ds-fp32.onnx",
        }
        return {key: f"{RANDOM}/{name}" for key, name in names.items()}
    task = f"results/{wildcards.subject}"
    own = {key: f"{task}/{key}.onnx" for key in ("int8", "bf16", "fp32")}
    peers = {
        "itrex_sparse": f"{task}/int8.onnx",
        "deepsparse_int8": f"results/bench/peers/{wildcards.subject}_int8.onnx",
        "deepsparse_fp32": f"results/bench/peers/{wildcards.subject}_fp32.onnx",
    }
    return {**own, "torch": f"{task}/model", **(peers if PEERS else {})}


def bench_sentences(wildcards):
    return (
        []
        if wildcards.subject == "random"
        else f"results/{wildcards.subject}/data/validation.npz"
    )
