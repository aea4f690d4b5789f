import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from anymask.export.reshapes import settle_reshapes  # noqa: E402


def graph_of(nodes: list, constants: dict[str, list[int]]):
    """From x (a, b, c) to y, of any rank."""
    initial = [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["a", "b", "c"])
    graph = helper.make_graph(nodes, "g", [x], [helper.make_empty_tensor_value_info("y")], initial)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(graph, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


EXAMPLES = [{"x": np.zeros(shape, np.float32)} for shape in ((2, 6, 5), (3, 10, 7), (5, 4, 3))]


def test_heads_are_split_by_numbers_alone() -> None:
    """(a, b, c) to (a, b / 2, 2, c): kept, left, two, and c, which is no longer where it was: two are unknown."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["a"]),
        helper.make_node("Slice", ["shape", "two", "three"], ["c"]),
        helper.make_node("Concat", ["a", "half", "c"], ["sizes"], axis=0),
        helper.make_node("Reshape", ["x", "sizes"], ["y"]),
    ]
    half = graph_of(nodes, {"zero": [0], "one": [1], "two": [2], "three": [3], "half": [-1, 2]})
    before = half.SerializeToString()
    settle_reshapes(half, EXAMPLES)
    assert [node.op_type for node in half.graph.node] == ["Shape", "Slice", "Slice", "Concat", "Reshape"]

    last = graph_of(nodes, {"zero": [0], "one": [1], "two": [2], "three": [3], "half": [-1]})
    settle_reshapes(last, EXAMPLES)
    assert [node.op_type for node in last.graph.node] == ["Reshape"]
    x = np.arange(4 * 2 * 9, dtype=np.float32).reshape(4, 2, 9)
    np.testing.assert_array_equal(run(last, x), x)
    np.testing.assert_array_equal(run(half, x), run(onnx.load_model_from_string(before), x))


def test_a_number_of_a_size_that_changes_is_no_constant() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ReduceProd", ["shape"], ["count"], keepdims=1),
        helper.make_node("Reshape", ["x", "count"], ["y"]),
    ]
    flat = graph_of(nodes, {})
    settle_reshapes(flat, EXAMPLES)
    assert [node.op_type for node in flat.graph.node] == ["Reshape"]
    assert run(flat, np.zeros((7, 11, 13), np.float32)).shape == (7 * 11 * 13,)
