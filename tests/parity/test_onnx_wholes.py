"""Whole models in ONNX Runtime, beside what they compute here."""

import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import to_onnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say when they are imported is not ours
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")

N, T, D, H, V = 5, 7, 3, 6, 11


def run(model, **feeds):
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["y"], feeds)[0]


MODELS = {
    "classifier": lambda: [
        cgru.Embedding(V, D), cgru.Dropout(0.3), cgru.GRU(H, bidirectional=True), cgru.Dense(4, "softmax")
    ],
    "tagger": lambda: [cgru.Embedding(V, D), cgru.GRU(H, return_sequences=True), cgru.Dense(4, "softmax")],
    "regressor": lambda: [cgru.GRU(H, num_layers=2, reset_after=True), cgru.Dense(5, "relu"), cgru.Dense(1)],
    "deep": lambda: [
        cgru.Dense(4, "tanh"),
        cgru.GRU(H, bidirectional=True, merge_mode="sum", return_sequences=True, learn_initial_state=True),
        cgru.Dense(5, "sigmoid", use_bias=False),
        cgru.GRU(3, reverse=True, return_sequences=True, zero_output_for_mask=False),
        cgru.Dropout(0.1),
        cgru.Dense(2),
        cgru.Dropout(0.1),
    ],
    "sequences": lambda: [cgru.Embedding(V, D), cgru.GRU(H, return_sequences=True)],
    "backwards": lambda: [cgru.Embedding(V, D), cgru.GRU(H, go_backwards=True, return_sequences=True), cgru.Dense(2)],
    "vectors": lambda: [cgru.Dense(4, "relu"), cgru.Dense(3, "softmax")],
    "words": lambda: [cgru.Embedding(V, D), cgru.Dense(3, "tanh")],
}  # fmt: skip


@pytest.mark.parametrize("lengths", [None, np.array([7, 0, 3, 1, 5], np.int32)], ids=["whole", "lengths"])
@pytest.mark.parametrize("name", MODELS)
def test_models(rng, name, lengths):
    model = cgru.Sequential(MODELS[name](), seed=0)
    has_ids = isinstance(model.layers[0], cgru.Embedding)
    model.build(None if has_ids else D)
    model.set_weights([rng.standard_normal(array.shape) / 2 for array in model.get_weights()])
    if lengths is not None and name == "backwards":
        with pytest.raises(ValueError, match=r"^ONNX: cannot convert go_backwards=True with lengths exactly"):
            to_onnx(model, lengths=True)
        return
    for n, t in ((N, T), (N, 12)):
        x = rng.integers(0, V, (n, t)) if has_ids else rng.standard_normal((n, t, D)).astype("float32")
        if name == "vectors" and lengths is None:
            x = x[:, 0]
        feeds = {"x": x}
        if lengths is not None:
            feeds["sequence_lens"] = lengths
            x[np.arange(t) >= lengths[:, None]] = -1 if has_ids else np.nan  # never read
        expected = model.predict(x, lengths=lengths)
        checks.assert_close(run(to_onnx(model, lengths=lengths is not None), **feeds), expected, 5e-6)


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("name", ["learned", "stack", "ids"])
def test_models_that_go_on_from_a_state(rng, name, lengths):
    """A step at a time or all at once: the outputs of the whole, and its state."""
    gru = cgru.GRU(H, return_sequences=True, num_layers=1 + (name == "stack"), learn_initial_state=name == "learned")
    before = [cgru.Embedding(V, D)] if name == "ids" else [cgru.Dense(D, "tanh")]
    model = cgru.Sequential([*before, gru, cgru.Dense(3, "softmax")], seed=0)
    model.build(None if name == "ids" else D)
    x = rng.integers(0, V, (N, T)) if name == "ids" else rng.standard_normal((N, T, D)).astype("float32")
    exported = to_onnx(model, lengths=lengths, initial_state=True)
    onnx.checker.check_model(exported, full_check=True)
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    for steps in (1, 3):
        state = np.zeros(gru._state_shape(N), "float32")
        if name == "learned":
            state += gru.parameters["initial_state"]
        outputs = []
        for t in range(0, T, steps):
            feeds = {"x": x[:, t : t + steps], "initial_h": state}
            if lengths:
                feeds["sequence_lens"] = np.full(N, feeds["x"].shape[1], np.int32)
            y, state = session.run(["y", "h"], feeds)
            outputs.append(y)
        checks.assert_close(np.concatenate(outputs, axis=1), model(x), 5e-6)
        _, states, *_ = model._forward(cgru.sequences.as_batch(x))
        checks.assert_close(state, states[1], 5e-6)


def test_single_layers(rng):
    x, ids = rng.standard_normal((N, D)).astype("float32"), rng.integers(0, V, (N, T))
    dense, words = cgru.Dense(4, "relu", seed=0), cgru.Embedding(V, D, seed=0)
    dense.build(D)
    words.build()
    checks.assert_close(cgru.Sequential([dense]).predict(x), run(to_onnx(dense), x=x), 5e-6)
    np.testing.assert_array_equal(run(to_onnx(words), x=ids), words.parameters["embeddings"][ids])


def test_types_and_what_cannot_be():
    model = cgru.Sequential([cgru.GRU(H, dtype="float64"), cgru.Dense(2)])
    with pytest.raises(RuntimeError, match=r"^layer: expected one with parameters"):
        to_onnx(model)
    model.build(D)
    with pytest.raises(ValueError, match=r"^ONNX: cannot convert layers of float32 and float64 exactly: .*dtype="):
        to_onnx(model)
    x = np.ones((N, T, D), "float32")
    checks.assert_close(run(to_onnx(model, dtype="float32"), x=x), model.predict(x), 5e-6)
    with pytest.raises(ValueError, match=r"^layer: expected at least one beside Dropout"):
        to_onnx(cgru.Dropout(0.5))
    with pytest.raises(TypeError, match=r"^layer: expected a GRU, Dense, Embedding, Dropout or a Sequential"):
        to_onnx([])
