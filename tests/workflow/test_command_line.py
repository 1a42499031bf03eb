"""Options that a rule makes of its configuration are what its script reads."""

import argparse
import shlex

import pytest

from workflow.rulebook.command_line import add_options, options

SECTION = {
    "name": "a folder's $name",
    "learning_rate": 1e-4,
    "path": "",
    "labels": ["not bad", "-", "-1"],
    "inputs": [],
    "published": {"onnx": "int8-model.onnx", "ir": "sparse_ir"},
}


def test_what_is_written_is_what_is_read():
    parser = argparse.ArgumentParser()
    add_options(parser, name=str, learning_rate=float, path=str, labels=[str], inputs=[str])
    add_options(parser, published_onnx=str, published_ir=str)
    read = vars(parser.parse_args(shlex.split(options(SECTION))))
    published = {"onnx": read.pop("published_onnx"), "ir": read.pop("published_ir")}
    assert {**read, "published": published} == SECTION


def test_only_what_is_named_is_written():
    section = {"seed": 1, "bfloat16": True, "average": False, "longest": 64}
    assert options(section, "longest", "seed", "bfloat16") == "--longest 64 --seed 1 --bfloat16"
    assert options(section, "average") == ""
    parser = argparse.ArgumentParser()
    add_options(parser, bfloat16=bool, average=bool)
    read = parser.parse_args(shlex.split(options(section, "bfloat16", "average")))
    assert (read.bfloat16, read.average) == (True, False)
    with pytest.raises(KeyError, match="epochs"):
        options(section, "epochs")


def test_an_option_that_is_missing_is_named(capsys):
    parser = argparse.ArgumentParser()
    add_options(parser, batch_sizes=[int], mask=str)
    with pytest.raises(SystemExit):
        parser.parse_args(["--mask", "full"])
    assert "required: --batch-sizes" in capsys.readouterr().err
