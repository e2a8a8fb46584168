"""GRU nodes within Loop, Scan, If and functions are seen, and names reach them; what they are made of may stand around
them."""

import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import PartialConversionWarning, to_onnx_arrays

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says when it is imported is not ours
    onnx = pytest.importorskip("onnx")

helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto
H, D = checks.H, checks.D
OWN = "local"


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def gru(x, name, y, prefix=None, **attributes):
    prefix = name if prefix is None else prefix
    return node("GRU", [x, f"{prefix}W", f"{prefix}R", f"{prefix}B"], [y, f"{y}_h"], name=name, linear_before_reset=1,
                **attributes)  # fmt: skip


def value(name, kind=TensorProto.DOUBLE):
    return helper.make_tensor_value_info(name, kind, None)


def weights(rng, *prefixes, inputs=D):
    return {prefix: checks.onnx_arrays(rng, inputs=inputs) for prefix in prefixes}


def tensors(given):
    return [
        numpy_helper.from_array(array, f"{prefix}{name}")
        for prefix, arrays in given.items()
        for name, array in arrays.items()
    ]


def model(nodes, given, inputs=("x",), outputs=("out",), functions=(), more=()):
    graph = helper.make_graph(
        nodes, "graph", [value(name) for name in inputs], [value(name) for name in outputs], [*tensors(given), *more]
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid(OWN, 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=8, functions=functions)


def body(nodes, inputs, outputs, given=None):
    kinds = {"i": TensorProto.INT64, "on": TensorProto.BOOL, "on_out": TensorProto.BOOL}
    made = [[value(name, kinds.get(name, TensorProto.DOUBLE)) for name in names] for names in (inputs, outputs)]
    return helper.make_graph(nodes, "body", *made, tensors(given or {}))


def same(layer, arrays):
    checks.assert_same_arrays(to_onnx_arrays(layer), arrays)


def loop(inner, name="steps"):
    return node("Loop", ["", "", "state"], ["out"], body=inner, name=name)


@pytest.mark.parametrize("around", [True, False], ids=["weights-around", "weights-within"])
def test_an_encoder_outside_and_a_decoder_inside_a_loop(rng, around):
    given = weights(rng, "encoder", "decoder")
    within = {} if around else {"decoder": given.pop("decoder")}
    inner = body(
        [node("Identity", ["on"], ["on_out"]), gru("state_in", "decoder", "state_out")],
        ["i", "on", "state_in"], ["on_out", "state_out"], within,
    )  # fmt: skip
    source = model([gru("x", "encoder", "state"), loop(inner)], given)
    given |= within
    with pytest.raises(
        ValueError, match=r"^node: expected one of \['encoder', 'decoder'\], which do not stand in a row"
    ):
        cgru.from_onnx(source)
    for name, arrays in given.items():
        same(cgru.from_onnx(source, name), arrays)
    same(cgru.from_onnx(source, "state_out"), given["decoder"])
    with pytest.raises(ValueError, match=r"^node: expected one of \['encoder', 'decoder'\], got 'nobody'"):
        cgru.from_onnx(source, "nobody")


def test_the_only_gru_is_in_a_loop(rng):
    given = weights(rng, "only")
    inner = body([node("Identity", ["on"], ["on_out"]), gru("x", "only", "y")], ["i", "on", "s"], ["on_out", "y"])
    same(cgru.from_onnx(model([loop(inner)], given, inputs=("x", "state"))), given["only"])


def test_both_branches_of_an_if(rng):
    given = weights(rng, "a", "b")
    source = model(
        [node("If", ["c"], ["out"], name="choice", then_branch=body([gru("x", "same", "y", "a")], [], ["y"]),
              else_branch=body([gru("x", "same", "z", "b")], [], ["z"]))],
        given, inputs=("x", "c"),
    )  # fmt: skip
    names = ["choice/then_branch/same", "choice/else_branch/same"]
    listed = sorted(
        names, key=lambda name: [one.name for one in source.graph.node[0].attribute].index(name.split("/")[1])
    )
    with pytest.raises(ValueError) as caught:
        cgru.from_onnx(source)
    assert f"node: expected one of {listed}, which do not stand in a row" in str(caught.value)
    same(cgru.from_onnx(source, names[0]), given["a"])
    same(cgru.from_onnx(source, names[1]), given["b"])
    same(cgru.from_onnx(source, "z"), given["b"])
    with pytest.raises(ValueError, match=r"^node: expected one of .*, got 'same'"):
        cgru.from_onnx(source, "same")


def test_graphs_in_graphs(rng):
    """Weights of the outermost graph, of the one around and of the graph itself, computed on the way."""
    given = weights(rng, "g")
    arrays = given["g"]
    inner = body(
        [node("Identity", ["gB"], ["B0"]),
         node("GRU", ["x", "W1", "R", "B0"], ["y", ""], name="deep", linear_before_reset=1)],
        [], ["y"], {"": {"R": arrays["R"]}},
    )  # fmt: skip
    middle = body(
        [node("Identity", ["gW"], ["W1"]), node("If", ["c"], ["m"], then_branch=inner, else_branch=body(
            [node("Identity", ["x"], ["e"])], [], ["e"]))], [], ["m"],
    )  # fmt: skip
    outer = node(
        "If", ["c"], ["out"], then_branch=middle, else_branch=body([node("Identity", ["x"], ["f"])], [], ["f"])
    )
    source = model([outer], {"g": {name: arrays[name] for name in "WB"}}, inputs=("x", "c"))
    same(cgru.from_onnx(source), arrays)
    same(cgru.from_onnx(source, "deep"), arrays)


def test_scan(rng):
    given = weights(rng, "s")
    inner = body([gru("step", "s", "y")], ["step"], ["y"])
    same(cgru.from_onnx(model([node("Scan", ["x"], ["out"], body=inner, num_scan_inputs=1)], given)), given["s"])


# -- functions


def function(name, inputs, outputs, nodes, attributes=(), version=17):
    return helper.make_function(
        OWN,
        name,
        inputs,
        outputs,
        nodes,
        [helper.make_opsetid("", version), helper.make_opsetid(OWN, 1)],
        list(attributes),
    )


def test_a_function_that_is_called_twice(rng):
    """With other weights each time: two nodes, of which each has its own."""
    given = weights(rng, "a", "b")
    inner = function(
        "Rnn",
        ["v", "w", "r", "b"],
        ["u"],
        [node("GRU", ["v", "w", "r", "b"], ["u", ""], name="gru", linear_before_reset=1)],
    )
    calls = [node("Rnn", ["x", f"{p}W", f"{p}R", f"{p}B"], [f"{p}y"], domain=OWN, name=f"call_{p}") for p in "ab"]
    source = model(calls, given, outputs=("ay", "by"), functions=[inner])
    with pytest.raises(
        ValueError, match=r"^node: expected one of \['call_a/gru', 'call_b/gru'\], which do not stand in"
    ):
        cgru.from_onnx(source)
    for prefix in "ab":
        same(cgru.from_onnx(source, f"call_{prefix}/gru"), given[prefix])


def test_layers_in_a_row_over_functions(rng):
    """What a function gives is what its nodes give: two layers, each in a call, are a row."""
    given = weights(rng, "a") | weights(rng, "b", inputs=H)
    inner = function(
        "Layer", ["v", "w", "r", "b"], ["u"],
        [node("Identity", ["v"], ["v1"]),
         node("GRU", ["v1", "w", "r", "b"], ["u4", ""], name="gru", linear_before_reset=1),
         node("Constant", [], ["one"], value_ints=[1]), node("Squeeze", ["u4", "one"], ["u"])],
    )  # fmt: skip
    calls = [node("Layer", [x, f"{p}W", f"{p}R", f"{p}B"], [y], domain=OWN, name=f"call_{p}")
             for p, x, y in (("a", "x", "m"), ("b", "m", "out"))]  # fmt: skip
    layer = cgru.from_onnx(model(calls, given, functions=[inner]))
    assert layer.time_major and [len(cell) for cell in to_onnx_arrays(layer)] == [3, 3]
    checks.assert_same_arrays(to_onnx_arrays(layer), [given["a"], given["b"]])


def test_attributes_and_constants_of_functions(rng):
    """Attributes that a call gives or leaves out, weights that a function computes, functions in functions."""
    given = weights(rng, "a")
    gru_node = node("GRU", ["v", "w", "r", "b"], ["u", ""], name="gru", linear_before_reset=1)
    reference = onnx.AttributeProto(name="direction", ref_attr_name="way", type=onnx.AttributeProto.STRING)
    gru_node.attribute.append(reference)
    rnn = function("Rnn", ["v", "w", "r", "b"], ["u"], [gru_node], ["way"])
    doubled = function("Twice", ["a"], ["c"], [node("Add", ["a", "a"], ["c"])])
    outer = function("Outer", ["v", "w", "r", "b"], ["u"], [
        node("Twice", ["w"], ["w2"], domain=OWN),
        node("Rnn", ["v", "w2", "r", "b"], ["u"], domain=OWN, way="reverse", name="inner"),
    ])  # fmt: skip
    source = model(
        [node("Outer", ["x", "aW", "aR", "aB"], ["out"], domain=OWN)], given, functions=[rnn, doubled, outer]
    )
    layer = cgru.from_onnx(source)
    assert layer.reverse
    same(layer, given["a"] | {"W": 2 * given["a"]["W"]})
    plain = model([node("Rnn", ["x", "aW", "aR", "aB"], ["out"], domain=OWN)], given, functions=[rnn])
    assert not cgru.from_onnx(plain).reverse  # nobody gives the attribute: it is that of the operator


def test_weights_that_a_call_leaves_out(rng):
    given = weights(rng, "a")
    rnn = function(
        "Rnn", ["v", "w", "r", "b"], ["u"], [node("GRU", ["v", "w", "r", "b"], ["u"], linear_before_reset=1)]
    )
    arrays = {name: given["a"][name] for name in "WR"}
    for left_out in (["x", "aW", "aR"], ["x", "aW", "aR", ""]):
        source = model([node("Rnn", left_out, ["out"], domain=OWN)], {"a": arrays}, functions=[rnn])
        with pytest.raises(ValueError, match=r"\.B: expected a constant, got 'b', which the model computes"):
            cgru.from_onnx(source)


def test_functions_that_call_themselves(rng):
    given = weights(rng, "a")
    inner = node("GRU", ["v", "w", "r", "b"], ["u"], linear_before_reset=1)
    for nodes in (
        [inner, node("F", ["v", "w", "r", "b"], ["z"], domain=OWN)],
        [inner, node("G", ["v", "w", "r", "b"], ["z"], domain=OWN)],
    ):
        f = function("F", ["v", "w", "r", "b"], ["u"], nodes)
        g = function("G", ["v", "w", "r", "b"], ["z"], [node("F", ["v", "w", "r", "b"], ["z"], domain=OWN)])
        source = model([node("F", ["x", "aW", "aR", "aB"], ["out"], domain=OWN)], given, functions=[f, g])
        with pytest.raises(ValueError, match="expected functions that do not call themselves"):
            cgru.from_onnx(source)


def test_functions_that_stand_for_more_nodes_than_there_is_room(rng):
    """Each calls the one below twice: 2^60 nodes."""
    given = weights(rng, "a")
    names = ["v", "w", "r", "b"]
    functions = [function("F0", names, ["u"], [node("GRU", names, ["u"], linear_before_reset=1)])]
    for i in range(60):
        calls = [node(f"F{i}", names, [out], domain=OWN) for out in ("u", "z")]
        functions.append(function(f"F{i + 1}", names, ["u"], calls))
    source = model([node("F60", ["x", "aW", "aR", "aB"], ["out"], domain=OWN)], given, functions=functions)
    with pytest.raises(ValueError, match="calls without end"):
        cgru.from_onnx(source)
    # Constants through the same functions: each is called as often as it is needed.
    halves = [function("H0", ["a"], ["c"], [node("Identity", ["a"], ["c"])])]
    for i in range(60):
        calls = [node(f"H{i}", ["a"], ["p"], domain=OWN), node(f"H{i}", ["p"], ["c"], domain=OWN)]
        halves.append(function(f"H{i + 1}", ["a"], ["c"], calls))
    nodes = [
        node("H60", ["aW"], ["W"], domain=OWN),
        node("GRU", ["x", "W", "aR", "aB"], ["out"], linear_before_reset=1),
    ]
    with pytest.raises(ValueError, match="calls without end"):
        cgru.from_onnx(model(nodes, given, functions=halves))


def test_other_weights_are_named(rng):
    given = weights(rng, "a") | {"dense": {"W": np.ones((3, 3))}}
    source = model([gru("x", "a", "y"), node("MatMul", ["y", "denseW"], ["out"])], given)
    with pytest.warns(PartialConversionWarning, match="left out: denseW"):
        cgru.from_onnx(source)
    cgru.from_onnx(source, "a")


def test_operators_without_weights_are_named(rng):
    source = model([gru("x", "a", "y"), node("Tanh", ["y"], ["t"]), node("Softmax", ["t"], ["out"])], weights(rng, "a"))
    with pytest.warns(PartialConversionWarning, match=r"left out: Tanh, Softmax\. node="):
        cgru.from_onnx(source)
    cgru.from_onnx(source, "a")
