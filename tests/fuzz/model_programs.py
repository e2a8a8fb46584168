"""Random programs over models, and what stands around them."""

import copy
import pickle

import numpy as np
from calling import Call, Program, call, forward_backward, method, same_arrays, steps
from draw import FOLDER, UNITS
from layer_programs import gru_options

import cgru
from cgru import interpret, losses, metrics, optimizers


def stack(draw, dtype, ids, causal=False, classes=3):
    """Layers of a model, from functions, so that each model has its own."""
    typed = {"dtype": dtype}
    units = draw.pick(*UNITS[:8])
    kinds = []
    if ids:
        zero = draw.flag(0.3) and not causal
        kinds.append(lambda: cgru.Embedding(9, 4, mask_zero=zero, **typed))
    elif draw.flag(0.2) and not causal:
        kinds.append(lambda: cgru.Masking(0.0))
    if draw.flag(0.25):
        width, padding = 1 + draw.index(3), "causal" if causal else draw.pick("same", "causal", "valid")
        kinds.append(lambda: cgru.Conv1D(5, width, padding=padding, activation="relu", **typed))
    if draw.flag(0.2):
        kinds.append(lambda: cgru.LayerNormalization(**typed))
    if draw.flag(0.2):
        kinds.append(lambda: cgru.Dropout(0.3))
    sequences = draw.flag()
    pooled = draw.index(4) if sequences else 0
    options = gru_options(draw, units, plain=True) | {"return_sequences": sequences or pooled > 0, **typed}
    for name in ("seed", "return_state", *(["bidirectional"] if causal else [])):
        options.pop(name, None)
    kinds.append(lambda: cgru.GRU(**options))
    if pooled:
        pools = [cgru.GlobalAveragePooling1D, cgru.GlobalMaxPooling1D]
        kinds.append([*pools, pools[0] if causal else lambda: cgru.AttentionPooling(**typed)][pooled - 1])
    kinds.append(lambda: cgru.Dense(classes, activation="softmax", **typed))
    return kinds, sequences and not pooled


def sequential(draw):
    dtype, ids = draw.pick("float32", "float64"), draw.flag()
    n, t, d = draw.size(17, 1), draw.size(17, 1), draw.size(17, 1)
    kinds, tagged = stack(draw, dtype, ids)
    optimizer = draw.pick("adam", "sgd", "rmsprop", "adamw")

    def make():
        model = cgru.Sequential([kind() for kind in kinds], seed=1)
        model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
        return model

    def one(i):
        x = draw.form(draw.rng().integers(0, 9, (n, t)), lists=True) if ids else draw.array((n, t, d), dtype)
        labels = draw.form(draw.rng().integers(0, 3, (n, t) if tagged else (n,)), lists=True)
        named = steps(draw, n, t)
        kind = draw.index(8)
        if kind == 0:
            return call(draw, "call", method("__call__"), x, **named)
        if kind == 1:
            return call(draw, "predict", method("predict"), x, batch_size=1 + draw.index(9), **named)
        if kind == 2:
            dy = draw.array((n, t, 3), dtype)
            return call(draw, "forward, backward", forward_backward, x, dy, draw.flag(), i, **named)
        if kind == 3:
            if draw.flag():
                named["sample_weight"] = draw.form(draw.rng().random(n))
            return call(draw, "train_on_batch", trained, x, labels, changes=True, **named)
        if kind == 4:
            named |= draw.options(recompute=(None, 2, "auto"))
            return call(draw, "fit", fitted, x, labels, changes=True, batch_size=1 + draw.index(9), **named)
        if kind == 5:
            return call(draw, "evaluate", method("evaluate"), x, labels, batch_size=1 + draw.index(9), **named)
        if kind == 6:
            return call(draw, "there and back", copied(draw.pick("file", "pickle", "deepcopy")), x, **named)
        named.pop("resets", None)
        return call(draw, "interpret", explained(draw.pick("saliency", "integrated_gradients")), x, 0, **named)

    return Program(make, [one(i) for i in range(1 + draw.index(4))])


def small(draw):
    """Models with small weights: of 16 bits, too, as the float32 layers that compute with them."""
    kind, ids = draw.pick("float16", "bfloat16", "int8"), draw.flag()
    n, t, d = draw.size(17, 1), draw.size(17, 1), draw.size(33, 1)
    kinds, tagged = stack(draw, "float32", ids)

    def make():
        model = cgru.Sequential([kind() for kind in kinds], seed=1).build(None if ids else d)
        model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
        return cgru.quantize(model, kind)

    def one(i):
        x = draw.form(draw.rng().integers(0, 9, (n, t)), lists=True) if ids else draw.array((n, t, d), "float32")
        labels = draw.form(draw.rng().integers(0, 3, (n, t) if tagged else (n,)), lists=True)
        named = steps(draw, n, t)
        which = draw.index(4)
        if which == 0:
            return call(draw, "call", widened if kind != "int8" else method("__call__"), x, **named)
        if which == 1:
            return call(draw, "predict", method("predict"), x, batch_size=1 + draw.index(9), **named)
        if which == 2:
            return call(draw, "evaluate", method("evaluate"), x, labels, batch_size=1 + draw.index(9), **named)
        return call(draw, "there and back", copied(draw.pick("file", "pickle", "deepcopy")), x, **named)

    return Program(make, [one(i) for i in range(1 + draw.index(4))])


def widened(model, x, **named):
    """What the float32 layers give: the bits of the model."""
    found = model(x, **named)
    if cgru.get_backend() == "native":  # BLAS would sum those of float32 in another order
        wide = cgru.Sequential([layer.widened() if hasattr(layer, "widened") else layer for layer in model.layers])
        same_arrays(wide(x, **named), found, "the float32 layers")
    return found


def trained(model, *arguments, **named):
    found = model.train_on_batch(*arguments, **named)
    return found, model.get_weights()


def fitted(model, *arguments, **named):
    found = model.fit(*arguments, epochs=2, verbose=0, **named)
    numbers = {name: [float(v) for v in values] for name, values in found.history.items() if name != "seconds"}
    return numbers, model.get_weights()


def copied(way):
    """What a copy of the model gives: the bits of the model."""

    def both(model, x, **named):
        expected = model(x, **named)
        if way == "file":
            path = FOLDER / "model.safetensors"
            cgru.save(model, path)
            other = cgru.load(path)
        else:
            other = pickle.loads(pickle.dumps(model)) if way == "pickle" else copy.deepcopy(model)
        same_arrays(other(x, **named), expected, f"a copy by {way}")
        return expected

    return both


def explained(way):
    return lambda model, *arguments, **named: getattr(interpret, way)(model, *arguments, **named)


def stepped(draw):
    """Streams, and steps of a model: as the whole sequences."""
    dtype, ids = draw.pick("float32", "float64"), draw.flag()
    kinds, _ = stack(draw, dtype, ids, causal=True)
    d = draw.size(17, 1)

    def make():
        return cgru.Streams(cgru.Sequential([kind() for kind in kinds], seed=1), max_streams=6)

    def chunk(t):
        return draw.form(draw.rng().integers(0, 9, t)) if ids else draw.array((t, d), dtype)

    def one(_):
        kind = draw.index(6)
        names = draw.random.sample("abcdefgh", draw.index(5))
        if kind in (0, 1):
            x = draw.form(draw.rng().integers(0, 9, len(names))) if ids else draw.array((len(names), d), dtype)
            return call(draw, "step", method("step"), draw.pick(names, np.array(names)), x, changes=True)
        if kind in (2, 3):
            return call(draw, "feed", method("feed"), {key: chunk(draw.size(13)) for key in names}, changes=True)
        if kind == 4:
            return call(draw, "drop", method("drop"), names, changes=True)
        return Call("snapshot, restore", restored, (), {}, True)

    return Program(make, [one(i) for i in range(2 + draw.index(7))], shared=False)


def restored(streams):
    snapshot = streams.snapshot()
    streams.restore(snapshot)
    again = streams.snapshot()
    for name in snapshot:
        if name != "ages":
            same_arrays(again[name], snapshot[name], f"a second snapshot, {name}")


def seq2seq(draw):
    dtype = draw.pick("float32", "float64")
    units, score = draw.pick(*UNITS[:6]), draw.pick(None, "dot", "general", "additive")
    options = {name: v for name, v in gru_options(draw, units, plain=True).items() if name in
               ("reset_after", "num_layers", "layer_norm", "zoneout", "recurrent_dropout")}  # fmt: skip
    typed = {"dtype": dtype}

    def make():
        encoder, decoder = (
            [cgru.Embedding(n, 4, **typed), cgru.GRU(units, return_sequences=True, **options, **typed)] for n in (9, 7)
        )
        decoder.append(cgru.Dense(7, "softmax", **typed))
        model = cgru.Seq2Seq(cgru.Sequential(encoder), cgru.Sequential(decoder), score, seed=1)
        model.compile("adam", "sparse_categorical_crossentropy")
        return model

    def one(_):
        n, s, t = draw.size(8, 1), draw.size(8, 1), draw.size(8, 1)
        x, y = (draw.form(draw.rng().integers(0, k, shape), lists=True) for k, shape in ((9, (n, s)), (7, (n, t))))
        named = {"lengths": draw.lengths(n, s)} if draw.flag() else {}
        kind = draw.index(3)
        if kind == 0:
            named |= draw.options(beam=(1, 2, 5), batch_size=(64, 1, 3))
            if "beam" not in named and draw.flag():
                named |= {"temperature": 1.5, "seed": 3} | draw.options(top_k=(None, 1, 3), top_p=(None, 0.5))
            return call(draw, "generate", method("generate"), x, max_length=1 + draw.index(9), **named)
        if kind == 1:
            return call(draw, "fit", fitted, x, y, batch_size=1 + draw.index(9), changes=True, **named)
        return call(draw, "evaluate", method("evaluate"), x, y, **named)

    return Program(make, [one(i) for i in range(1 + draw.index(3))])


# -- what is left: losses and metrics, optimizers, foreign weights, estimators


def measures(draw):
    n, t, k = draw.size(33), draw.size(9), draw.size(9, 1)
    dtype = draw.pick("float32", "float64")
    shape = (n, t, k) if draw.flag() else (n, k)
    names = ("binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy")
    name = draw.pick("mse", "mae", "huber", *names)
    outputs = draw.form(softmaxed(draw.rng().standard_normal(shape)).astype(dtype))
    sparse = name.startswith("sparse")
    labels = softmaxed(draw.rng().standard_normal(shape)).astype(dtype)
    if sparse:
        labels = draw.rng().integers(0, k, shape[:-1])
    named = {"valid": np.asarray(draw.flags(shape[:-1], 0.7), bool)} if draw.flag() else {}
    named |= {"weights": draw.form(draw.rng().random(shape[:-1]))} if draw.flag() else {}
    labels = draw.form(labels, lists=True)
    if sparse and draw.flag(0.3):
        metric = draw.pick("accuracy", "macro_f1")
        named.pop("weights", None)
        return Program(lambda: metrics.get(metric), [call(draw, metric, method("__call__"), outputs, labels, **named)])
    calls = [call(draw, name, method(draw.pick("__call__", "gradient")), outputs, labels, **named)]
    return Program(lambda: losses.get(name), calls)


def softmaxed(array):
    e = np.exp(array - array.max(-1, keepdims=True, initial=0))
    return e / e.sum(-1, keepdims=True)


def updates(draw):
    d, units = draw.size(9, 1), draw.pick(*UNITS[:6])
    dtype = draw.pick("float32", "float64")
    kind = draw.pick("SGD", "Adam", "AdamW", "RMSprop")
    clips = draw.options(clipnorm=(None, 1.0), clipvalue=(None, 0.1))
    if len(clips) > 1:
        clips.popitem()

    def make():
        return getattr(optimizers, kind)(**clips), cgru.GRU(units, input_size=d, dtype=dtype, seed=1)

    def applied(made, *gradients):
        optimizer, layer = made
        optimizer.apply(layer, dict(zip(layer.parameters, gradients, strict=True)))
        return layer.get_weights()

    like = make()[1].get_weights()
    calls = [call(draw, "apply", applied, *(draw.array(w.shape, dtype) for w in like), changes=True) for _ in range(2)]
    return Program(make, calls, shared=False)


def foreign(draw):
    """Weights of PyTorch as arrays in any form."""
    d, units = draw.size(17, 1), draw.pick(*UNITS)
    dtype = draw.pick("float32", "float64", "float16")
    layers, both = draw.pick(1, 2, 3), draw.flag()
    shapes, state = {}, {}
    for i in range(layers):
        for end in (f"l{i}", f"l{i}_reverse")[: 1 + both]:
            shapes[f"weight_ih_{end}"] = (3 * units, d if i == 0 else units * (1 + both))
            shapes[f"weight_hh_{end}"] = (3 * units, units)
            shapes[f"bias_ih_{end}"] = shapes[f"bias_hh_{end}"] = (3 * units,)
    for name, shape in shapes.items():
        state[name] = draw.form(draw.rng().standard_normal(shape).astype(dtype))
    if draw.flag(0.1):
        state[draw.pick(*state)] = draw.nonsense()
    return Program(lambda: None, [Call("from_torch", lambda _, s: cgru.from_torch(s).get_weights(), (state,), {})])


def estimators(draw):
    from cgru import sklearn

    n, t, d = 2 + draw.size(13), draw.size(9, 1), draw.size(9, 1)
    options = {"hidden_size": 5, "max_iter": 2, "random_state": 0} | draw.options(dtype=("float32", "float64"))
    kind = draw.pick("GRUClassifier", "GRURegressor")
    x = draw.form(draw.rng().standard_normal((n, t, d)))
    y = draw.rng().integers(0, 2, n) if kind == "GRUClassifier" else draw.rng().standard_normal(n)

    def learned(estimator, x, y, **named):
        found = estimator.fit(x, y, **named).predict(x, **named)
        return found.astype(found.dtype.newbyteorder("="))  # labels are as they were given

    named = {"lengths": 1 + draw.rng().integers(0, t, n)} if draw.flag() else {}
    calls = [call(draw, "fit, predict", learned, x, draw.form(y, lists=True), changes=True, **named)]
    return Program(lambda: getattr(sklearn, kind)(**options), calls, shared=False)
