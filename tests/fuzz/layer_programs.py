"""Random programs over layers, and the kernels' products."""

import copy

import numpy as np
from calling import Call, Program, call, forward_backward, method, same_arrays, spoil, steps, there_and_back
from draw import UNITS

import cgru
from cgru import kernels

ACTIVATIONS = ("tanh", "sigmoid", "relu", "linear", "hard_sigmoid", "hard_sigmoid_keras2")


# -- the GRU


def gru_options(draw, units, plain=False):
    options = draw.options(
        reset_after=(False, True), dtype=("float32", "float64"), activation=ACTIVATIONS, use_bias=(True, False),
        recurrent_activation=("sigmoid", *ACTIVATIONS), return_sequences=(False, True), return_state=(False, True),
        num_layers=(1, 2, 3), bidirectional=(False, True), merge_mode=("concat", "sum", "mul", "ave"),
        learn_initial_state=(False, True), layer_norm=(False, True), zero_output_for_mask=(True, False),
        dropout=(0.0, 0.3), recurrent_dropout=(0.0, 0.3), layer_dropout=(0.0, 0.3), zoneout=(0.0, 0.2),
        bias_initializer=("zeros", "ones"), kernel_initializer=("glorot_uniform", "ones"),
        activity_regularizer=(None, "l2"), kernel_regularizer=(None, "l1"),
    )  # fmt: skip
    if not plain:
        options |= draw.options(time_major=(False, True), stateful=(False, True))
        if not options.get("bidirectional"):
            options |= draw.options(reverse=(False, True))
            if not options.get("reverse"):
                options |= draw.options(go_backwards=(False, True))
    return options | {"units": units, "seed": 1}


def turned(named, shape, time_major):
    return {name: v.T if name != "lengths" and isinstance(v, np.ndarray) else v for name, v in named.items()}


def gru(draw):
    n, t, d = draw.size(), draw.size(33), draw.size(33, 1)
    units = draw.pick(*UNITS)
    options = gru_options(draw, units)
    dtype = options.get("dtype", "float32")
    made = cgru.GRU(**options)
    flat = made.num_layers == 1 and not made.bidirectional
    cells = made.num_layers * (1 + made.bidirectional)
    built = draw.flag(0.8)

    def make():
        return cgru.GRU(**options, **({"input_size": d} if built else {}))

    def one(i):
        kind = draw.index(7)
        major = made.time_major
        x = draw.array((t, n, d) if major else (n, t, d), dtype)
        h = draw.array((n, units) if flat else (cells, n, units), dtype) if draw.flag() else None
        named = steps(draw, n, t)
        if major:
            named = turned(named, (n, t), True)
        if draw.flag(0.1) and not major:  # a ragged list
            rows = draw.rng().integers(0, t + 1, n)
            x, named = [draw.array((int(k), d), dtype) for k in rows], {}
        if kind in (0, 1):
            return call(draw, "call", method("__call__"), x, initial_state=h, changes=made.stateful, **named)
        if kind in (2, 3) and not made.stateful:  # whose state goes on even if there is no way back
            dy = draw.array((n, t, units), dtype) if draw.flag(0.8) else None
            dh = draw.array((n, units), dtype) if draw.flag() else None
            named |= draw.options(recompute=(None, 1, 2, 5, 40, "auto"))
            return call(draw, "forward, backward", there_and_back, x, dy, dh, draw.flag(), i, initial_state=h,
                        changes=made.stateful, **named)  # fmt: skip
        if kind == 4:
            return call(draw, "gates", method("gates"), x, initial_state=h, **named)
        if kind == 5:
            return call(draw, "forward", lambda layer, *a, **k: layer.forward(*a, **k)[:2], x, initial_state=h,
                        changes=made.stateful, **named)  # fmt: skip
        out = draw.pick(None, "new", "h", "x", "shifted")
        return call(draw, f"step out={out}", step(out), draw.array((n, d), dtype), h,
                    **({"resets": draw.flags((n,))} if draw.flag(0.2) else {}))  # fmt: skip

    calls = [one(i) for i in range(1 + draw.index(4))]
    if draw.flag(0.2):
        calls.insert(1, weights(draw, made, d))
    return Program(make, calls, not made.stateful)


def step(out):
    """A step into memory that may be one of its inputs, or overlap it: as one without `out`."""

    def both(layer, x, h, **options):
        expected = layer.step(x, h, **options)
        if out is None or layer.stateful:
            return expected
        x, h = np.array(x, layer.dtype), None if h is None else np.array(h, layer.dtype)
        memory = np.full(2 * max(expected.size, x.size) + 3, 7, expected.dtype)
        start = 1 if out == "shifted" else 0
        if out == "h" and h is not None:
            h = placed(memory, 0, h)
        elif out != "new":
            x = placed(memory, start, x)
        target = memory[: expected.size].reshape(expected.shape)
        found = layer.step(x, h, target, **options)
        assert found is target, "out is not what is returned"
        same_arrays(found, expected, f"a step with out over {out}")
        return expected

    return both


def placed(memory, start, array):
    view = memory[start : start + array.size].reshape(array.shape)
    view[...] = array
    return view


def weights(draw, made, *sizes):
    """New weights, in any form, for what is made like `made`."""
    like = copy.deepcopy(made)
    like.build(*sizes)
    scale = draw.pick(1.0, 0.0, 30.0)
    new = [draw.form((scale * draw.rng().standard_normal(w.shape)).astype(w.dtype)) for w in like.get_weights()]

    def put(layer, *arrays):
        layer.build(*sizes)
        layer.set_weights(arrays)

    return call(draw, "set_weights", put, *new, changes=True)


# -- layers without a state


def stateless(draw):
    n, t, f = draw.size(), draw.size(33), draw.size(67, 1)
    kind = draw.index(9)
    dtype = draw.pick("float32", "float64")
    units = draw.pick(*UNITS)
    typed = {"dtype": dtype, "seed": 1}
    plain_activation = draw.pick("linear", "relu", "sigmoid", "tanh", *(["softmax"] if kind == 0 else []))
    flat = draw.flag(0.3)
    make = [
        lambda: cgru.Dense(units, plain_activation, **typed),
        lambda: cgru.Embedding(11, units, mask_zero=draw_zero, **typed),
        lambda: cgru.Conv1D(units, width, activation=plain_activation, **convolved, **typed),
        cgru.GlobalAveragePooling1D, cgru.GlobalMaxPooling1D,
        lambda: cgru.AttentionPooling(hidden, **typed),
        lambda: cgru.LayerNormalization(**typed),
        lambda: cgru.Masking(0.0), lambda: cgru.Dropout(0.4, seed=1),
    ][kind]  # fmt: skip
    draw_zero, hidden = draw.flag(), draw.pick(None, 1, 5)
    width = 1 + draw.index(4)
    convolved = draw.options(padding=("valid", "same", "causal"), strides=(1, 2, 3))
    convolved |= {} if "strides" in convolved else draw.options(dilation_rate=(1, 2, 3))

    def one(i):
        named = {} if flat else steps(draw, n, t)
        shape = (n,) if flat else (n, t)
        if kind == 1:
            x = draw.form(draw.rng().integers(0, draw.pick(11, 12, weight=0.1), shape), lists=True)
        else:
            x = draw.array((*shape, f), dtype)
        if draw.flag():
            return call(draw, "call", method("__call__"), x, **named)
        dy = draw.array((*shape, units), dtype)
        return call(draw, "forward, backward", forward_backward, x, dy, draw.flag(), i, **named)

    return Program(make, [one(i) for i in range(1 + draw.index(3))])


def attention(draw):
    n, t, s, h = draw.size(17), draw.size(17), draw.size(17), draw.size(33, 1)
    score = draw.pick("dot", "general", "additive")
    f = h if score == "dot" else draw.size(33, 1)
    dtype = draw.pick("float32", "float64")

    def one(_):
        named = {"lengths": draw.lengths(n, t)} if draw.flag() else {}
        named |= {"memory_lengths": draw.lengths(n, s)} if draw.flag() else {}
        x, memory = draw.array((n, t, h), dtype), draw.array((n, s, f), dtype)
        if draw.flag():
            return call(draw, "call", method(draw.pick("__call__", "weights")), x, memory, **named)
        return call(draw, "forward, backward", attended, x, memory, draw.array((n, t, h + f), dtype), **named)

    def make():
        return cgru.layers.Attention(score, dtype=dtype, seed=1)

    return Program(make, [one(i) for i in range(1 + draw.index(3))])


def attended(layer, x, memory, dy, **named):
    y, tape = layer.forward(x, memory, training=True, **named)
    return y, layer.backward(dy, tape)


# -- products and passes of the kernels


def products(draw):
    m, k, n = draw.size(), draw.size(), draw.size()
    dtype = draw.pick("float32", "float64")
    ta, tb, accumulate = draw.flag(), draw.flag(), draw.flag()
    a, b = draw.array((k, m) if ta else (m, k), dtype), draw.array((n, k) if tb else (k, n), dtype)
    out = draw.form(draw.values((m, n), dtype)) if draw.flag() else None

    def multiplied(_, a, b, before, **named):
        if before is None:
            return kernels.gemm(a, b, **named | {"accumulate": False})
        out = np.empty_like(before)  # of the same strides, where they are whole
        out[...] = before
        result = kernels.gemm(a, b, out, **named)
        assert result is out, "out is not what is returned"
        return result

    named = {"transpose_a": ta, "transpose_b": tb, "accumulate": accumulate}
    if draw.flag(0.1):
        a, b = spoil(draw, (a, b), {})[0]
    return Program(lambda: None, [Call("gemm", multiplied, (a, b, out), named, same_errors=False)], shared=False)
