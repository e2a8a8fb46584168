"""Layers around the GRU, and initial values, against those of PyTorch."""

import checks
import numpy as np
import pytest

import cgru

torch = pytest.importorskip("torch")


def compare(ours, module, x, rng, turn=lambda a: a):
    inputs = torch.tensor(turn(x), requires_grad=True)
    expected = module(inputs)
    d = rng.standard_normal(tuple(expected.shape))
    expected.backward(torch.tensor(d))
    y, tape = ours.forward(x, training=True)
    checks.assert_close(y, turn(expected.detach().numpy()), 1e-12, "y")
    dx, grads = ours.backward(turn(d), tape)
    checks.assert_close(dx, turn(inputs.grad.numpy()), 1e-12, "dx")
    return grads


@pytest.mark.parametrize("options", [{}, {"stride": 3}, {"dilation": 2, "bias": False}])
def test_convolution(options, rng):
    module = torch.nn.Conv1d(5, 6, 4, dtype=torch.float64, **options)
    ours = cgru.Conv1D(6, 4, strides=options.get("stride", 1), dilation_rate=options.get("dilation", 1),
                       use_bias=options.get("bias", True), dtype="float64")  # fmt: skip
    ours.build(5)
    arrays = [p.detach().numpy() for p in module.parameters()]
    ours.set_weights([arrays[0].transpose(2, 1, 0), *arrays[1:]])
    grads = compare(ours, module, rng.standard_normal((3, 11, 5)), rng, lambda a: a.swapaxes(1, 2))
    checks.assert_close(grads["kernel"], module.weight.grad.numpy().transpose(2, 1, 0), 1e-12, "kernel")
    if "bias" in grads:
        checks.assert_close(grads["bias"], module.bias.grad.numpy(), 1e-12, "bias")


def test_layer_norm(rng):
    module = torch.nn.LayerNorm(5, dtype=torch.float64)
    ours = cgru.LayerNormalization(epsilon=1e-5, dtype="float64")
    ours.build(5)
    weights = [rng.standard_normal(5) for _ in range(2)]
    ours.set_weights(weights)
    with torch.no_grad():
        for parameter, array in zip(module.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(array))
    grads = compare(ours, module, rng.standard_normal((3, 7, 5)), rng)
    checks.assert_close(grads["gamma"], module.weight.grad.numpy(), 1e-12, "gamma")
    checks.assert_close(grads["beta"], module.bias.grad.numpy(), 1e-12, "beta")


def test_initial_values_have_the_bounds_of_pytorch():
    """Of each parameter the largest value, which is near the bound, and the standard deviation."""
    torch.manual_seed(0)
    names = dict.fromkeys(("kernel_initializer", "bias_initializer"), "pytorch")
    gru = cgru.GRU(100, reset_after=True, recurrent_initializer="pytorch", seed=0, input_size=80, **names)
    dense, conv = cgru.Dense(200, seed=0, **names), cgru.Conv1D(200, 3, seed=0, **names)
    dense.build(80)
    conv.build(80)
    for ours, module in (
        (gru, torch.nn.GRU(80, 100)), (dense, torch.nn.Linear(80, 200)), (conv, torch.nn.Conv1d(80, 200, 3)),
    ):  # fmt: skip
        theirs = [p.detach().numpy() for p in module.parameters()]
        if ours is gru:
            theirs = [theirs[0], theirs[1], np.concatenate(theirs[2:])]
        for array, other in zip(ours.get_weights(), theirs, strict=True):
            assert abs(np.abs(array).max() / np.abs(other).max() - 1) < 0.03
            assert abs(array.std() / other.std() - 1) < 0.1
    table = cgru.Embedding(300, 40, embeddings_initializer="pytorch", seed=0)
    table.build()
    assert abs(table.parameters["embeddings"].std() / torch.nn.Embedding(300, 40).weight.std().item() - 1) < 0.03
