"""Names of results, and what is said of those that do not exist."""

import pytest

from workflow.rulebook.names import UnknownNameError, check_target, results


def test_results_are_named_by_task_precision_mode():
    assert results(["sst2"], ["int8", "dynamic_int8"], ["accuracy", "latency"]) == [
        "results/sst2_int8_accuracy.json",
        "results/sst2_int8_latency.csv",
        "results/sst2_dynamic_int8_accuracy.json",
        "results/sst2_dynamic_int8_latency.csv",
    ]


@pytest.mark.parametrize(
    "target",
    ["results/sst2_dynamic_int8_accuracy.json", "results/all", "results/sst2/int8.onnx", "--cores"],
)
def test_targets_that_may_exist_pass(target):
    check_target(target, ["sst2"])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("results/qqp_int8_accuracy.json", "unknown task 'qqp': there is sst2"),
        ("results/sst2_int7_accuracy.json", "unknown precision 'int7'"),
        (
            "results/sst2_int8_power.csv",
            "unknown mode 'power': there is accuracy, throughput, latency",
        ),
        ("results/sst2_int8_accuracy.csv", "accuracy is a .json file"),
    ],
)
def test_targets_that_cannot_exist_are_named(target, message):
    with pytest.raises(UnknownNameError, match=message):
        check_target(target, ["sst2"])
