"""What users of a session call: each test here runs on ONNX Runtime's session and on ours."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import engine
from engine.errors import InputError, IntegrityError, ModelError, SettingError
from engine.runtime.io_binding import OrtValue
from tests import original_writer as writer
from tests.test_original_ir import feeds

onnxruntime = pytest.importorskip("onnxruntime")

X = np.arange(6, dtype=np.float32).reshape(2, 3)
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
PRODUCT, SUM = X @ WEIGHT, X @ WEIGHT + 1
THEIR_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
)
CLASSES = {"theirs": onnxruntime.InferenceSession, "ours": engine.InferenceSession}


def model() -> onnx.ModelProto:
    """z = y + 1, y = x @ w, with all that a file says of itself."""
    value = helper.make_tensor_value_info
    one = numpy_helper.from_array(np.ones(4, np.float32), "one")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("Add", ["y", "one"], ["z"]),
        ],
        "products",
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("z", TensorProto.FLOAT, ["n", 4]), value("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(WEIGHT, "w"), one],
        doc_string="of the graph",
    )
    made = helper.make_model(
        graph,
        producer_name="hand",
        domain="org.example",
        model_version=7,
        doc_string="of the model",
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    helper.set_model_props(made, {"task": "tests", "axes": "n"})
    return made


def opened(name: str, source: Any) -> Any:
    return CLASSES[name](source, providers=["CPUExecutionProvider"])


@pytest.fixture(params=CLASSES)
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    onnx.save(model(), tmp_path / "model.onnx")
    return opened(request.param, str(tmp_path / "model.onnx"))


def is_ours(session: Any) -> bool:
    return isinstance(session, engine.InferenceSession)


def refuses(session: Any) -> tuple[type[Exception], ...] | type[Exception]:
    return InputError if is_ours(session) else THEIR_ERRORS


# --- the model ---
@pytest.mark.parametrize("name", CLASSES)
def test_a_model_comes_as_path_or_bytes(name: str, tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "model.onnx")
    for source in (tmp_path / "model.onnx", model().SerializeToString()):
        np.testing.assert_array_equal(opened(name, source).run(["z"], {"x": X})[0], SUM)


def test_what_the_file_says_of_itself() -> None:
    theirs, ours = (opened(name, model().SerializeToString()) for name in CLASSES)
    for field in vars(ours.get_modelmeta()):
        found = getattr(ours.get_modelmeta(), field)
        assert found and found == getattr(theirs.get_modelmeta(), field), field
    assert ours.get_overridable_initializers() == theirs.get_overridable_initializers() == []


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(IntegrityError, match="model in memory: its 3 bytes are not a whole ONNX"):
        engine.InferenceSession(b"...")
    with pytest.raises(ModelError, match="model in memory: 0 bytes hold no ONNX graph"):
        engine.InferenceSession(b"")
    with pytest.raises(InputError, match="as bytearray: expected the path"):
        engine.InferenceSession(bytearray(model().SerializeToString()))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"model in memory: weights in w\.bin go with an IR"):
        engine.load(model().SerializeToString(), weight="w.bin")


def test_bytes_have_no_folder_for_external_data(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="w.bin", size_threshold=16)
    np.testing.assert_array_equal(opened("ours", path).run(["z"], {"x": X})[0], SUM)
    with pytest.raises(
        ModelError, match=r"tensor 'w': is in file 'w\.bin'; expected a model's path"
    ):
        opened("ours", path.read_bytes())


# --- run ---
def test_inputs_are_arrays_ort_values_or_lists(session: Any) -> None:
    value = onnxruntime.OrtValue.ortvalue_from_numpy(X)
    for x in (X, value, X.tolist()):
        for names in (None, []):
            z, y = session.run(names, {"x": x})
            np.testing.assert_array_equal(z, SUM)
            np.testing.assert_array_equal(y, PRODUCT)
            assert z.dtype == np.float32


@pytest.mark.parametrize(
    ("names", "fed"),
    [
        (["other"], {"x": X}),
        (None, {}),
        (None, {"x": X, "other": X}),
        (None, {"x": X.astype(np.float64)}),
        (None, {"x": X[:, :2]}),
        (None, {"x": [["a"]]}),
        (None, {"x": object()}),
    ],
)
def test_what_does_not_fit_is_refused(session: Any, names: Any, fed: Any) -> None:
    theirs = onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument
    with pytest.raises((InputError,) if is_ours(session) else (*THEIR_ERRORS, theirs)) as caught:
        session.run(names, fed)
    assert not is_ours(session) or "'" in str(caught.value)


def test_ort_values_in_and_out(session: Any) -> None:
    fed = {"x": onnxruntime.OrtValue.ortvalue_from_numpy(X)}
    made = session.run_with_ort_values(None, fed)
    np.testing.assert_array_equal(made[0].numpy(), SUM)
    y = made[1]
    assert (list(y.shape()), y.data_type(), y.element_type()) == ([2, 4], "tensor(float)", 1)
    assert (y.device_name(), y.tensor_size_in_bytes()) == ("cpu", PRODUCT.nbytes)
    assert y.is_tensor() and y.has_value() and y.data_ptr()
    np.testing.assert_array_equal(np.asarray(y), PRODUCT)
    y.update_inplace(PRODUCT + 1)
    np.testing.assert_array_equal(np.array(y, np.float64), PRODUCT + 1)
    (again,) = session.run_with_ort_values(["z"], fed)
    np.testing.assert_array_equal(again.numpy(), SUM)


def test_an_ort_value_keeps_its_shape_and_type() -> None:
    value = OrtValue(np.zeros((2, 3), np.float32))
    for wrong in (X.T, X.astype(np.float64)):
        with pytest.raises(InputError, match=r"bound to tensor\(float\) \[2, 3\]"):
            value.update_inplace(wrong)
    value.update_inplace(OrtValue(X))
    np.testing.assert_array_equal(value.numpy(), X)


# --- run_async ---
def answer(session: Any, names: Any, fed: Any) -> tuple[Any, Any, str, bool]:
    """results, user_data, error, whether another thread said so."""
    said: list[Any] = []
    done = threading.Event()

    def callback(*arguments: Any) -> None:
        said.extend((*arguments, threading.get_ident() != caller))
        done.set()

    caller = threading.get_ident()
    assert session.run_async(names, fed, callback, "mine") is None
    assert done.wait(60)
    return tuple(said)  # type: ignore[return-value]


@pytest.fixture(params=CLASSES)
def two_threads(request: pytest.FixtureRequest) -> Any:
    """ONNX Runtime needs a second thread for it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return CLASSES[request.param](model().SerializeToString(), options)


def test_results_go_to_a_callback(two_threads: Any) -> None:
    results, user_data, error, elsewhere = answer(two_threads, ["z"], {"x": X})
    np.testing.assert_array_equal(results[0], SUM)
    assert (user_data, error, elsewhere) == ("mine", "", True)


@pytest.mark.parametrize(("names", "x"), [(["other"], X), (["z"], X[:, :2])])
def test_so_do_errors(two_threads: Any, names: Any, x: Any) -> None:
    results, user_data, error, _ = answer(two_threads, names, {"x": x})
    assert (list(results), user_data) == ([], "mine")
    assert names[0] in error or "x" in error


def test_a_missing_input_is_said_at_once(two_threads: Any) -> None:
    with pytest.raises(refuses(two_threads), match="x"):
        two_threads.run_async(["z"], {}, print, None)


# --- bindings ---
def test_bound_arrays(session: Any) -> None:
    binding, x = session.io_binding(), X.copy()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    binding.bind_output("z")
    assert session.run_with_iobinding(binding) is None
    for made, expected in zip(binding.copy_outputs_to_cpu(), (PRODUCT, SUM), strict=True):
        np.testing.assert_array_equal(made, expected)
    first = binding.copy_outputs_to_cpu()[1]
    x += 1  # it is read when the session runs
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    np.testing.assert_array_equal(binding.get_outputs()[1].numpy(), (X + 1) @ WEIGHT + 1)
    np.testing.assert_array_equal(first, SUM)


@pytest.mark.parametrize("element_type", [np.float32, TensorProto.FLOAT])
def test_bound_memory(session: Any, element_type: Any) -> None:
    binding, z = session.io_binding(), np.zeros_like(SUM)
    binding.bind_input("x", "cpu", 0, element_type, X.shape, X.ctypes.data)
    binding.bind_output("z", "cpu", 0, element_type, z.shape, z.ctypes.data)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(z, SUM)
    assert binding.get_outputs()[0].data_ptr() == z.ctypes.data
    copied = binding.copy_outputs_to_cpu()[0]
    z[:] = 0
    np.testing.assert_array_equal(copied, SUM)


def test_bound_ort_values(session: Any) -> None:
    binding = session.io_binding()
    z = onnxruntime.OrtValue.ortvalue_from_shape_and_type([2, 4], np.float32)
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(X))
    binding.bind_ortvalue_output("z", z)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(z.numpy(), SUM)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), SUM)


def test_bindings_are_cleared(session: Any) -> None:
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_output("z")
    session.run_with_iobinding(binding)
    binding.clear_binding_outputs()
    assert len(binding.get_outputs()) == len(binding.copy_outputs_to_cpu()) == 0
    with pytest.raises(refuses(session), match="output"):
        session.run_with_iobinding(binding)
    binding.bind_output("z")
    binding.clear_binding_inputs()
    with pytest.raises(refuses(session), match="x"):
        session.run_with_iobinding(binding)


@pytest.mark.parametrize(
    ("bind", "said"),
    [
        (lambda binding: binding.bind_cpu_input("other", X), "other"),
        (lambda binding: binding.bind_output("z", shape=[2, 4], buffer_ptr=4096), "element_type"),
    ],
)
def test_what_cannot_be_bound_is_refused(session: Any, bind: Any, said: str) -> None:
    with pytest.raises(refuses(session), match=said):
        bind(session.io_binding())


@pytest.mark.parametrize(("shape", "kind"), [((3, 4), np.float32), ((2, 4), np.float64)])
def test_a_result_fits_the_memory_bound_for_it(session: Any, shape: Any, kind: Any) -> None:
    binding, place = session.io_binding(), np.zeros(shape, kind)
    binding.bind_cpu_input("x", X)
    binding.bind_output("z", "cpu", 0, kind, shape, place.ctypes.data)
    with pytest.raises(refuses(session)):
        session.run_with_iobinding(binding)
    assert not place.any()


def test_a_binding_is_one_sessions(session: Any) -> None:
    other = type(session)(model().SerializeToString()).io_binding()
    with pytest.raises(refuses(session), match="session"):
        session.run_with_iobinding(other)


def test_other_devices_are_refused() -> None:
    """Each is named; ONNX Runtime binds an output to one, and fails when it runs."""
    binding = opened("ours", model().SerializeToString()).io_binding()
    with pytest.raises(InputError, match="'x' on device 'cuda'"):
        binding.bind_input("x", "cuda", 0, np.float32, X.shape, X.ctypes.data)
    with pytest.raises(InputError, match="'z' on device 'cuda'"):
        binding.bind_output("z", "cuda")
    with pytest.raises(InputError, match="output 'other': the model has z, y"):
        binding.bind_output("other")


@pytest.mark.parametrize(
    ("element_type", "shape", "address"),
    [
        (np.float32, (2, 3), 0),
        (np.float32, (2, 3), -8),
        (np.float32, (2, 3), "X"),
        (np.float32, (-2, -3), 4096),
        (np.float32, (1 << 40, 1 << 40), 4096),
        (np.float32, (2.5, 3), 4096),
        (np.float32, None, 4096),
        (object, (2, 3), 4096),
        ("U4", (2, 3), 4096),
        (TensorProto.BFLOAT16, (2, 3), 4096),
        (99, (2, 3), 4096),
        ("float31", (2, 3), 4096),
    ],
)
def test_memory_that_cannot_be_is_refused(element_type: Any, shape: Any, address: Any) -> None:
    binding = opened("ours", model().SerializeToString()).io_binding()
    with pytest.raises(InputError, match="memory of 'x'"):
        binding.bind_input("x", "cpu", 0, element_type, shape, address)


def test_a_result_is_asked_for_after_a_run() -> None:
    """ONNX Runtime ends the process."""
    binding = opened("ours", model().SerializeToString()).io_binding()
    binding.bind_output("z")
    with pytest.raises(InputError, match="output 'z' was bound after the last run"):
        binding.copy_outputs_to_cpu()


# --- providers ---
def test_providers_are_set(session: Any) -> None:
    session.set_providers(["CPUExecutionProvider"], [{}])
    session.set_providers()
    session.disable_fallback()
    session.enable_fallback()
    assert session.get_providers() == list(session.get_provider_options())
    np.testing.assert_array_equal(session.run(["z"], {"x": X})[0], SUM)
    if is_ours(session):
        with pytest.raises(SettingError, match="CUDAExecutionProvider: this engine is CPU"):
            session.set_providers([("CUDAExecutionProvider", {})])


# --- pickling, which ONNX Runtime refuses ---
@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_a_session_travels(again: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(model(), "model.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    for source in ("model.onnx", model().SerializeToString()):
        session = engine.InferenceSession(source, options)
        copied = again(session)
        assert copied is not session and copied._session is not session._session
        np.testing.assert_array_equal(copied.run(["z"], {"x": X})[0], SUM)
        assert copied.get_session_options().intra_op_num_threads == 2
        assert copied.get_modelmeta() == session.get_modelmeta()
        assert copied.get_inputs() == session.get_inputs()


def test_a_pickled_path_is_short_and_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = writer.write(tmp_path / "ir", "int8")
    session = engine.InferenceSession(folder.name)
    content = pickle.dumps(session)
    assert len(content) < 500
    monkeypatch.chdir("/")
    again = pickle.loads(content)
    np.testing.assert_array_equal(
        again.run(None, feeds(2, 9))[0], session.run(None, feeds(2, 9))[0]
    )
    (folder / "conf.yaml").unlink()
    with pytest.raises(ModelError, match="conf.yaml"):
        pickle.loads(content)
