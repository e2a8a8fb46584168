"""Dense and Embedding under the names of other frameworks, on plain arrays."""

import numpy as np
import pytest

import cgru
from cgru.convert import (
    from_keras_dense,
    from_keras_embedding,
    from_torch_embedding,
    from_torch_linear,
    to_keras,
    to_torch,
)


def same(back, layer):
    assert type(back) is type(layer) and back.input_size == layer.input_size
    for ours, theirs in zip(back.get_weights(), layer.get_weights(), strict=True):
        assert ours.tobytes() == theirs.tobytes() and ours.dtype == theirs.dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_linear_of_pytorch_there_and_back(rng, use_bias, dtype):
    layer = cgru.Dense(3, use_bias=use_bias, dtype=dtype, bias_initializer="uniform")
    layer.build(5)
    arrays = to_torch(layer, "head.fc")
    assert arrays["head.fc.weight"].shape == (3, 5)
    same(from_torch_linear(arrays, "head.fc"), layer)
    x = rng.standard_normal((4, 5)).astype(dtype)
    expected = x @ arrays["head.fc.weight"].T + arrays.get("head.fc.bias", 0)
    np.testing.assert_allclose(cgru.Sequential([layer]).predict(x), expected, rtol=1e-5, atol=1e-6)
    assert from_torch_linear(to_torch(layer), activation="relu").activation == "relu"


def test_an_embedding_of_pytorch_there_and_back():
    layer = cgru.Embedding(7, 3)
    layer.build()
    same(from_torch_embedding(to_torch(layer, "embed"), "embed."), layer)
    same(from_torch_embedding(to_torch(layer)), layer)


def test_a_table_that_masks_is_no_table_of_pytorch():
    layer = cgru.Embedding(5, 3, mask_zero=True, seed=0)
    layer.build()
    for name in ("to_torch", "to_torch_module", "to_onnx"):
        try:
            with pytest.raises(ValueError, match="mask_zero=True"):
                getattr(cgru.convert, name)(layer)
        except ImportError as error:
            assert "pip install" in str(error)
    assert list(cgru.convert.to_torch(layer.with_options(mask_zero=False))) == ["weight"]


def test_wrong_arrays_are_named():
    with pytest.raises(ValueError, match=r"^state_dict: expected an array 'fc.weight', got weight"):
        from_torch_linear({"weight": np.ones((2, 3))}, "fc")
    with pytest.raises(ValueError, match=r"^bias: expected shape \(U,\) = \(2,\), got \(3,\)"):
        from_torch_linear({"weight": np.ones((2, 3)), "bias": np.ones(3)})
    with pytest.raises(ValueError, match=r"^weight: expected shape \(V, F\) = .*, got \(2,\)"):
        from_torch_embedding({"weight": np.ones(2)})
    with pytest.raises(TypeError, match=r"^state_dict: expected a mapping of names to arrays, got ndarray"):
        from_torch_linear(np.ones((2, 3)))
    dense = cgru.Dense(3, activation="relu")
    dense.build(2)
    with pytest.raises(ValueError, match=r"^torch.nn.Linear: cannot convert activation='relu' exactly"):
        to_torch(dense)


@pytest.mark.parametrize("use_bias", [True, False])
def test_layers_of_keras_there_and_back(use_bias):
    dense, words = cgru.Dense(3, "tanh", use_bias=use_bias), cgru.Embedding(7, 3)
    dense.build(5)
    words.build()
    back = from_keras_dense(to_keras(dense), activation="tanh")
    same(back, dense)
    assert back.activation == "tanh"
    same(from_keras_embedding(to_keras(words)), words)
    model = cgru.Sequential([words, cgru.Dropout(0.5), cgru.GRU(4), dense])
    with pytest.raises(RuntimeError, match=r"^layer: expected one with parameters"):
        to_keras(model)
    model = cgru.Sequential([words, cgru.Dropout(0.5), cgru.GRU(5, input_size=3), dense])
    assert [array.shape for array in to_keras(model)] == [
        (7, 3), (3, 15), (5, 15), (15,), (5, 3), *[(3,)] * use_bias
    ]  # fmt: skip


def test_wrong_arrays_of_keras_are_named():
    with pytest.raises(ValueError, match=r"^weights\[1\] \(bias\): expected shape \(U,\) = \(2,\), got \(3,\)"):
        from_keras_dense([np.ones((3, 2)), np.ones(3)])
    with pytest.raises(ValueError, match=r"^weights: expected kernel and bias, got 3 arrays"):
        from_keras_dense([np.ones((3, 2))] * 3)
    with pytest.raises(ValueError, match=r"^weights: expected embeddings, got 0 arrays"):
        from_keras_embedding([])
    with pytest.raises(TypeError, match=r"^weights: expected a list of arrays or a layer of Keras, got ndarray"):
        from_keras_dense(np.ones((3, 2)))


def test_layers_that_make_masks_or_have_no_counterpart_are_refused():
    onnx = pytest.importorskip("onnx")
    assert onnx
    masked = cgru.Sequential([cgru.Embedding(5, 3, mask_zero=True), cgru.GRU(2)]).build()
    with pytest.raises(ValueError, match=r"^Embedding: cannot convert mask_zero=True exactly: it makes no masks there"):
        cgru.convert.to_onnx(masked)
    pooled = cgru.Sequential([cgru.GRU(2, return_sequences=True), cgru.GlobalMaxPooling1D()]).build(3)
    with pytest.raises(TypeError, match=r"expected a GRU, Dense, .* or a Sequential of them, got Global"):
        cgru.convert.to_onnx(pooled)
