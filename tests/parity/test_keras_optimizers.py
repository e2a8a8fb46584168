"""Optimizers, schedules, clipping and decay over 100 updates against those of Keras 3."""

import os
import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru import optimizers, schedules

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say when they are imported is not ours
    pytest.importorskip("tensorflow")
    keras = pytest.importorskip("keras")

pytestmark = pytest.mark.filterwarnings("ignore")  # Keras' own: of NumPy
UPDATES, TOLERANCE = 100, {"float64": 1e-12, "float32": 1e-6}
# Keras rounds its numbers to float32, whatever the type of the parameters: all here are exact in it.
RATE = {"learning_rate": 2.0**-9}
KINDS = {
    "sgd": ("SGD", {"learning_rate": 2.0**-4}),
    "momentum": ("SGD", {"learning_rate": 2.0**-6, "momentum": 0.875}),
    "nesterov": ("SGD", {"learning_rate": 2.0**-6, "momentum": 0.875, "nesterov": True}),
    "rmsprop": ("RMSprop", {"rho": 0.875, "epsilon": 2.0**-10, **RATE}),
    "rmsprop with momentum": ("RMSprop", {"rho": 0.75, "momentum": 0.75, "epsilon": 2.0**-20, **RATE}),
    "centered": ("RMSprop", {"rho": 0.875, "centered": True, "epsilon": 2.0**-7, **RATE}),
    "centered with momentum": (
        "RMSprop", {"rho": 0.875, "momentum": 0.75, "centered": True, "epsilon": 2.0**-7, **RATE}
    ),
    "adam": ("Adam", {"beta_1": 0.875, "beta_2": 1 - 2.0**-10, "epsilon": 2.0**-10, **RATE}),
    "amsgrad": ("Adam", {"beta_1": 0.875, "beta_2": 0.875, "epsilon": 2.0**-20, "amsgrad": True, **RATE}),
    "adamw": ("AdamW", {"beta_1": 0.875, "beta_2": 1 - 2.0**-10, "epsilon": 2.0**-20, "weight_decay": 2.0**-7, **RATE}),
}  # fmt: skip
OPTIONS = [
    {"clipnorm": 0.75},
    {"global_clipnorm": 0.75},
    {"clipvalue": 0.25},
    {"weight_decay": 0.25},
    {"weight_decay": 0.25, "global_clipnorm": 0.75},
]


def task(dtype):
    rng = np.random.default_rng(0)
    parameters = [(rng.standard_normal(shape) / 3).astype(dtype) for shape in ((11, 6), (6,))]
    x, y = rng.standard_normal((UPDATES, 20, 11)), rng.standard_normal((UPDATES, 20, 6))

    def gradients(step, kernel, bias):
        inner = np.tanh(x[step] @ kernel.astype(float) + bias.astype(float))
        d = (inner - y[step]) * (1 - inner**2)
        return (x[step].T @ d / 5).astype(dtype), (d.sum(axis=0) / 5).astype(dtype)

    return parameters, gradients


def ours(optimizer, dtype):
    parameters, gradients = task(dtype)
    layer = cgru.Dense(6, dtype=dtype)
    layer.build_from(11, parameters)
    for step in range(UPDATES):
        optimizer.apply(layer, dict(zip(layer.parameters, gradients(step, *layer.parameters.values()), strict=True)))
    return layer.get_weights()


def theirs(optimizer, dtype):
    parameters, gradients = task(dtype)
    variables = [keras.Variable(array, dtype=dtype) for array in parameters]
    optimizer.build(variables)
    for step in range(UPDATES):
        arrays = gradients(step, *(variable.numpy() for variable in variables))
        optimizer.apply([keras.ops.convert_to_tensor(array) for array in arrays])
    return [variable.numpy() for variable in variables]


def assert_equal(optimizer, peer, dtype="float64", tolerance=None):
    for found, expected, before in zip(ours(optimizer, dtype), theirs(peer, dtype), task(dtype)[0], strict=True):
        assert np.abs(expected - before).max() > 0.01, "it hardly moved"
        checks.assert_close(found, expected, tolerance or TOLERANCE[dtype], repr(optimizer))


@pytest.mark.parametrize("kind", KINDS)
def test_optimizers(kind):
    name, arguments = KINDS[kind]
    optimizer = getattr(optimizers, name)(**arguments, **({"decay_biases": True} if name == "AdamW" else {}))
    assert_equal(optimizer, getattr(keras.optimizers, name)(**arguments))


@pytest.mark.parametrize("kind", ["momentum", "adam", "rmsprop with momentum"])
def test_float32(kind):
    name, arguments = KINDS[kind]
    assert_equal(getattr(optimizers, name)(**arguments), getattr(keras.optimizers, name)(**arguments), "float32")


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_clipping_and_decay(options):
    arguments = KINDS["momentum"][1]
    optimizer = optimizers.SGD(**arguments, **options, decay_biases="weight_decay" in options)
    assert_equal(optimizer, keras.optimizers.SGD(**arguments, **options))


SCHEDULES = [
    ("ExponentialDecay", (0.02, 30, 0.5), {}),
    ("ExponentialDecay", (0.02, 30, 0.5), {"staircase": True}),
    ("CosineDecay", (0.02, 80), {}),
    ("CosineDecay", (0.0, 80, 0.1), {"warmup_target": 0.03, "warmup_steps": 10}),
    ("PiecewiseConstantDecay", ([30, 60], [0.02, 0.01, 0.005]), {}),
]


@pytest.mark.parametrize(("name", "arguments", "options"), SCHEDULES)
def test_schedules(name, arguments, options):
    schedule = getattr(schedules, name)(*arguments, **options)
    peer = getattr(keras.optimizers.schedules, name)(*arguments, **options)
    values = [(schedule(step), float(peer(step))) for step in range(120)]
    np.testing.assert_allclose(*zip(*values, strict=True), rtol=1e-5, atol=1e-8)
    assert_equal(optimizers.SGD(schedule, 0.875), keras.optimizers.SGD(peer, 0.875), tolerance=1e-6)  # of float32
    assert schedule.get_config().items() <= peer.get_config().items()


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_defaults(name):
    own, peer = getattr(optimizers, name)().get_config(), getattr(keras.optimizers, name)().get_config()
    own.pop("decay_biases")
    peer["learning_rate"] = round(peer["learning_rate"], 9)  # a float32
    assert own.items() <= peer.items()
