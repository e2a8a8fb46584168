"""Models with small weights: they predict, step, stream, evaluate, generate; they are not trained."""

import copy
import pickle

import numpy as np
import pytest

import cgru
from cgru import quantized

KINDS = ("float16", "bfloat16", "int8")


@pytest.fixture(scope="module")
def tagger():
    """A compiled model with an output at each step, of every small layer and of one that stays float32."""
    model = cgru.Sequential(
        [cgru.Embedding(30, 8), cgru.Conv1D(12, 3, padding="causal"), cgru.GRU(24, return_sequences=True, num_layers=2),
         cgru.Dropout(0.5), cgru.GRU(9, return_sequences=True, reset_after=True), cgru.Dense(5, activation="softmax")],
        seed=1,
    )  # fmt: skip
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    ids, y = data()
    model.fit(ids, y, epochs=3, verbose=0)
    return model


def data():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30, (6, 7))
    return ids, ids % 5


def rounded(model, small):
    """The float32 model that computes with the weights of a small one."""
    other = copy.copy(model)
    other.set_weights(small.get_weights())
    return other


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_inference(tagger, kind):
    ids, y = data()
    before = [array.copy() for array in tagger.get_weights()]
    small = cgru.quantize(tagger, kind)
    assert [type(layer).__name__ for layer in small.layers] == [
        "QuantizedEmbedding", "Conv1D", "QuantizedGRU", "Dropout", "QuantizedGRU", "QuantizedDense",
    ]  # fmt: skip
    out = small(ids)
    exact = rounded(tagger, small)
    assert np.abs(out - exact(ids)).max() < (5e-3 if kind == "int8" else 1e-20)
    assert np.array_equal(out, small.predict(ids, batch_size=4))
    assert np.array_equal(out, small.forward(ids)[0])
    state, resets = None, np.arange(42).reshape(6, 7) % 5 == 0
    for t in range(7):
        y_t, state = small.step(ids[:, t], state, resets=resets[:, t])
        assert np.array_equal(y_t, small(ids, resets=resets)[:, t])
    ragged = small([ids[0], ids[1, :3]])
    assert np.array_equal(ragged[0], out[0]) and np.array_equal(ragged[1], small(ids[1:2, :3])[0])
    if kind != "int8":
        assert small.evaluate(ids, y) == exact.evaluate(ids, y)
    results = small.evaluate(ids, y, batch_size=6)
    assert abs(results["loss"] - tagger.evaluate(ids, y)["loss"]) < 0.02 and results.keys() == {"loss", "accuracy"}
    assert all(np.array_equal(a, b) for a, b in zip(before, tagger.get_weights(), strict=True))
    small.layers[1].trainable = True  # a float32 layer as ever, and one of its own
    with small.layers[1].update() as parameters:
        parameters["bias"] += 1
    assert np.array_equal(tagger.layers[1].parameters["bias"] + 1, small.layers[1].parameters["bias"])


@pytest.mark.parametrize("kind", KINDS)
def test_copies_pickles_and_configurations(tagger, kind):
    ids, _ = data()
    small = cgru.quantize(tagger, kind)
    for other in (copy.copy(small), pickle.loads(pickle.dumps(small))):
        assert np.array_equal(other(ids), small(ids)) and repr(other) == repr(small)
    assert cgru.Sequential.from_config(small.get_config()).get_config() == small.get_config()


@pytest.mark.parametrize("kind", KINDS)
def test_a_summary_has_kinds_and_bytes(tagger, kind, capsys):
    small = cgru.quantize(tagger, kind)
    small.summary()
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0  QuantizedEmbedding (N, T, 8) ") and lines[0].endswith(f"  embeddings 30x8 {kind}")
    assert lines[5].endswith(f"  kernel 9x5 {kind}  bias 5") and lines[1].endswith("  kernel 3x8x12  bias 12")
    for line, layer, whole in zip(lines, small.layers, tagger.layers, strict=True):
        count, nbytes = line[35:].replace(",", "").split()[:2]
        assert int(count) == sum(array.size for array in whole.parameters.values())
        assert int(nbytes) == layer.nbytes and (layer.nbytes == whole.nbytes) == (type(layer) is type(whole))
    assert f" parameters in {small.nbytes:,} bytes, " in last and head.split()[-2:] == ["parameters", "bytes"]
    assert small.nbytes == sum(layer.nbytes for layer in small.layers) < tagger.nbytes
    assert tagger.nbytes == sum(array.nbytes for array in tagger.get_weights())
    with pytest.raises(RuntimeError, match=r"layer 0 \(GRU\) has no parameters"):
        _ = cgru.Sequential([cgru.GRU(3)]).nbytes


@pytest.mark.parametrize("kind", KINDS)
def test_streams_and_snapshots(tagger, kind):
    ids, _ = data()
    small = cgru.quantize(tagger, kind)
    out = small(ids)
    streams = cgru.Streams(small)
    for t in range(4):
        assert np.array_equal(streams.step(list("abcdef"), ids[:, t]), out[:, t])
    kept = streams.snapshot()
    again = cgru.Streams(cgru.quantize(tagger, kind))
    again.restore(kept)
    assert np.array_equal(again.step(list("fedcba"), ids[::-1, 4]), out[::-1, 4])
    with pytest.raises(ValueError, match="one of another: Embedding Conv1D GRU Dropout GRU Dense"):
        cgru.Streams(cgru.GRU(6, input_size=3)).restore(kept)
    layer = cgru.quantize(cgru.GRU(6, input_size=3, seed=0, return_sequences=True), kind)
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    streams = cgru.Streams(layer)
    assert np.array_equal(np.stack([streams.step(["a", "b"], x[:, t]) for t in range(5)], 1), layer(x))


def test_streams_go_on_with_weights_of_another_kind(tagger, tmp_path):
    ids, _ = data()
    cgru.save(cgru.quantize(tagger, "int8"), tmp_path / "file")
    of_model = [tagger, *(cgru.quantize(tagger, kind) for kind in KINDS), cgru.load(tmp_path / "file")]
    of_model += [copy.copy(of_model[1]), pickle.loads(pickle.dumps(of_model[3])),
                 cgru.Sequential([of_model[1].layers[0], *tagger.layers[1:-1], of_model[3].layers[-1]])]  # fmt: skip
    state = None
    for t in range(4):
        _, state = tagger.step(ids[:, t], state)
    for one in of_model:
        streams = cgru.Streams(one)
        for t in range(4):
            streams.step(range(6), ids[:, t])
        kept = streams.snapshot()
        for other in of_model:
            again = cgru.Streams(other)
            again.restore(kept)
            given = {name: array for name, array in again.snapshot().items() if name not in ("ages", "model")}
            assert all(np.array_equal(array, kept[name]) for name, array in given.items())
            assert np.isfinite(again.step(range(6), ids[:, 4])).all()
            if one is tagger:  # as the states that `step` returns
                again.restore(kept)
                assert np.array_equal(again.step(range(6), ids[:, 4]), other.step(ids[:, 4], state)[0])


def test_streams_do_not_go_on_with_weights_of_another_model(tagger):
    ids, _ = data()
    streams = cgru.Streams(tagger)
    streams.step(range(6), ids[:, 0])
    kept = streams.snapshot()
    changed = copy.copy(tagger)
    changed.set_weights([array * np.float32(1.001) for array in tagger.get_weights()])
    for kind in KINDS:
        small = cgru.quantize(tagger, kind)
        small.layers[1].set_weights(changed.layers[1].get_weights())  # a layer that stays float32
        for other in (small, cgru.quantize(changed, kind), changed):
            with pytest.raises(ValueError, match="one of the same layers with other weights"):
                cgru.Streams(other).restore(kept)
    layer = cgru.GRU(6, input_size=3, seed=0)
    streams = cgru.Streams(layer)
    streams.step([1, 2], np.ones((2, 3)))
    kept = streams.snapshot()
    small = cgru.quantize(layer, "float16")
    cgru.Streams(small.with_options(dropout=0.5)).restore(kept)
    for other in (layer.with_options(activation="relu"), cgru.GRU(7, input_size=3, seed=0)):
        with pytest.raises(ValueError, match="one of another: GRU"):
            cgru.Streams(cgru.quantize(other, "float16")).restore(kept)
    with pytest.raises(ValueError, match="one of the same layers with other weights"):
        cgru.Streams(small.widened()).restore(kept)
    streams = cgru.Streams(small)
    cgru.Streams(small.widened()).restore(streams.snapshot())  # the same weights
    cgru.Streams(cgru.quantize(small.widened(), "float16")).restore(streams.snapshot())


@pytest.mark.parametrize("attention", [None, "general"])
def test_an_encoder_decoder(attention):
    rng = np.random.default_rng(0)
    source = [rng.integers(3, 8, n) for n in rng.integers(2, 6, 60)]
    target = [ids[::-1] for ids in source]
    encoder = cgru.Sequential([cgru.Embedding(8, 8), cgru.GRU(32, return_sequences=attention is not None)])
    decoder = cgru.Sequential(
        [cgru.Embedding(8, 8), cgru.GRU(32, return_sequences=True), cgru.Dense(8, activation="softmax")]
    )
    model = cgru.Seq2Seq(encoder, decoder, attention, seed=0)
    model.compile(cgru.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(source, target, epochs=12, verbose=0)
    said = model.generate(source, max_length=8)
    other = cgru.Seq2Seq(encoder, decoder, model.attention, start=2)
    for kind in KINDS:
        small, report = cgru.quantize(model, kind, report=(source, target))
        assert report.same > 0.98 and 0 < report.relative < 0.05
        names = ["encoder.0.embeddings", "encoder.1.kernel", "encoder.1.recurrent_kernel", "decoder.0.embeddings",
                 "decoder.1.kernel", "decoder.1.recurrent_kernel", "decoder.2.kernel"]  # fmt: skip
        assert [matrix.name for matrix in report.matrices] == names
        heard = small.generate(source, max_length=8)
        assert np.mean([np.array_equal(a, b) for a, b in zip(said, heard, strict=True)]) > 0.8
        if kind != "int8":
            exact = rounded(model, small)
            assert small.evaluate(source, target) == exact.evaluate(source, target)
            wanted = exact.generate(source, max_length=8, beam=3)
            assert all(map(np.array_equal, small.generate(source, max_length=8, beam=3), wanted))
        with pytest.raises(ValueError, match="quantised layers cannot be trained"):
            small.fit(source, target)
        with pytest.raises(ValueError, match="resets: expected None for a Seq2Seq"):
            quantized.compare(model, small, (source, target), resets=[[0, 1]])
        with pytest.raises(ValueError, match="quantized: expected what quantize made of the layer or model"):
            quantized.compare(other, small, (source, target))
        with pytest.raises(TypeError, match=r"report: expected a pair .source, target. for a Seq2Seq"):
            cgru.quantize(model, kind, report=(source,))


# -- what is refused


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_trains_a_model(tagger, kind):
    ids, y = data()
    small = cgru.quantize(tagger, kind)
    weights = tagger.get_weights()
    for call in (
        lambda: small.fit(ids, y, verbose=0),
        lambda: small.train_on_batch(ids, y),
        lambda: small.compile("adam", "sparse_categorical_crossentropy"),
        lambda: small.compile(loss="sparse_categorical_crossentropy"),
        lambda: small.forward(ids, training=True),
        lambda: small.set_weights(weights),
        lambda: cgru.optimizers.SGD(0.1).apply(small, {"0.embeddings": weights[0]}),
    ):
        with pytest.raises(ValueError, match="cannot be trained; train the float32 layer and quantise again"):
            call()
    with pytest.raises(ValueError, match=r"compile\(None, loss, metrics\) is for evaluate alone"):
        small.compile(loss="mse")
    assert small.optimizer is None and small.loss is not None
    small.compile(None, "sparse_categorical_crossentropy", ["perplexity"])
    assert small.evaluate(ids, y).keys() == {"loss", "perplexity"}
    with pytest.raises(ValueError, match="optimizer"):
        tagger.compile(None, "sparse_categorical_crossentropy")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_trains_a_layer(kind):
    x = np.ones((2, 3, 4))
    for layer in (cgru.GRU(5, input_size=4), built(cgru.Dense(5), 4), built(cgru.Embedding(5, 4))):
        small = cgru.quantize(layer, kind)
        data = np.ones((2, 3), int) if isinstance(layer, cgru.Embedding) else x
        weights = layer.get_weights()
        grads = {name: np.ones_like(array) for name, array in layer.parameters.items()}
        for call in (
            lambda s=small, d=data: s.forward(d, training=True),
            lambda s=small: s.backward(np.ones((2, 5)), None),
            lambda s=small, w=weights: s.set_weights(w),
            lambda s=small: s.update(),
            lambda s=small, w=weights: s.build_from(4, w),
            lambda s=small: setattr(s, "trainable", True),
            lambda s=small: s.with_options(trainable=True),
            lambda s=small, g=grads: cgru.optimizers.SGD(0.1).apply(s, g),
        ):
            with pytest.raises(ValueError, match="quantised layers cannot be trained"):
                call()
        with pytest.raises(ValueError, match="dtype: expected 'float32' beside small weights"):
            small.with_options(dtype="float64")
        with pytest.raises(ValueError, match="kind: expected"):
            small.with_options(kind=KINDS[KINDS.index(kind) - 1])
        assert not small.trainable and small.forward(data)[0].shape == np.shape(small(data))


def test_explanations_by_gradients_ask_for_the_float32_model(tagger):
    ids, _ = data()
    small = cgru.quantize(tagger, "int8")
    for explain in (cgru.interpret.saliency, cgru.interpret.integrated_gradients,
                    cgru.interpret.gradient_norm_by_distance):  # fmt: skip
        with pytest.raises(ValueError, match=r"^model: .*layer 0 .QuantizedEmb.*; the float32 layer has the gradients"):
            explain(small, ids)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_the_loss_has_no_penalty_of_parameters(kind):
    layers = [cgru.GRU(5, kernel_regularizer="l2", activity_regularizer="l1"), cgru.Dense(2, kernel_regularizer="l1")]
    model, x, y = cgru.Sequential(layers, seed=0).build(4), np.ones((3, 6, 4)), np.zeros((3, 2))
    model.compile(loss="mse")
    small = cgru.quantize(model, kind)
    exact = rounded(model, small)
    exact.compile(loss="mse")
    whole = exact.evaluate(x, y)["loss"]
    assert exact.penalty() > 0 and small.penalty() == 0
    assert np.isclose(small.evaluate(x, y)["loss"], whole - exact.penalty(), rtol=1e-6)


def test_options_may_not_be_set():
    for layer in (cgru.GRU(5, input_size=4), built(cgru.Dense(5), 4), built(cgru.Embedding(5, 4))):
        small = cgru.quantize(layer, "int8")
        for name in small.get_config().keys() - {"trainable"}:
            with pytest.raises(AttributeError, match=f"{name} is read-only after construction"):
                setattr(small, name, 3)
    with pytest.raises(AttributeError, match=r"cgru\.quantize.* of the float32 layer"):
        small.kind = "float16"


def built(layer, *sizes):
    layer.build(*sizes)
    return layer


class Own(cgru.Dense):
    """A layer of one's own."""


@pytest.mark.parametrize(
    ("make", "kind", "error", "message"),
    [
        (lambda: cgru.GRU(3, input_size=2), "int4", ValueError, "kind: expected one of"),
        (lambda: cgru.GRU(3, input_size=2), None, ValueError, "kind: expected one of"),
        (lambda: cgru.GRU(3, input_size=2), np.float16, ValueError, "kind: expected .*got the class float16$"),
        (cgru.LayerNormalization, "int8", TypeError, "got LayerNormalization"),
        (lambda: cgru.GRU(3), "int8", ValueError, "GRU has no parameters yet"),
        (lambda: cgru.Sequential([cgru.GRU(3), cgru.Dense(1)]), "int8", ValueError, "layer 0 .GRU.: GRU has no"),
        (lambda: cgru.GRU(3, input_size=2, dtype="float64"), "int8", ValueError, 'with_options[(]dtype="float32"[)]'),
        (
            lambda: cgru.Sequential([built(cgru.Dense(1, dtype="float64"), 2)]),
            "int8", ValueError, 'layer 0 .Dense.: .*with_options[(]dtype="float32"[)]',
        ),
        (lambda: cgru.quantize(cgru.GRU(3, input_size=2), "int8"), "float16", ValueError, "quantised already"),
        (
            lambda: cgru.quantize(cgru.Sequential([cgru.Dense(3)]).build(2), "int8"),
            "int8", ValueError, "layer 0 .QuantizedDense.: .*quantised already",
        ),
        (lambda: built(cgru.Conv1D(3, 2), 2), "int8", TypeError, "expected a GRU, Dense or Embedding.*got Conv1D"),
        (lambda: cgru.Sequential([cgru.Conv1D(3, 2)]).build(2), "int8", TypeError, "expected a GRU, Dense"),
        (lambda: built(Own(3), 2), "int8", TypeError, "no subclass.*got Own"),
        (lambda: np.ones(3), "int8", TypeError, "got ndarray"),
        (lambda: "gru", "int8", TypeError, "got str"),
    ],
)  # fmt: skip
def test_what_is_no_float32_layer_is_refused(make, kind, error, message):
    with pytest.raises(error, match=message):
        cgru.quantize(make(), kind)


def with_weight(name, place, value, layer=None):
    layer = layer or cgru.GRU(5, input_size=4, num_layers=2, learn_initial_state=True, seed=0)
    with layer.update() as parameters:
        parameters[name][place] = value
    return layer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(kind, value):
    places = {"l0.forward.kernel": (3, 2), "l1.forward.recurrent_kernel": (0, 14), "l1.forward.bias": (7,)}
    for name, place in (places | {"l0.forward.initial_state": (4,)}).items():
        with pytest.raises(ValueError, match=f"^{name}: expected finite weights, got {value} at .{place[0]},"):
            cgru.quantize(with_weight(name, place, value), kind)
    wrong = with_weight("kernel", (1, 2), value, cgru.GRU(5, input_size=4))
    model = cgru.Sequential([cgru.Embedding(9, 4), wrong]).build()
    with pytest.raises(ValueError, match=r"^1\.kernel: expected finite weights, got .* at \(1, 2\)"):
        cgru.quantize(model, kind)


def test_weights_beyond_a_kind_are_refused():
    for value in (65520, -1e30):
        with pytest.raises(ValueError, match=r"kernel: expected weights in the range of float16, got .* at \(1, 2\)"):
            cgru.quantize(with_weight("kernel", (1, 2), value, cgru.GRU(5, input_size=4)), "float16")
    fine = cgru.quantize(with_weight("kernel", (1, 2), 65519, cgru.GRU(5, input_size=4)), "float16")
    assert fine.parameters["kernel"][1, 2] == 65504
    with pytest.raises(ValueError, match="in the range of bfloat16"):
        cgru.quantize(with_weight("kernel", (1, 2), np.finfo(np.float32).max, cgru.GRU(5, input_size=4)), "bfloat16")


def test_columns_that_a_kind_flattens_are_named():
    flat = with_weight("kernel", (slice(None), 3), 1e-6, cgru.GRU(5, input_size=4, seed=0))
    with pytest.warns(quantized.QuantizationWarning, match=r"^kernel: float16 .* 1 of 15, the first column 3") as seen:
        cgru.quantize(flat, "float16")
    assert seen[0].filename == __file__
    spiked = with_weight("recurrent_kernel", (2, 7), 1e4, cgru.GRU(5, input_size=4, seed=0))
    with pytest.warns(quantized.QuantizationWarning, match="^recurrent_kernel: int8 .* the first column 7"):
        cgru.quantize(spiked, "int8")
    beyond = with_weight("kernel", (2, 7), 1e5, cgru.GRU(5, input_size=4, seed=0))
    with pytest.warns(quantized.QuantizationWarning, match="column 7, whose largest is 1e.05; .* from 6e-5 to 65504$"):
        cgru.quantize(beyond, "int8")  # which float16 does not have
    denormal = with_weight("kernel", (slice(None), 3), 1e-39, cgru.GRU(5, input_size=4, seed=0))
    with pytest.warns(quantized.QuantizationWarning, match="^kernel: int8 .* or as denormals, in 1 of 15, .* column 3"):
        cgru.quantize(denormal, "int8")
    table = with_weight("embeddings", (2, 1), 1e4, built(cgru.Embedding(5, 4, seed=0)))
    model = cgru.Sequential([table, cgru.Dense(2)]).build()
    with pytest.warns(quantized.QuantizationWarning, match=r"^0\.embeddings: int8 .* the first row 2"):
        cgru.quantize(model, "int8")


def test_rows_that_a_kind_makes_zero_of_are_named():
    """The weights of a feature whose numbers would not count any more."""
    for kind, value in (("float16", 2e-8), ("int8", 2e-5)):
        faint = with_weight("kernel", 2, value, cgru.GRU(5, input_size=4, seed=0))
        with pytest.warns(quantized.QuantizationWarning) as seen:
            small = cgru.quantize(faint, kind)
        assert [str(one.message).partition(";")[0] for one in seen] == [
            f"kernel: {kind} makes 0 of all weights of a row, in 1 of 4, the first row 2, whose largest is {value:.0e}"
        ]
        assert seen[0].filename == __file__ and not small.parameters["kernel"][2].any()
        x = np.random.default_rng(0).standard_normal((3, 6, 4))
        x[..., 2] = 1 / value
        assert np.abs(faint(x) - faint(x * [1, 1, -1, 1])).max() > 0.5
        assert np.array_equal(small(x), small(x * [1, 1, -1, 1]))
    both = with_weight("recurrent_kernel", 3, 1e-4, cgru.GRU(5, input_size=4, seed=0))
    both = with_weight("recurrent_kernel", (2, 7), 1e4, both)
    with pytest.warns(quantized.QuantizationWarning) as seen:
        cgru.quantize(both, "int8")
    assert ["the first column 7" in str(one.message) for one in seen] == [True, False]
    assert "the first row 3, whose largest is 0.0001; " in str(seen[1].message)
    table = with_weight("embeddings", (slice(None), 1), 1e-5, built(cgru.Embedding(9, 4, seed=0)))
    with pytest.warns(quantized.QuantizationWarning, match="^embeddings: int8 makes 0 of all .* first column 1,"):
        cgru.quantize(table, "int8")
    tiny = with_weight("kernel", slice(None), 2e-8, cgru.GRU(5, input_size=4, seed=0))
    with pytest.warns(quantized.QuantizationWarning, match="15 of 15, the first column 0") as seen:
        cgru.quantize(tiny, "float16")
    assert len(seen) == 1  # that says it all


@pytest.mark.filterwarnings("error")
def test_what_a_kind_keeps_is_not_warned_of():
    zeros = with_weight("kernel", slice(None), 0, cgru.GRU(5, input_size=4, seed=0))
    few = with_weight("kernel", (slice(None), 3), 1e-3, cgru.GRU(5, input_size=4, seed=0))
    for kind in KINDS:
        small = cgru.quantize(zeros, kind)
        assert (small.parameters["kernel"] == 0).all() and np.isfinite(small(np.ones((1, 2, 4)))).all()
        cgru.quantize(few, kind)
        for units in (1, 2, 7):  # of many rows some are small by chance where they are short
            cgru.quantize(built(cgru.Dense(units, seed=0), 30_000), kind)
        cgru.quantize(built(cgru.Embedding(7, 3000, seed=0)), kind)
        cgru.quantize(with_weight("kernel", 2, 0, cgru.GRU(5, input_size=4, seed=0)), kind)  # a row of zeros stays one
    cgru.quantize(with_weight("recurrent_kernel", (2, 7), 1e4, cgru.GRU(5, input_size=4, seed=0)), "bfloat16")


# -- the report


def test_a_report_tells_errors_that_are_there(tagger):
    ids, _ = data()
    lengths = [7, 3, 0, 1, 7, 7]
    last = np.inf
    for kind in ("int8", "bfloat16", "float16"):
        small, report = cgru.quantize(tagger, kind, report=ids)
        out, got = tagger(ids).reshape(-1, 5), small(ids).reshape(-1, 5)
        error = np.abs(got.astype(float) - out)
        assert report.kind == kind and report.count == 42 and report.same == (out.argmax(1) == got.argmax(1)).mean()
        assert report.largest == error.max() and np.isclose(report.rms, np.sqrt((error**2).mean()))
        assert np.isclose(report.relative, np.sqrt((error**2).sum() / (out.astype(float) ** 2).sum()))
        for matrix in report.matrices:
            w, q = tagger.parameters[matrix.name].astype(float), small.parameters[matrix.name]
            assert np.isclose(matrix.weights, np.sqrt(((w - q) ** 2).sum() / (w**2).sum())) and matrix.shape == w.shape
            alone = copy.copy(tagger)
            place, key = matrix.name.split(".", 1)
            with alone.layers[int(place)].update() as parameters:
                parameters[key] = q
            exact = tagger(ids).astype(float)
            difference = np.sqrt(((alone(ids) - exact) ** 2).sum() / (exact**2).sum())
            assert np.isclose(matrix.outputs, difference) and matrix.outputs > 0
        assert report.relative < last
        last = report.relative
        text = repr(report)
        assert all(matrix.name in text for matrix in report.matrices) and kind in text and "same class" in text
        fewer = quantized.compare(tagger, small, ids, lengths)
        ragged = quantized.compare(tagger, small, [row[:n] for row, n in zip(ids, lengths, strict=True)])
        assert fewer.count == sum(lengths) and fewer == ragged
        valid = np.arange(7) < np.array(lengths)[:, None]
        assert quantized.compare(tagger, small, ids, mask=valid) == fewer


def test_a_report_of_layers():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 6, 3)).astype(np.float32)
    layer = cgru.GRU(8, input_size=3, stateful=True, bidirectional=True, seed=0)
    layer(x)
    state = layer._state.copy()
    _, report = cgru.quantize(layer, "int8", report=x)
    assert report.same is None and report.count == 4 and len(report.matrices) == 4
    assert np.array_equal(layer._state, state)
    major = cgru.GRU(8, input_size=3, time_major=True, seed=0)
    usual = major.with_options(time_major=False)
    turned = cgru.quantize(major, "int8", report=x.swapaxes(0, 1))[1]
    assert turned == cgru.quantize(usual, "int8", report=x)[1]
    resets = rng.random((4, 6)) < 0.3
    small = cgru.quantize(usual, "int8")
    assert quantized.compare(usual, small, x, resets=resets) != quantized.compare(usual, small, x)
    other = quantized.compare(major, cgru.quantize(major, "int8"), x.swapaxes(0, 1), resets=resets.T)
    assert other == quantized.compare(usual, small, x, resets=resets)
    table = built(cgru.Embedding(5, 4, seed=0))
    assert cgru.quantize(table, "int8", report=[[1, 2]])[1].count == 2
    with pytest.raises(ValueError, match="expected what quantize made of the layer"):
        quantized.compare(usual, cgru.quantize(cgru.GRU(7, input_size=3), "int8"), x)
    with pytest.raises(ValueError, match="expected what quantize made of the layer"):
        quantized.compare(usual, usual, x)
    with pytest.raises(TypeError, match="quantized: expected a layer or model"):
        quantized.compare(usual, None, x)
    with pytest.raises(ValueError, match="report: expected"):
        cgru.quantize(usual, "int8", report=np.ones((2, 3)))
    with pytest.raises(ValueError, match="layer_or_model: expected float32 weights, got int8"):
        quantized.compare(small, small, x)


def test_a_report_is_of_finite_outputs_that_are_there():
    x = np.random.default_rng(0).standard_normal((4, 6, 3)).astype(np.float32)
    layer = cgru.GRU(8, input_size=3, return_sequences=True, seed=0)
    small, holes = cgru.quantize(layer, "int8"), x.copy()
    holes[1, 4] = np.nan
    for call in (lambda: cgru.quantize(layer, "int8", report=x[:0]), lambda: cgru.quantize(layer, "int8", report=[])):
        with pytest.raises(ValueError, match=r"^report: expected"):
            call()
    for given in ({"lengths": [0] * 4}, {"mask": np.zeros((4, 6), bool)}):
        with pytest.raises(ValueError, match=r"^x: expected data with outputs that are finite in float32, got none"):
            quantized.compare(layer, small, x, **given)
    with pytest.raises(ValueError, match=r"^report: expected data with outputs that are finite.*not finite"):
        cgru.quantize(layer, "int8", report=holes)
    assert np.isfinite(quantized.compare(layer, small, holes, [6, 4, 6, 6]).largest)  # behind the end nothing is read
    head = cgru.Dense(2, activation="softmax", seed=0)
    model = cgru.Sequential([layer.with_options(return_sequences=False), head]).build(3)
    holes[1, 4] = np.inf  # gates and candidates stay finite, where int8 has NaN
    with model.layers[0].update() as parameters:
        np.abs(parameters["kernel"], out=parameters["kernel"])
    report = quantized.compare(model, cgru.quantize(model, "int8"), holes)
    assert np.isnan(report.largest) and report.same == 0.75


def test_a_report_says_what_int8_rounds_besides():
    table, layer = built(cgru.Embedding(5, 4, seed=0)), cgru.GRU(3, input_size=4, seed=0)
    x, said = np.ones((2, 5, 4)), "all, and inputs and states in 8 bits"
    assert said in repr(cgru.quantize(layer, "int8", report=x)[1])
    assert said not in repr(cgru.quantize(layer, "float16", report=x)[1])
    assert said not in repr(cgru.quantize(table, "int8", report=[[1, 2]])[1])  # ids


def test_a_report_takes_what_a_layer_of_time_major_data_takes():
    rng = np.random.default_rng(0)
    x, valid = rng.standard_normal((4, 6, 3)).astype(np.float32), rng.random((4, 6)) < 0.7
    layer = cgru.GRU(8, input_size=3, return_sequences=True, seed=0)
    major = layer.with_options(time_major=True)
    small, own = cgru.quantize(layer, "int8"), cgru.quantize(major, "int8")
    turned, whole = x.swapaxes(0, 1), quantized.compare(layer, small, x)
    for form in (turned, turned.tolist(), list(x)):
        assert quantized.compare(major, own, form) == whole
    masked = np.ma.array(turned, mask=np.broadcast_to(~valid.T[:, :, None], turned.shape))
    assert quantized.compare(major, own, masked) == quantized.compare(layer, small, x, mask=valid)
    for empty in ([], 3.0):
        with pytest.raises(ValueError, match=r"report: expected .*got shape"):
            cgru.quantize(major, "int8", report=empty)


@pytest.mark.parametrize(
    "options",
    [{"activation": "relu"}, {"return_sequences": True}, {"time_major": True}, {"go_backwards": True},
     {"dtype": "float64"}, {"zoneout": 0.5}],
)  # fmt: skip
def test_a_report_is_of_the_same_options(options):
    layer, x = cgru.GRU(8, input_size=6, seed=0), np.ones((4, 6, 6))
    for one in (layer, cgru.Sequential([layer])):
        small = cgru.quantize(one, "int8")
        other = layer.with_options(**options)
        other = other if one is layer else cgru.Sequential([other])
        with pytest.raises(ValueError, match="quantized: expected what quantize made of the layer or model, got"):
            quantized.compare(other, small, x)
        assert quantized.compare(one, small, x).relative > 0
    free = layer.with_options(stateful=True, seed=3, kernel_regularizer="l2")
    assert quantized.compare(free, cgru.quantize(layer, "int8"), x).relative > 0


def test_a_report_is_of_the_same_layers():
    pools, x = (cgru.GlobalMaxPooling1D(), cgru.GlobalAveragePooling1D(), cgru.Dropout(0.5)), np.ones((4, 6, 5))
    gru = cgru.GRU(3, input_size=5, return_sequences=True, seed=0)
    models = [cgru.Sequential([gru, *some]).build(5) for some in ((), pools[:1], pools[1:2], pools[2:], pools[1:])]
    for i, model in enumerate(models):
        for k, other in enumerate(models):
            small = cgru.quantize(other, "int8")
            if i == k:
                assert quantized.compare(model, small, x).count in (4, 24)
                continue
            with pytest.raises(ValueError, match="quantized: expected what quantize made of the layer or model, got"):
                quantized.compare(model, small, x)


def test_a_report_of_several_kinds():
    layers = [cgru.GRU(5, seed=0), cgru.Dense(2, seed=0)]
    model = cgru.Sequential(layers).build(3)
    small = cgru.Sequential([cgru.quantize(layers[0], "int8"), cgru.quantize(layers[1], "float16")])
    report = quantized.compare(model, small, np.ones((2, 4, 3)))
    assert report.kind == "int8, float16" and len(report.matrices) == 3
    with pytest.raises(ValueError, match=r"layer_or_model: layer 0 .QuantizedGRU.: expected float32 weights, got int8"):
        quantized.compare(small, small, np.ones((2, 4, 3)))
