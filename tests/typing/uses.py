"""Uses that a type checker must take as they stand; `mypy` reads this file, nobody runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_type

import cgru
from cgru import (
    convert,
    files,
    losses,
    metrics,
    optimizers,
    plot,
    recurrence,
    reference,
    schedules,
    scheduling,
    sequences,
    sklearn,
)
from cgru.layers import Layer
from cgru.typing import Activation, Array

x = np.ones((2, 5, 3))
ids = np.zeros((2, 5), np.intp)
labels = [0, 1]


def the_gru() -> None:
    layer = cgru.GRU(4, return_sequences=True, dtype=np.float32, seed=0)
    y = layer(x, lengths=[5, 2], resets=np.zeros((2, 5), bool))
    print(y.shape, y[0, 1:].mean(axis=0) + 1)
    result: Array = layer(x.tolist(), mask=np.ones((2, 5), bool))
    both = cgru.GRU(np.int64(4), "relu", return_state=True, recurrent_activation="hard_sigmoid", input_size=3)
    y, h = both([x[0], x[1, :2]], initial_state=np.zeros((2, 4)))
    print(result, h.shape, both.units + 1, both.dtype.name, both.merge_mode)
    y, h, tape = layer.forward(x, training=True)
    y, h, tape = layer.forward(x, training=True, recompute="auto")
    dx, dh0, grads = layer.backward(np.ones_like(y), tape, need_dx=True)
    assert_type(dh0, Array)
    assert_type(grads, dict[str, Array])
    print(dx.shape)
    state: Array | None = None
    for t in range(5):
        state = layer.step(x[:, t], state)
    out = np.empty((2, 4), np.float32)
    layer.step(x[:, 0], state, out=out)
    assert_type(layer.parameters["kernel"], Array)
    with layer.update() as p:
        p["kernel"] *= 2
        p["bias"] = 0
    layer.set_weights([2 * w for w in layer.get_weights()])
    layer.trainable = False
    assert_type(layer.with_options(return_sequences=False), cgru.GRU)
    assert_type(cgru.GRU.from_config(layer.get_config()), cgru.GRU)
    assert_type(layer.input_size, int | None)
    layer.reset_states()


def names_in_variables(activation: Activation, flag: bool) -> cgru.GRU:
    return cgru.GRU(4, activation, reset_after=flag, kernel_initializer="orthogonal" if flag else "zeros")


def layers_of_all_kinds() -> list[Layer]:
    table = cgru.Embedding(10, 3, dtype="float64")
    dropout = cgru.Dropout(0.5, seed=1)
    head = cgru.Dense(2, "softmax", use_bias=False)
    table.build()
    head.build(4)
    assert_type(head(x[:, :, [0, 1, 2, 0]]), Array)
    y, tape = head.forward(x[:, :, [0, 1, 2, 0]], lengths=[5, 2], training=True)
    dx, grads = head.backward(y, tape)
    assert_type(grads, dict[str, Array])
    print(dx.shape, table.forward(ids, training=True)[0].shape, dropout(x, mask=np.ones((2, 5), bool)).shape)
    print(table.input_dim, dropout.rate, head.activation, head.dtype.itemsize)
    return [table, dropout, head]


def models() -> None:
    model = cgru.Sequential([cgru.GRU(8), cgru.Dense(2, activation="softmax")], seed=0)
    model.compile(optimizers.Adam(0.02), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.compile("adam", losses.SparseCategoricalCrossentropy(from_logits=False), ("accuracy",))
    history = model.fit(x, labels, epochs=2, verbose=0, validation_data=(x, labels))
    model.fit(x, labels, recompute=100)
    model.fit([x[0], x[1, :3]], np.array(labels), validation_data=(x, labels, {"lengths": [5, 2]}))
    assert_type(history.history, dict[str, list[float]])
    assert_type(model.evaluate(x, labels), dict[str, float])
    print(model.predict(x).argmax(axis=-1), [y.shape for y in model.predict([x[0], x[1, :2]])])
    print(model(x)[:, 0])
    y_t, state = model.step(x[:, 0])
    y_t, state = model.step(x[:, 1], state)
    assert_type(y_t, Array)
    model.optimizer.learning_rate = 0.1
    outputs, tape = model.forward(x, [5, 2], training=True, seed=0)
    assert_type(model.backward(outputs, tape), dict[str, Array])
    print(model.built, model.layers[0].built, len(model.parameters))
    model.build(3).summary()
    assert_type(cgru.Sequential.from_config(model.get_config()), cgru.Sequential)
    if model.history is not None:
        print(model.history.epochs)


def one_s_own_loop(layers: list[Layer], gradients: list[dict[str, Array]]) -> None:
    sgd = optimizers.SGD(schedules.CosineDecay(0.0, 100, warmup_target=0.1, warmup_steps=10), momentum=0.9, clipnorm=1)
    sgd.apply(layers, gradients)
    sgd.apply(layers[0], gradients[0])
    assert_type(sgd.learning_rate_at(3), float)
    sgd.learning_rate = lambda step: 0.1 / (1 + step)
    config = optimizers.to_config(optimizers.AdamW(schedules.PiecewiseConstantDecay([10], [0.1, 0.01])))
    assert_type(optimizers.from_config(config), optimizers.Optimizer)
    assert_type(optimizers.RMSprop.from_config({"rho": 0.8}), optimizers.RMSprop)


def losses_and_metrics(p: NDArray[np.float64], y: NDArray[np.intp]) -> None:
    loss = losses.get("sparse_categorical_crossentropy")
    assert_type(loss(p, y), float)
    assert_type(loss.gradient(p, y), Array)
    assert_type(metrics.Accuracy().total(p, y), tuple[float, int])
    assert_type(metrics.confusion_matrix([0, 1], [0, 1], 2), NDArray[np.intp])
    print(cgru.losses.get(loss), cgru.optimizers.get("adam"), cgru.initializers.get("zeros"))


class Mine(losses.Loss):
    name = "mine"

    def values(self, outputs: Array, labels: NDArray[Any]) -> Array:
        return ((outputs - labels) ** 2).mean(axis=1)

    def gradients(self, outputs: Array, labels: NDArray[Any]) -> Array:
        return 2 * (outputs - labels) / outputs.shape[1]


def share_of_late(y_true: NDArray[Any], y_pred: Array) -> float:
    return float((y_pred > y_true).mean())


def losses_of_other_kinds() -> None:
    model = cgru.Sequential([cgru.GRU(8), cgru.Dense(1)])
    model.compile("adam", "mse", metrics=["mae", share_of_late])
    model.compile("adam", losses.Huber(delta=2), metrics=[metrics.MeanAbsoluteError()])
    model.compile("adam", losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1), metrics=["auc"])
    model.compile("adam", Mine(), ["perplexity", metrics.MacroF1(threshold=0.3)])
    assert_type(losses.Huber()(x[0], x[0], weights=[1, 2]), float)
    auc = metrics.AUC()
    assert_type(auc.error_bound(auc.counts(x[0, :, :1], [0, 1, 1, 0, 1])), float)


def saved(folder: Path) -> None:
    layer = cgru.GRU(4, input_size=3)
    cgru.save(layer, folder / "gru.safetensors")
    again: cgru.GRU = cgru.load(str(folder / "gru.safetensors"))
    model: cgru.Sequential = files.load(folder / "model.safetensors")
    print(again.units, model.layers, files.load_tensors("tensors.safetensors")["weight"].shape)


def converted(module: Any, arrays: dict[str, Array]) -> None:
    layer = cgru.from_torch(module, return_sequences=False, time_major=True)
    y, h = layer(x)
    model: cgru.Sequential = cgru.from_keras("model.keras", without_masks=True, activation="tanh")
    cgru.from_onnx(Path("model.onnx"), node="gru")
    gru: cgru.GRU = convert.from_published(arrays, reverse=True, dtype="float64")
    convert.from_flax_linen({"cell": arrays}, "cell", directions=2, merge_mode="sum")
    assert_type(convert.to_torch(gru), dict[str, Array])
    assert_type(convert.to_keras(model), list[Array])
    print(y, h, convert.to_haiku(gru)["w_i"], convert.to_onnx(model, lengths=True))


def translating(path: Path) -> None:
    encoder = cgru.Sequential([cgru.Embedding(9, 4), cgru.GRU(5, return_sequences=True)])
    decoder = cgru.Sequential([cgru.Embedding(9, 4), cgru.GRU(5, return_sequences=True), cgru.Dense(9, "softmax")])
    model = cgru.Seq2Seq(encoder, decoder, attention="dot", start=1, end=2, seed=0)
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    model.fit([[3, 4]], [[5]], epochs=1, validation_data=([[3]], [[4]]), target_lengths=None)
    assert_type(model.evaluate([[3]], [[4]]), dict[str, float])
    for ids in model.generate([[3]], max_length=4, beam=2, length_penalty=0.5):
        print(ids)
    print(model.attention_weights([[3]], [[4]]).shape, cgru.layers.Attention("general")(x, x).shape)
    cgru.save(model, path, training_state=True)


def threads_and_backends() -> None:
    assert_type(cgru.get_num_threads(), int)
    cgru.set_num_threads(2)
    with cgru.limit_threads(1), cgru.backend("blas"):
        print(cgru.get_backend())
    cgru.set_backend("native")
    cgru.threads.register_threadpoolctl()


def data() -> None:
    vowels = cgru.datasets.load_japanese_vowels()
    padded, lengths = sequences.pad(vowels.x_train, np.float32)
    assert_type(lengths, NDArray[np.intp])
    batch = sequences.as_batch(padded, lengths)
    print(batch.data.shape, batch.take(np.arange(3)).valid, sequences.unpad(padded, lengths)[0])


def the_core(W: Array, U: Array, b: Array, h0: Array) -> None:
    weights = recurrence.prepare(W, U, b, reset_after=False, backend="native")
    h, tape = recurrence.forward(weights, x, h0, scheduling.schedule(2, 5))
    y, h, steps = reference.forward(x, W, U, b, h0)
    assert_type(reference.backward(y, None, steps), dict[str, Array])
    print(h, tape)


def pictures(history: cgru.models.History, confusion: NDArray[np.intp]) -> None:
    plot.draw_training(history, confusion, "training.png")
    plot.learning_curves(history, "loss")[0].figure.savefig("curves.png")
    plot.gates(cgru.GRU(4).gates(np.ones((2, 5, 3))), row=1)
    plot.confusion(confusion, ["a", "b"], what="class")
    print(plot.saliency([1.0, -1.0]), plot.attention([[0.5, 0.5]]))


def what_a_model_has_seen(model: cgru.Sequential) -> None:
    r = cgru.GRU(4).gates(x, lengths=[5, 2]).r
    parts = cgru.interpret.integrated_gradients(model, x, [0, 1], baseline=0.0, steps=8, tolerance=None)
    print(r.shape, cgru.interpret.saliency(model, x, 1, logits=True)[0], parts[0])
    assert_type(cgru.interpret.gradient_norm_by_distance(model, x), Array)
    found = cgru.interpret.permutation_importance(model, x, [0, 1], metric="accuracy", repeats=3, seed=1)
    assert_type(found.score, float)


def streamed(model: cgru.Sequential) -> None:
    streams = cgru.Streams(model, max_streams=10, idle=2.5, when_full="replace")
    assert_type(streams.step(["a", ("b", 1)], x[:2, 0]), Array)
    print({key: y.shape for key, y in streams.feed({"a": x[0]}).items()}, "a" in streams, sorted(map(str, streams)))
    streams.restore(streams.snapshot())
    assert_type(streams.drop(["a"]), int)


def on_several_processes(model: cgru.Sequential) -> None:
    assert_type(cgru.distributed.mpi().rank, int)
    model.fit(x, [0, 1], all_reduce=cgru.distributed.gloo())
    model.fit(x, [0, 1], all_reduce=lambda array: None)


def in_scikit_learn(frame: Any) -> None:
    classifier = sklearn.GRUClassifier(8, pooling="mean", class_weight={"a": 2.0}, random_state=0)
    assert_type(classifier.fit([x[0], x[1, :3]], ["a", "b"]).model_, cgru.Sequential)
    assert_type(sklearn.sequences(frame, by="id", time="t"), list[Array])
    forecaster = sklearn.GRUForecaster(window=10, horizon=2, scale=False).fit(x[:, 0, 0], X=x[:, 0])
    print(forecaster.predict(2, X=x[:2, 0]).shape)
    tagger = sklearn.GRUTagger(dtype="float64", solver="adamw").partial_fit(x, [[0], [1]], classes=[0, 1])
    print(tagger.classes_.tolist())
    print(sklearn.make_frame_scorer(max)(sklearn.GRURegressor(), x, [0.0], lengths=[1]) + 1.0)
