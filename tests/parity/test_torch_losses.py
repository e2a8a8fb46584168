"""Losses and their gradients against PyTorch's, and the training of a model with weights of classes."""

import warnings

import numpy as np
import pytest

import cgru
from cgru import losses

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")
F = torch.nn.functional

M, K = 11, 5


def theirs(function, outputs, labels, weights):
    """(value, gradient) of the weighted sum of rows by their number."""
    outputs = torch.tensor(outputs, requires_grad=True)
    rows = function(outputs, torch.tensor(labels))
    rows = rows.reshape(M, -1).mean(dim=1) if rows.ndim > 1 else rows
    value = (rows * torch.tensor(weights)).sum() / M
    value.backward()
    return value.item(), outputs.grad.numpy()


def softmax(a):
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def none(function, **options):
    return lambda outputs, labels: function(outputs, labels, reduction="none", **options)


CASES = {
    "sparse": (losses.SparseCategoricalCrossentropy(), "p", "classes",
               lambda p, y: F.nll_loss(p.log(), y, reduction="none")),
    "sparse logits": (losses.SparseCategoricalCrossentropy(True), "z", "classes", none(F.cross_entropy)),
    "sparse smoothed": (losses.SparseCategoricalCrossentropy(True, 0.1), "z", "classes",
                        none(F.cross_entropy, label_smoothing=0.1)),
    "dense logits": (losses.CategoricalCrossentropy(True), "z", "p", none(F.cross_entropy)),
    "dense smoothed": (losses.CategoricalCrossentropy(True, 0.1), "z", "p", none(F.cross_entropy, label_smoothing=0.1)),
    "binary": (losses.BinaryCrossentropy(), "u", "u", none(F.binary_cross_entropy)),
    "binary logits": (losses.BinaryCrossentropy(True), "z", "u", none(F.binary_cross_entropy_with_logits)),
    "mse": (losses.get("mse"), "z", "z", none(F.mse_loss)),
    "mae": (losses.get("mae"), "z", "z", none(F.l1_loss)),
    "huber": (losses.get("huber"), "z", "z", none(F.huber_loss)),
    "huber 0.4": (losses.Huber(0.4), "z", "z", none(F.huber_loss, delta=0.4)),
}  # fmt: skip


def draw(kind, rng, scale=1.0):
    return {
        "classes": lambda: rng.integers(0, K, M),
        "z": lambda: scale * rng.standard_normal((M, K)),
        "p": lambda: softmax(rng.standard_normal((M, K))),
        "u": lambda: rng.uniform(0.01, 0.99, (M, K)),
    }[kind]()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-14), ("float32", 2e-6)])
def test_values_and_gradients(rng, name, dtype, tolerance):
    loss, outputs, labels, function = CASES[name]
    outputs, labels, weights = draw(outputs, rng).astype(dtype), draw(labels, rng), rng.random(M).astype(dtype)
    labels = labels if labels.dtype.kind == "i" else labels.astype(dtype)
    for given in (np.ones(M, dtype), weights):
        value, gradient = theirs(function, outputs, labels, given)
        assert loss(outputs, labels, weights=given) == pytest.approx(value, rel=tolerance)
        np.testing.assert_allclose(loss.gradient(outputs, labels, weights=given), gradient, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in CASES if "logits" in name or "smoothed" in name])
@pytest.mark.parametrize("scale", [30, 100, 1000])
def test_large_logits_in_float32(rng, name, scale):
    loss, _, labels, function = CASES[name]
    outputs, labels = draw("z", rng, scale).astype("float32"), draw(labels, rng)
    labels = labels if labels.dtype.kind == "i" else labels.astype("float32")
    value, gradient = theirs(function, outputs, labels, np.ones(M, "float32"))
    assert loss(outputs, labels) == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(loss.gradient(outputs, labels), gradient, rtol=0, atol=1e-6)


def test_the_pass_of_a_model_with_class_weights(rng):
    """Gradients of Dense behind a GRU; PyTorch's `weight` with reduction="none", which is divided by the number."""
    table = np.array([0.2, 1, 3, 1, 2])
    x, y = rng.standard_normal((M, 4, 3)), np.arange(M) % K
    for name, activation in (("sparse", "softmax"), ("sparse logits", "linear")):
        layers = [cgru.GRU(4, dtype="float64"), cgru.Dense(K, activation, dtype="float64")]
        model = cgru.Sequential(layers, seed=0)
        model.compile("adam", CASES[name][0])
        batch, shape = cgru.models.examples.inputs(model.layers, x)
        model.build(3)
        found = model._gradients(batch, model._targets(y, batch, shape, class_weight=dict(enumerate(table))))
        h = torch.tensor(model.layers[0](x))
        kernel, bias = (torch.tensor(w, requires_grad=True) for w in model.layers[1].get_weights())
        rows = F.cross_entropy(h @ kernel + bias, torch.tensor(y), weight=torch.tensor(table), reduction="none")
        (rows.sum() / M).backward()
        np.testing.assert_allclose(found[1, "kernel"], kernel.grad.numpy(), rtol=0, atol=1e-14)
        np.testing.assert_allclose(found[1, "bias"], bias.grad.numpy(), rtol=0, atol=1e-14)
