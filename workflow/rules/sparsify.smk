"""A sparse model from any BERT: teacher, dense student, block-wise pruned student.

Reads config/sparsify.yaml; `--config 'sparsify={seed: 2}'` changes values of it. The scripts are
no inputs here, unlike elsewhere: an edited comment must not cost hours of training. Retrain by
`--forcerun finetune_teacher`. A killed training goes on from its checkpoint when started again.
"""

import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

sys.path.insert(0, str(Path(workflow.current_basedir).parents[1]))
from workflow.rulebook.checked_config import ConfigError, checked
from workflow.rulebook.command_line import options
from workflow.rulebook.place import PlaceError, lead_steps_here, own

SPARSIFY_CONFIG = Path("config/sparsify.yaml")
if not SPARSIFY_CONFIG.exists():
    SPARSIFY_CONFIG = own(str(SPARSIFY_CONFIG))
try:
    lead_steps_here()
    with open(SPARSIFY_CONFIG, encoding="utf-8") as file:
        SPARSIFY = yaml.safe_load(file)
    update_config(SPARSIFY, config.get("sparsify", {}))
    SPARSIFY = checked(SPARSIFY, own("workflow/schemas/sparsify.schema.yaml"))
except (ConfigError, PlaceError, OSError, yaml.YAMLError) as error:
    raise WorkflowError(f"{SPARSIFY_CONFIG}: {error}") from None


IMITATES = sorted(
    (int(ours), theirs) for ours, theirs in SPARSIFY["student"]["imitates"].items()
)
STUDENT_LAYERS = " ".join(str(ours) for ours, _ in IMITATES)
TEACHER_LAYERS = " ".join(str(theirs) for _, theirs in IMITATES)
SIZES = " ".join(
    str(SPARSIFY["student"][name])
    for name in ("layers", "hidden", "heads", "intermediate")
)
TRAINING = options(SPARSIFY, "longest", "seed", "bfloat16")
INTERVALS = f"--every {SPARSIFY['report_every']} --save-every {SPARSIFY['save_every']}"
LEARNING = ("epochs", "learning_rate", "batch_tokens")
IMITATION = (*LEARNING, "embeddings", "hidden_weight", "temperature")


rule corpus:
    """Sentences to learn from, none of them cut from one that is tested on; those that are held
    out for development."""
    output:
        corpus="results/sparsify/corpus.tsv",
        development="results/sparsify/development.tsv",
    log:
        "logs/sparsify/corpus.log",
    conda:
        "../../envs/train.yaml"
    params:
        data=options(SPARSIFY["data"], "labelled", "imdb", "copies", "limit"),
        seed=SPARSIFY["seed"],
    shell:
        "python -m workflow.scripts.sparsify.corpus {params.data} --seed {params.seed}"
        " --corpus {output.corpus} --development {output.development} > {log} 2>&1"


rule finetune_teacher:
    """Any BERT, fine-tuned on the labelled rows; loss and accuracy over its steps."""
    input:
        corpus="results/sparsify/corpus.tsv",
        development="results/sparsify/development.tsv",
    output:
        model="results/sparsify/teacher/model.safetensors",
        metrics="results/sparsify/teacher.csv",
    log:
        "logs/sparsify/finetune_teacher.log",
    conda:
        "../../envs/train.yaml"
    threads: SPARSIFY["threads"]
    params:
        model=SPARSIFY["teacher"]["model"],
        learning=options(SPARSIFY["teacher"], *LEARNING),
        training=TRAINING,
        intervals=INTERVALS,
    shell:
        "python -m workflow.scripts.sparsify.teacher --corpus {input.corpus}"
        " --development {input.development} --model {params.model} {params.learning}"
        " {params.training} {params.intervals} --metrics {output.metrics}"
        " --checkpoint $(dirname {output.model}).pt --output $(dirname {output.model}) >> {log} 2>&1"


rule teacher_targets:
    """The teacher's logits and projected hidden states of every sentence."""
    input:
        corpus="results/sparsify/corpus.tsv",
        teacher="results/sparsify/teacher/model.safetensors",
    output:
        "results/sparsify/targets/targets.json",
    log:
        "logs/sparsify/teacher_targets.log",
    conda:
        "../../envs/train.yaml"
    threads: SPARSIFY["threads"]
    params:
        layers=TEACHER_LAYERS,
        width=SPARSIFY["student"]["hidden"],
        training=TRAINING,
    shell:
        "python -m workflow.scripts.sparsify.targets --corpus {input.corpus} --layers {params.layers}"
        " --teacher $(dirname {input.teacher}) --width {params.width} {params.training}"
        " --output $(dirname {output}) >> {log} 2>&1"


rule distil_dense:
    """A small BERT that imitates the teacher; loss and accuracy over its steps."""
    input:
        teacher="results/sparsify/teacher/model.safetensors",
        targets="results/sparsify/targets/targets.json",
        development="results/sparsify/development.tsv",
    output:
        model="results/sparsify/dense/model.safetensors",
        metrics="results/sparsify/dense.csv",
    log:
        "logs/sparsify/distil_dense.log",
    conda:
        "../../envs/train.yaml"
    threads: SPARSIFY["threads"]
    params:
        sizes=f"--sizes {SIZES} --layers {STUDENT_LAYERS}",
        learning=options(SPARSIFY["dense"], *IMITATION),
        training=TRAINING,
        intervals=INTERVALS,
    shell:
        "python -m workflow.scripts.sparsify.distil --teacher $(dirname {input.teacher})"
        " --targets $(dirname {input.targets}) --development {input.development} {params.sizes}"
        " {params.learning} {params.training} {params.intervals} --metrics {output.metrics}"
        " --checkpoint $(dirname {output.model}).pt --output $(dirname {output.model}) >> {log} 2>&1"


rule prune:
    """The same student, pruned in blocks while it goes on imitating; zeros over its steps."""
    input:
        teacher="results/sparsify/teacher/model.safetensors",
        dense="results/sparsify/dense/model.safetensors",
        targets="results/sparsify/targets/targets.json",
        development="results/sparsify/development.tsv",
    output:
        model="results/sparsify/sparse/model.safetensors",
        metrics="results/sparsify/sparse.csv",
    log:
        "logs/sparsify/prune.log",
    conda:
        "../../envs/train.yaml"
    threads: SPARSIFY["threads"]
    params:
        pattern=SPARSIFY["pruning"]["pattern"],
        ramp=options(
            SPARSIFY["pruning"],
            *("sparsity", "budget", "multiple", "score", "ramp_end", "interval"),
        ),
        layers=STUDENT_LAYERS,
        learning=options(SPARSIFY["pruning"], *IMITATION),
        training=TRAINING,
        intervals=INTERVALS,
    shell:
        "python -m workflow.scripts.sparsify.distil --start $(dirname {input.dense})"
        " --teacher $(dirname {input.teacher}) --targets $(dirname {input.targets})"
        " --development {input.development} --pruning {params.pattern} {params.ramp}"
        " --layers {params.layers} {params.learning} {params.training} {params.intervals}"
        " --metrics {output.metrics} --checkpoint $(dirname {output.model}).pt"
        " --output $(dirname {output.model}) >> {log} 2>&1"


rule score_students:
    """Accuracy of teacher, dense and sparse student, and the zeros of each layer."""
    input:
        teacher="results/sparsify/teacher/model.safetensors",
        dense="results/sparsify/dense/model.safetensors",
        sparse="results/sparsify/sparse/model.safetensors",
        development="results/sparsify/development.tsv",
    output:
        "results/sparsify/scores.json",
    log:
        "logs/sparsify/score_students.log",
    conda:
        "../../envs/train.yaml"
    params:
        labelled=SPARSIFY["data"]["labelled"],
        pattern=SPARSIFY["pruning"]["pattern"],
        longest=SPARSIFY["longest"],
    shell:
        "python -m workflow.scripts.sparsify.scores --labelled {params.labelled}"
        " --development {input.development}"
        " --teacher $(dirname {input.teacher}) --dense $(dirname {input.dense})"
        " --sparse $(dirname {input.sparse}) --pattern {params.pattern}"
        " --longest {params.longest} --output {output} > {log} 2>&1"


rule plot_curves:
    """Loss, accuracy and zeros over the steps of both trainings."""
    input:
        "results/sparsify/dense.csv",
        "results/sparsify/sparse.csv",
    output:
        "results/sparsify/curves.svg",
    log:
        "logs/sparsify/plot_curves.log",
    conda:
        "../../envs/train.yaml"
    shell:
        "python -m workflow.scripts.sparsify.curves --metrics {input} --output {output} > {log} 2>&1"


rule ship_sparse:
    """The sparse student in float16 with its tokenizer: a model folder for `source: local`."""
    input:
        model="results/sparsify/sparse/model.safetensors",
        scores="results/sparsify/scores.json",
        curves="results/sparsify/curves.svg",
    output:
        "results/sparsify/shipped/model.safetensors",
    log:
        "logs/sparsify/ship_sparse.log",
    conda:
        "../../envs/train.yaml"
    params:
        pattern=SPARSIFY["pruning"]["pattern"],
        # a global budget leaves some layers below the average
        least=SPARSIFY["pruning"]["sparsity"]
        * (SPARSIFY["pruning"]["budget"] == "layer"),
    shell:
        "python -m workflow.scripts.sparsify.ship --model $(dirname {input.model})"
        " --pattern {params.pattern} --sparsity {params.least}"
        " --output $(dirname {output}) > {log} 2>&1"
