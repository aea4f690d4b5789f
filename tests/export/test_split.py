"""A graph in two parts answers what it answers whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anymask.export.split import split_graph

onnx = pytest.importorskip("onnx", reason="needs anymask[export]")
runtime = pytest.importorskip("onnxruntime", reason="needs anymask[export]")


def make_graph() -> Any:
    """early * 4 + late * early, and late + 4, where 4 is made of constants."""
    from onnx import TensorProto, helper

    def port(name: str, shape: list[Any]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("Constant", [], ["two"], value=helper.make_tensor("", TensorProto.FLOAT, [], [2.0])),
        helper.make_node("Mul", ["two", "weight"], ["four"]),
        helper.make_node("Mul", ["early", "four"], ["scaled"]),
        helper.make_node("Mul", ["late", "early"], ["mixed"]),
        helper.make_node("Add", ["scaled", "mixed"], ["sum"]),
        helper.make_node("Add", ["late", "four"], ["shifted"]),
    ]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [], [2.0])
    inputs, outputs = [port("early", ["n"]), port("late", ["n"])], [port("sum", ["n"]), port("shifted", ["n"])]
    graph = helper.make_graph(nodes, "test", inputs, outputs, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def names(ports: Any) -> set[str]:
    return {port.name for port in ports}


def run(graph: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    onnx.checker.check_model(graph)
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([port.name for port in session.get_outputs()], session.run(None, feeds), strict=True))


def test_what_needs_early_inputs_alone_comes_first() -> None:
    graph = make_graph()
    first, second = split_graph(graph, ["early"])
    assert names(first.graph.input) == {"early"}
    assert names(first.graph.output) == {"scaled"}
    assert names(second.graph.input) == {"early", "scaled", "late"}
    assert [node.op_type for node in first.graph.node] == ["Constant", "Mul", "Mul"], "with the constants it reads"
    early, late = np.array([1, 2, 3], np.float32), np.array([5, 7, 9], np.float32)
    made = run(first, {"early": early})
    answer = run(second, {"early": early, "late": late} | made)
    np.testing.assert_array_equal(answer["sum"], 4 * early + late * early)
    np.testing.assert_array_equal(answer["shifted"], late + 4)


def test_an_input_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"\['nobody'\] are not inputs; the graph has \['early', 'late'\]"):
        split_graph(make_graph(), ["early", "nobody"])
