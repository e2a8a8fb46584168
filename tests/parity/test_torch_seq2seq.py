"""Seq2Seq against the same model in PyTorch: loss and gradients with teacher forcing, and what it says greedily."""

import numpy as np
import pytest

import cgru

torch = pytest.importorskip("torch")

V, K, E, H = 11, 9, 5, 6


class Twin(torch.nn.Module):
    """Embedding, bidirectional GRU; Embedding, GRU of both states, attention, linear layer."""

    def __init__(self, score, layers):
        super().__init__()
        self.read, self.said = torch.nn.Embedding(V, E), torch.nn.Embedding(K, E)
        self.encoder = torch.nn.GRU(E, H, layers, batch_first=True, bidirectional=True)
        self.decoder = torch.nn.GRU(E, 2 * H, layers, batch_first=True)
        self.score, self.layers = score, layers
        self.out = torch.nn.Linear(2 * H if score is None else 4 * H, K)
        if score == "general":
            self.w = torch.nn.Linear(2 * H, 2 * H, bias=False)
        elif score == "additive":
            self.w, self.u, self.v = (torch.nn.Linear(2 * H, n, bias=False) for n in (2 * H, 2 * H, 1))

    def forward(self, source, lengths, inputs):
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            self.read(source), lengths, batch_first=True, enforce_sorted=False
        )
        e, h = self.encoder(packed)
        e, _ = torch.nn.utils.rnn.pad_packed_sequence(e, batch_first=True, total_length=source.shape[1])
        h = h.reshape(self.layers, 2, len(source), H)
        y, _ = self.decoder(self.said(inputs), torch.cat([h[:, 0], h[:, 1]], dim=-1))
        if self.score is not None:
            if self.score == "additive":
                hidden = torch.tanh(self.w(y)[:, :, None] + self.u(e)[:, None])
                scores = self.v(hidden)[..., 0]
            else:
                scores = y @ (e if self.score == "dot" else self.w(e)).transpose(1, 2)
            outside = torch.arange(source.shape[1]) >= lengths[:, None]
            a = scores.masked_fill(outside[:, None], -torch.inf).softmax(dim=-1)
            y = torch.cat([y, a @ e], dim=-1)
        return self.out(y)


def pieces(twin, gradients):
    """The arrays of our model's parameters, in its order: values, or gradients, which are laid out like them."""

    def array(p):
        return (p.grad if gradients else p).detach().numpy().copy()

    def gru(module):
        arrays = {name: array(p) for name, p in module.named_parameters()}
        return cgru.from_torch(arrays).get_weights()

    inner = []
    if twin.score == "general":
        inner = [array(twin.w.weight).T]
    elif twin.score == "additive":
        inner = [array(m.weight).T for m in (twin.w, twin.u, twin.v)]
    last = [array(twin.out.weight).T, array(twin.out.bias)]
    return [array(twin.read.weight), *gru(twin.encoder), array(twin.said.weight), *gru(twin.decoder), *inner, *last]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("score", [None, "dot", "general", "additive"])
def test_loss_gradients_and_generation(score, layers, rng):
    torch.manual_seed(0)
    twin = Twin(score, layers).double()
    options = {"return_sequences": True, "num_layers": layers, "reset_after": True, "dtype": "float64"}
    model = cgru.Seq2Seq(
        cgru.Sequential([cgru.Embedding(V, E, dtype="float64"), cgru.GRU(H, bidirectional=True, **options)]),
        cgru.Sequential([
            cgru.Embedding(K, E, dtype="float64"), cgru.GRU(2 * H, **options),
            cgru.Dense(K, "softmax", dtype="float64"),
        ]),
        attention=score,
    ).build()  # fmt: skip
    model.set_weights(pieces(twin, gradients=False))
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    source = [rng.integers(0, V, n) for n in (4, 7, 1, 5)]
    target = [rng.integers(3, K, n) for n in (5, 2, 0, 6)]

    lengths = torch.tensor([len(ids) for ids in source])
    x = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in source], batch_first=True)
    inputs = torch.nn.utils.rnn.pad_sequence([torch.tensor([1, *ids]) for ids in target], batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor([*ids, 2]) for ids in target], batch_first=True, padding_value=-100
    )
    logits = twin(x, lengths, inputs)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    loss.backward()

    seen = model.evaluate(source, target)
    assert seen["loss"] == pytest.approx(loss.item(), rel=1e-12)
    counted = labels != -100
    accuracy = (logits.argmax(-1) == labels)[counted].double().mean().item()
    assert seen["accuracy"] == pytest.approx(accuracy)
    outputs = model.predict(source, target)
    for own, theirs, ids in zip(outputs, logits.softmax(-1), target, strict=True):
        np.testing.assert_allclose(own, theirs[: len(ids) + 1].detach().numpy(), rtol=1e-9, atol=1e-13)
    batch, targets = model._examples(source, target, {})
    found = model._gradients(*model._rows_of(batch, targets, np.arange(4)))
    expected = pieces(twin, gradients=True)
    assert len(found) == len(expected) == len(model.get_weights())
    for (key, gradient), other in zip(sorted_like(model, found), expected, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-9, atol=1e-12, err_msg=str(key))

    for ids, said in zip(source, model.generate(source, 6), strict=True):
        own = [1]
        with torch.no_grad():
            while len(own) <= 6:
                p = twin(torch.tensor(ids)[None], torch.tensor([len(ids)]), torch.tensor(own)[None])[0, -1]
                p[1] = -torch.inf
                own.append(int(p.argmax()))
        own = own[1:]
        assert said.tolist() == (own[: own.index(2)] if 2 in own else own)


def sorted_like(model, gradients):
    return [((i, name), gradients[i, name]) for i, layer in enumerate(model.layers) for name in layer.parameters]
