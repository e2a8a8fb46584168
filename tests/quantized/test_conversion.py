"""Small weights go to other frameworks as the float32 numbers that they stand for."""

import numpy as np
import pytest

import cgru
from cgru import convert

KINDS = ("float16", "bfloat16", "int8")


def small_model(kind):
    layers = [cgru.Embedding(9, 4), cgru.GRU(5, return_sequences=True), cgru.Dense(3, activation="softmax")]
    return cgru.quantize(cgru.Sequential(layers, seed=0).build(), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays(kind):
    small = cgru.quantize(cgru.GRU(5, input_size=4, reset_after=True, num_layers=2, seed=0), kind)
    wide = small.widened()
    assert type(wide) is cgru.GRU and wide.trainable
    assert wide.get_config() | {"trainable": False, "kind": kind} == small.get_config()
    own, other = convert.to_torch(small), convert.to_torch(wide)
    assert own.keys() == other.keys() and all(np.array_equal(own[name], other[name]) for name in own)
    assert cgru.quantize(wide, kind).get_config() == small.get_config()
    if kind != "int8":
        x = np.random.default_rng(0).standard_normal((3, 6, 4))
        assert np.array_equal(cgru.quantize(wide, kind)(x), small(x)) and np.array_equal(wide(x), small(x))


@pytest.mark.parametrize("kind", KINDS)
def test_modules_of_torch(kind):
    torch = pytest.importorskip("torch")
    small, ids = small_model(kind), np.array([[1, 2, 8], [0, 3, 3]])
    module = convert.to_torch_module(small)
    wide = cgru.Sequential([layer.widened() for layer in small.layers])
    assert np.allclose(module(torch.tensor(ids)).detach().numpy(), wide(ids), atol=1e-6)
    back = cgru.from_torch(module)
    assert [type(layer) for layer in back.layers] == [cgru.Embedding, cgru.GRU, cgru.Dense]
    assert all(np.array_equal(a, b) for a, b in zip(back.get_weights(), small.get_weights(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_onnx(kind):
    pytest.importorskip("onnx")
    small = small_model(kind)
    wide = cgru.Sequential([layer.widened() for layer in small.layers])
    assert convert.to_onnx(small).SerializeToString() == convert.to_onnx(wide).SerializeToString()


def test_what_has_no_weights_is_not_widened():
    for layer in (cgru.layers.QuantizedGRU(3, kind="int8"), cgru.layers.QuantizedDense(3, kind="int8")):
        with pytest.raises(RuntimeError, match="no parameters yet"):
            layer.widened()
