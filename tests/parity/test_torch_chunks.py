"""Truncated backpropagation as PyTorch users write it: a loop over chunks, the state detached between them."""

import checks
import numpy as np
import pytest

import cgru

torch = pytest.importorskip("torch")

N, T, D, H, K = 5, 13, 3, 6, 4


@pytest.mark.parametrize("chunk", [4, 5])
def test_weights_after_some_epochs(rng, chunk):
    x, tags = rng.standard_normal((N, T, D)), rng.integers(0, K, (N, T))
    gru, linear = torch.nn.GRU(D, H, batch_first=True).double(), torch.nn.Linear(H, K).double()
    layers = [cgru.from_torch(gru).with_options(return_state=False), cgru.Dense(K, "softmax", dtype="float64")]
    layers[1].build_from(H, [linear.weight.detach().numpy().T, linear.bias.detach().numpy()])
    model = cgru.Sequential(layers)
    model.compile(cgru.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    model.fit(x, tags, epochs=3, batch_size=N, shuffle=False, chunk=chunk, verbose=0)

    optimizer = torch.optim.SGD([*gru.parameters(), *linear.parameters()], 0.5)
    data, labels = torch.tensor(x), torch.tensor(tags)
    for _ in range(3):
        h = None
        for start in range(0, T, chunk):
            y, h = gru(data[:, start : start + chunk], h)
            here = labels[:, start : start + chunk].flatten()
            loss = torch.nn.functional.cross_entropy(linear(y).flatten(0, 1), here)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            h = h.detach()
    expected = [*cgru.from_torch(gru).get_weights(), linear.weight.detach().numpy().T, linear.bias.detach().numpy()]
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        checks.assert_close(found, np.array(wanted), 1e-12)
