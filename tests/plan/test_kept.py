"""Plans that are kept: mapped by the next who loads the model, who computes nothing."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import plan as planning
from engine import settings
from engine.codegen.isa import LADDER, chosen
from engine.commands.cli import main
from engine.files import cache
from engine.formats import models, store
from engine.graph import Graph, Node, Value
from engine.plan import Buffer, kept, operands
from engine.plan.measured import Configuration
from engine.plan.plan_file import NUMBER
from engine.runtime import Session
from tests.tiny import feeds, tiny_graph

FEEDS = feeds([5, 9], 9)


@pytest.fixture(autouse=True)
def own_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of plans for this test, of models however small; code is kept as ever."""
    real, folder = cache.place, tmp_path / "plans"
    monkeypatch.setattr(
        cache, "place", lambda kind, name: folder / name if kind == "plans" else real(kind, name)
    )
    monkeypatch.setattr(kept, "LEAST", 0)
    yield folder


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def logits(graph: Graph) -> np.ndarray:
    return Session(graph).run(FEEDS)["logits"]


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[], Graph]:
    """A graph whose constants lie in a model.bin, read anew each time."""
    store.write(tiny_graph(), tmp_path / "ir")
    return lambda: models.read(tmp_path / "ir")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called on nothing may be chosen, packed or expanded."""

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("made a second time")

    def forbid() -> None:
        monkeypatch.setattr(planning, "make_choices", forbidden)
        monkeypatch.setattr(operands, "pack_linear", forbidden)
        monkeypatch.setattr(store.blocks, "expand", forbidden)

    return forbid


@pytest.mark.parametrize("pattern", ["4x1", "1x4", "dense"])
def test_what_was_packed_is_mapped(
    pattern: str, tmp_path: Path, no_work: Callable[[], None], own_plans: Path
) -> None:
    with settings.override(share=0):
        expected = logits(tiny_graph(pattern))
    assert not files(own_plans)
    for graph in (tiny_graph(pattern), tiny_graph(pattern)):
        np.testing.assert_array_equal(logits(graph), expected)
        no_work()
    (file,) = files(own_plans)
    session = Session(tiny_graph(pattern))
    held = [array for step in session.plan.steps if step.operands for array in step.operands.keep]
    assert held and not any(array.flags.writeable for array in held)
    assert all(array.ctypes.data % 64 == 0 for array in held)
    file.unlink()  # who maps it keeps it
    np.testing.assert_array_equal(session.run(FEEDS)["logits"], expected)


def test_tables_stay_in_model_bin(
    stored: Callable[[], Graph], no_work: Callable[[], None], own_plans: Path
) -> None:
    expected, graph = logits(stored()), stored()
    no_work()
    plan = Session(graph).plan
    assert plan is not None and isinstance(graph.constants, store.Stored)
    table = graph.constants["words"]
    assert plan.steps[0].params["words"].ctypes.data == table.ctypes.data
    assert graph.constants.place(plan.steps[0].params["words"]) is not None
    np.testing.assert_array_equal(logits(stored()), expected)
    assert files(own_plans)[0].stat().st_size < 1 << 18


@pytest.mark.parametrize("change", ["weight", "node", "isa", "sources", "measured"])
def test_what_a_plan_depends_on_is_in_its_name(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, isa = tiny_graph(), chosen()
    before = kept.place_of(graph, isa)
    assert before == kept.place_of(tiny_graph(), isa)
    if change == "weight":
        wide = graph.constants["wide"].copy()
        wide[3, 5] += 1
        graph = graph.changed(constants={**graph.constants, "wide": wide})
    elif change == "node":
        first = graph.nodes[0]
        first = first.changed(attributes={**first.attributes, "epsilon": 1e-5})
        graph = graph.changed(nodes=(first, *graph.nodes[1:]))
    elif change == "isa":
        isa = LADDER[0]
    elif change == "sources":
        monkeypatch.setattr(kept, "_sources", lambda: "others")
    else:
        measured = kept.read_measured(isa)
        measured.layers["a layer"] = Configuration("dense", 16)
        monkeypatch.setattr(kept, "read_measured", lambda _: measured)
    assert kept.place_of(graph, isa) != before


def test_small_models_and_those_that_are_tuned_are_not_kept(
    own_plans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changes in ({"share": 0}, {"tune": 1}, {"debug": 2}, {"cache": ""}):
        with settings.override(**changes):
            assert kept.place_of(tiny_graph(), chosen()) is None
    monkeypatch.setattr(kept, "LEAST", 1 << 20)
    assert kept.place_of(tiny_graph(), chosen()) is None


def test_a_constant_that_is_not_finite_is_warned_of_each_time(
    own_plans: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph = tiny_graph()
    head = np.full_like(graph.constants["head"], np.nan)
    graph = graph.changed(constants={**graph.constants, "head": head})
    for _ in range(2):
        caplog.clear()
        Session(graph)
        assert "NaN may come out" in caplog.text
    assert not files(own_plans)


def test_what_is_left_to_numpy_is_said_and_run_each_time(
    own_plans: Path, caplog: pytest.LogCaptureFixture, no_work: Callable[[], None]
) -> None:
    graph = tiny_graph()
    more = Node("Sin", ("logits",), ("sines",), {}, "sines")
    value = Value("sines", "float32", ("batch", 1, 2))
    graph = graph.changed(nodes=(*graph.nodes, more), outputs=(*graph.outputs, value))
    made = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            made.append(Session(graph).run(FEEDS)["sines"])
        assert "1 of 8 operators are left to NumPy, the first node 'sines'" in caplog.text
        no_work()
    np.testing.assert_array_equal(*made)
    assert files(own_plans)


def test_every_field_of_a_plan_survives() -> None:
    """A field that is added to one of these classes is written, too."""
    graph = tiny_graph()
    made, found = planning.make_plan(graph, chosen()), Session(graph).plan
    assert made is not None and found is not None

    def same(one: Any, other: Any, but: str) -> None:
        for name in (each.name for each in fields(one) if each.name not in but.split()):
            assert getattr(one, name) == getattr(other, name), name

    same(made, found, "steps")
    for step, other in zip(made.steps, found.steps, strict=True):
        same(step, other, "params operands")
        assert list(step.params) == list(other.params)
        for value, mine in zip(step.params.values(), other.params.values(), strict=True):
            if isinstance(value, Buffer):
                same(value, mine, "of")
        if step.operands is not None:
            same(step.operands, other.operands, "parts keep")


def test_the_command_that_warms_leaves_nothing_to_do(
    stored: Callable[[], Graph],
    tmp_path: Path,
    no_work: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected, told = logits(tiny_graph()), []
    for file in files(tmp_path / "plans"):
        file.unlink()
    for _ in range(2):
        assert main(["warm", str(tmp_path / "ir"), "--no-tune"]) == 0
        told.append(capsys.readouterr().out)
        no_work()
    assert f"{tmp_path / 'ir'}: 0 layers measured, " in told[0]
    assert "0 kernels compiled" in told[1] and len(files(tmp_path / "plans")) == 1
    np.testing.assert_array_equal(logits(stored()), expected)


# --- what is damaged
@pytest.mark.parametrize("how", ["half", "a bit", "empty", "more"])
def test_a_damaged_plan_is_made_again(
    how: str, own_plans: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = logits(tiny_graph())
    (path,) = files(own_plans)
    content = path.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 4
    damaged = {"half": content[: len(content) // 2], "a bit": changed, "empty": b""}
    path.write_bytes(damaged.get(how, content + b"\0"))
    np.testing.assert_array_equal(logits(tiny_graph()), expected)
    assert path.read_bytes() == content
    assert f"{path} is damaged: made again" in caplog.text


def changed_json(content: bytes, change: Callable[[Any], None]) -> bytes:
    size = int(content[:NUMBER])
    told = json.loads(content[NUMBER : NUMBER + size])
    change(told)
    text = json.dumps(told).encode()
    room = size + (len(text) - size) // 64 * 64 + 64 * (len(text) > size)
    text = text.ljust(max(room, size))
    return f"{len(text):0{NUMBER}d}".encode() + text + content[NUMBER + size :]


def product(told: Any) -> Any:
    return next(step for step in told["steps"] if "operands" in step)


NONSENSE: dict[str, Callable[[Any], Any]] = {
    "an array behind the end": lambda told: product(told)["operands"]["keep"][0].__setitem__(
        1, 64 << 40
    ),
    "an array before the beginning": lambda told: product(told)["operands"]["keep"][0].__setitem__(
        1, -64
    ),
    "a huge array": lambda told: product(told)["operands"]["keep"][2].__setitem__(2, 1 << 60),
    "parts that are no parts": lambda told: product(told)["operands"].update(
        parts=product(told)["operands"]["keep"][2]
    ),
    "an unknown kernel": lambda told: product(told).update(kernel="dot"),
    "a parameter too few": lambda told: product(told)["params"].pop(),
    "a buffer too many": lambda told: product(told)["params"][0].__setitem__(1, {"buffer": 999}),
    "no steps": lambda told: told.pop("steps"),
}


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_with_the_right_digest_is_made_again(
    change: Callable[[Any], Any], own_plans: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No address is made of an offset that is not within the file."""
    expected = logits(tiny_graph())
    (path,) = files(own_plans)
    assert cache.write(path, changed_json(cache.read(path), change))
    np.testing.assert_array_equal(logits(tiny_graph()), expected)
    assert f"{path} makes no sense, and is made again" in caplog.text


# --- several at once
LOADER = """
import sys
import numpy as np
from pathlib import Path
from engine.plan import kept
from engine.runtime import Session
from tests.plan.test_kept import FEEDS, cache, tiny_graph
kept.LEAST = 0
real = cache.place
cache.place = lambda kind, name: Path(sys.argv[1], name) if kind == "plans" else real(kind, name)
for _ in range(8):
    print(Session(tiny_graph()).run(FEEDS)["logits"].tobytes().hex())
    for file in Path(sys.argv[1]).glob("*.plan"):
        file.unlink(missing_ok=True)
"""


def test_processes_load_at_once(own_plans: Path) -> None:
    """While the file comes and goes, each has a whole plan."""
    expected = logits(tiny_graph()).tobytes().hex()
    loaders = [
        subprocess.Popen(
            [sys.executable, "-c", LOADER, str(own_plans)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [loader.communicate()[0].split() for loader in loaders]
    assert told == [[expected] * 8] * 2
