"""Uses that a type checker must refuse, each with the code of the error. `mypy` reads this file, nobody runs it: where
an error does not come, the ignore is of no use, and that is an error as well."""

import numpy as np

import cgru
from cgru import convert, files, losses, metrics, optimizers, recurrence

x = np.ones((2, 5, 3))
layer = cgru.GRU(4)
dense = cgru.Dense(2)
model = cgru.Sequential([layer, dense])

# Names and options
cgru.GRU("4")  # type: ignore[arg-type]
cgru.GRU(4.0)  # type: ignore[arg-type]
cgru.GRU(4, "tan")  # type: ignore[arg-type]
cgru.GRU(4, 3)  # type: ignore[arg-type]  # GRU(units, input_size) is PyTorch's
cgru.GRU(4, "tanh", "sigmoid")  # type: ignore[call-arg]
cgru.GRU(4, merge_mode="add")  # type: ignore[arg-type]
cgru.GRU(4, bidirectional="yes")  # type: ignore[arg-type]
cgru.GRU(4, dtype="float16")  # type: ignore[arg-type]
cgru.GRU(4, dtype=np.int64)  # type: ignore[arg-type]
cgru.GRU(4, kernel_initializer="he")  # type: ignore[arg-type]
cgru.GRU(4, return_sequence=True)  # type: ignore[call-arg]
cgru.GRU(4, batch_first=True)  # type: ignore[call-arg]
cgru.Dense(2, "swish")  # type: ignore[arg-type]
cgru.Embedding(10)  # type: ignore[call-arg]
cgru.Dropout("0.5")  # type: ignore[arg-type]

# Calls and what they return
layer()  # type: ignore[call-arg]
layer(x, length=[5, 2])  # type: ignore[call-arg]
layer(object())  # type: ignore[arg-type]
print(layer(x).units)  # type: ignore[union-attr]
number: int = layer(x)  # type: ignore[assignment]
layer.step(x[:, 0], out=[0.0])  # type: ignore[arg-type]
layer.step(x[:, 0]).numpy()  # type: ignore[attr-defined]
layer.forward(x, training=True, recompute="root")  # type: ignore[arg-type]
layer.backward(x, "tape")  # type: ignore[arg-type]
layer.parameters["kernel"] = "zeros"  # type: ignore[assignment]
print(layer.parameters.kernel)  # type: ignore[attr-defined]
print(layer.unit)  # type: ignore[attr-defined]
layer.trainable = "no"  # type: ignore[assignment]
layer.input_size = 3  # type: ignore[misc]
layer.learning_rate = 0.1  # type: ignore[attr-defined]
print(layer.get_weights()["kernel"])  # type: ignore[call-overload]
dense(x, [5, 2])  # type: ignore[call-arg]
dense.backward(x, "tape")  # type: ignore[arg-type]

# Models
cgru.Sequential(layer)  # type: ignore[arg-type]
cgru.Sequential([layer, "dense"])  # type: ignore[list-item]
model.compile("adagrad")  # type: ignore[arg-type]
model.compile("adam", loss="mean_square")  # type: ignore[arg-type]
model.compile("adam", "sparse_categorical_crossentropy", metrics=["f1"])  # type: ignore[list-item]
model.compile("adam", "sparse_categorical_crossentropy", metrics="accuracy")  # type: ignore[arg-type]
model.fit()  # type: ignore[call-arg]
model.fit(x, [0, 1], verbose=3)  # type: ignore[arg-type]
model.fit(x, [0, 1], validation_data=3)  # type: ignore[arg-type]
model.fit(x, [0, 1], epochs=1.5)  # type: ignore[arg-type]
print(model.evaluate(x, [0, 1])[0])  # type: ignore[index]
model.step(x[:, 0], state=0)  # type: ignore[arg-type]
model.predict(x).argmaxx()  # type: ignore[union-attr]
print(model.optimizer.rate)  # type: ignore[union-attr]
optimizers.Adam(rate=0.1)  # type: ignore[call-arg]
optimizers.Adam("0.1")  # type: ignore[arg-type]
losses.get("mean_square")  # type: ignore[arg-type]
metrics.confusion_matrix([0], [0], "2")  # type: ignore[arg-type]

# Files, threads, backends
cgru.save(x, "x.safetensors")  # type: ignore[arg-type]
cgru.save(layer, 3)  # type: ignore[arg-type]
cgru.load(b"gru.safetensors")  # type: ignore[arg-type]
files.load_tensors()  # type: ignore[call-arg]
cgru.set_num_threads("2")  # type: ignore[arg-type]
cgru.set_backend("mkl")  # type: ignore[arg-type]
with cgru.backend("openblas"):  # type: ignore[arg-type]
    pass
with cgru.limit_threads(1.5):  # type: ignore[arg-type]
    pass

# Converters, and names that there are not
convert.from_published({}, revers=True)  # type: ignore[call-arg]
convert.from_published({}, merge_mode="add")  # type: ignore[arg-type]
convert.from_cntk({}, directions=3)  # type: ignore[arg-type]
convert.from_tf1([1, 2])  # type: ignore[list-item]
convert.to_torch(model)  # type: ignore[arg-type]
convert.to_haiku(dense)  # type: ignore[arg-type]
convert.from_tensorflow({})  # type: ignore[attr-defined]
cgru.from_torch({}, prefixes="gru")  # type: ignore[call-arg]
cgru.from_pytorch({})  # type: ignore[attr-defined]
cgru.LSTM(4)  # type: ignore[attr-defined]
recurrence.prepare(x, x, reset_after=True, backward="soon")  # type: ignore[arg-type]
