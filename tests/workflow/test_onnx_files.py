"""Export, quantisation and bf16 of a tiny model, checked with ONNX Runtime."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, numpy_helper

from engine.measure.feeds import of_sentences
from workflow.rulebook.writing import StepError
from workflow.scripts.convert import bfloat16, export, onnx_runtime, quantize
from workflow.scripts.convert.calibrate import Range
from workflow.scripts.convert.onnx_inputs import inputs_of
from workflow.scripts.fetch.examples import Labelled, read_examples
from workflow.scripts.fetch.tokenize_sentences import tokenize

KIND = "text-classification"

# --- bf16 ---


def test_bfloat16_rounds_to_nearest_even():
    ones = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -(1 + 2**-8)], np.float32)
    back = (bfloat16.to_bfloat16(ones).astype(np.uint32) << 16).view(np.float32)
    assert back.tolist() == [1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -1.0]


def test_bfloat16_of_what_is_no_number():
    odd = np.array([np.inf, -np.inf, np.nan, 3.4e38, 0.0], np.float32)
    back = (bfloat16.to_bfloat16(odd).astype(np.uint32) << 16).view(np.float32)
    assert back[:2].tolist() == [np.inf, -np.inf]
    assert np.isnan(back[2])
    assert back[3] == np.inf
    assert back[4] == 0


# --- tokens ---


@pytest.mark.slow
def test_both_sentences_of_a_pair_are_told_apart(tiny_files):
    pairs = [Labelled("a good film .", "1", "a great story ."), Labelled("a", "0", "the")]
    arrays = tokenize(tiny_files / "model", pairs, 32)
    assert arrays["token_type_ids"].tolist() == [[0] * 6 + [1] * 5, [0] * 3 + [1] * 2 + [0] * 6]
    assert arrays["attention_mask"].sum(1).tolist() == [11, 5]


# --- files ---


@pytest.fixture(scope="module")
def files(tiny_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    export.export(export.load_model(tiny_files / "model", KIND), folder / "fp32.onnx", 14)
    rows = read_examples(tiny_files / "sentences/train.tsv", KIND)
    np.savez(folder / "train.npz", **tokenize(tiny_files / "model", rows, 32))
    model = quantize.prepared(folder / "fp32.onnx", folder)
    quantize.quantize_static(model, folder / "int8.onnx", folder / "train.npz", 8, "minmax")
    quantize.quantize_dynamic(model, folder / "dynamic_int8.onnx")
    onnx.save(bfloat16.convert(onnx.load(folder / "fp32.onnx")), folder / "bf16.onnx")
    return folder


def feed(batch=3, length=7):
    ids = np.random.default_rng(0).integers(5, 20, (batch, length))
    mask = (np.arange(length) < np.arange(length - batch + 1, length + 1)[:, None]).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def logits(path, inputs):
    return onnx_runtime.session(path).run(["logits"], inputs)[0]


def test_biases_are_rounded_to_parts_of_a_step():
    """Behind quantised products alone, and not where the sum goes on to a residual."""
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 2] x) => (float[2, 2] y) <
            float[2, 2] w = {1, 0, 0, 1}, float[2] b = {0.06, -0.19}, float[2] c = {0.06, -0.19},
            float[2] d = {0.06, -0.19}, float[2] e = {0.06, -0.19}
        > {
            p = MatMul(x, w)  q = Add(b, p)  r = Relu(q)
            s = MatMul(r, w)  t = Add(s, c)  u = Add(t, r)
            v = MatMul(u, w)  i = Add(v, d)  j = Relu(i)  y = Add(j, e)
        }""")
    found = Range(-12.75, 12.75, 40.0)  # steps of 0.1
    assert quantize.round_biases(graph, {"p": found, "s": found}, 4) == 1
    made = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    np.testing.assert_allclose(made["b"], [0.05, -0.2], rtol=1e-6)
    for name in "cde":
        np.testing.assert_array_equal(made[name], np.float32([0.06, -0.19]))


def test_who_reads_a_value_that_stays_in_floats_reads_it_as_it_was():
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 2] x) => (float[2, 2] y) <float s = {0.1}, uint8 z = {128}> {
            q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
            p = MatMul(d, d)  r = QuantizeLinear(p, s, z)  e = DequantizeLinear(r, s, z)
            y = Add(e, e)
        }""")
    quantize.leave_in_floats(graph, ["p"])
    found = [(node.op_type, [*node.input]) for node in graph.graph.node]
    assert found == [
        ("QuantizeLinear", ["x", "s", "z"]),
        ("DequantizeLinear", ["q", "s", "z"]),
        ("MatMul", ["d", "d"]),
        ("Add", ["p", "p"]),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g (float[2] x) => (float[2] y) <float s = {1}, uint8 z = {0}> "
         "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
         "has DequantizeLinear, QuantizeLinear; expected a file that is not quantised"),
        ("", "not an ONNX file"),
    ],
)  # fmt: skip
def test_an_onnx_file_in_place_of_weights_is_in_floats(tmp_path, text, message):
    path = tmp_path / "model.onnx"
    head = '<ir_version: 8, opset_import: ["" : 17]> '
    path.write_bytes(
        onnx.parser.parse_model(head + text).SerializeToString() if text else b"<html>"
    )
    with pytest.raises(StepError, match=f"{path}: {message}"):
        export.whole_fp32(path)


@pytest.mark.slow
def test_a_rounded_model_is_near_the_one_that_is_not(files, tmp_path):
    model = onnx.load(quantize.prepared(files / "fp32.onnx", tmp_path))
    added = next(n for n in model.graph.node if n.name.endswith("0/intermediate/dense/Add"))
    biases = {tensor.name: tensor for tensor in model.graph.initializer}
    place = next(i for i, name in enumerate(added.input) if name in biases)  # zeros, of many layers
    (count,), name = biases[added.input[place]].dims, "random"
    values = np.random.default_rng(0).normal(0, 0.1, count).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    added.input[place] = name
    onnx.save(model, tmp_path / "prepared.onnx")
    made, counts = [], []
    for parts in (0, 1):
        path = tmp_path / f"{parts}.onnx"
        sentences = files / "train.npz"
        quantize.quantize_static(tmp_path / "prepared.onnx", path, sentences, 8, "minmax", parts)
        made.append(logits(path, feed()))
        kept = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}[name]
        counts.append(len(np.unique(numpy_helper.to_array(kept))))
    assert counts[1] < counts[0] == len(values)
    np.testing.assert_allclose(made[1], made[0], atol=0.05)


@pytest.mark.slow
def test_export_computes_what_torch_does(files, tiny_files):
    import torch

    inputs = feed()
    model = export.load_model(tiny_files / "model", KIND)
    with torch.no_grad():
        expected = model(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits.numpy()
    np.testing.assert_allclose(logits(files / "fp32.onnx", inputs), expected, atol=1e-5)


@pytest.mark.slow
def test_inputs_are_named_as_the_model_takes_them(files, tiny_files, tmp_path):
    """The exporter gives out names in the order of forward(), whatever order they are asked in."""
    model = export.load_model(tiny_files / "model", KIND)
    wanted = ["position_ids", "token_type_ids", "attention_mask", "input_ids"]
    export.export(model, tmp_path / "all.onnx", 14, wanted)
    inputs = inputs_of(onnx.load(tmp_path / "all.onnx").graph)
    assert [value.name for value in inputs] == wanted[::-1][:2] + ["token_type_ids", "position_ids"]
    assert all(value.dtype == "int64" and value.shape == ("batch", "length") for value in inputs)
    found = logits(tmp_path / "all.onnx", of_sentences(inputs, feed()))
    np.testing.assert_allclose(found, logits(files / "fp32.onnx", feed()), atol=1e-6)


@pytest.mark.slow
def test_batch_and_length_are_free(files):
    for shape in ((1, 1), (2, 33), (5, 64)):
        assert logits(files / "fp32.onnx", feed(*shape)).shape == (shape[0], 2)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "far"), [("int8", 0.1), ("dynamic_int8", 0.1), ("bf16", 0.02)])
def test_each_precision_stays_near_fp32(files, name, far):
    inputs = feed()
    found = logits(files / f"{name}.onnx", inputs)
    np.testing.assert_allclose(found, logits(files / "fp32.onnx", inputs), atol=far)


@pytest.mark.slow
def test_int8_quantises_all_products_and_keeps_names(files):
    graph = onnx.load(files / "int8.onnx").graph
    producers = {output: node.op_type for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type in quantize.PRODUCTS]
    assert len(products) == 2 * 8 + 2
    for node in products:
        assert [producers[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2
    assert "/bert/encoder/layer.1/attention/self/query/MatMul" in {node.name for node in products}
    weights = [t for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 2]
    scales = {t.name: t for t in graph.initializer if t.name.endswith("_scale")}
    assert len(weights) == 2 * 6 + 2
    for weight in weights:
        scale = scales[weight.name.removesuffix("_quantized") + "_scale"]
        assert scale.dims[0] in (64, 128, 2), "one scale a channel"


@pytest.mark.slow
def test_bf16_keeps_the_weights_once(files):
    graph = onnx.load(files / "bf16.onnx").graph
    narrow = [t for t in graph.initializer if t.data_type == TensorProto.BFLOAT16]
    assert len(narrow) == 2 * 6 + 2
    wide = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    assert not wide & {t.name.removesuffix("_bf16") for t in narrow}
    assert all(numpy_helper.to_array(t).size for t in narrow)


def test_a_broken_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(StepError, match=f"{tmp_path}: not a model that can be read"):
        export.load_model(tmp_path, KIND)
