"""What to_torch_module makes of layers and models, beside what they compute here: outputs, states, gradients, and the
way back."""

import copy
import pickle
import warnings

import checks
import numpy as np
import pytest

import cgru
from cgru.convert import to_torch_module

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")

N, T, D, H = 5, 9, 3, 4
TOLERANCE = {"float64": 1e-12, "float32": 5e-6}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomized(layer, rng):
    layer.set_weights([rng.standard_normal(array.shape) / 2 for array in layer.get_weights()])
    return layer


def sequences(rng, kind):
    """Arguments of a call: lengths of 0 and T among them, or a mask with holes and an empty row."""
    if kind == "lengths":
        return {"lengths": np.array([T, 0, 4, 1, 7])}
    if kind == "mask":
        mask = rng.random((N, T)) < 0.6
        mask[1] = False
        mask[0, -1] = True  # Sequential.predict cuts a batch at its last valid step
        return {"mask": mask}
    return {}


OPTIONS = [
    {},
    {"use_bias": False, "activation": "relu", "recurrent_activation": "hard_sigmoid"},
    {"activation": "linear", "recurrent_activation": "hard_sigmoid_keras2", "reset_after": True},
    {"recurrent_activation": "relu", "activation": "sigmoid"},  # z of such gates cannot weigh the old state
    {"reverse": True, "reset_after": True, "use_bias": False},
    {"go_backwards": True, "num_layers": 2},
    {"bidirectional": True, "merge_mode": "sum", "num_layers": 2},
    {"bidirectional": True, "merge_mode": "mul", "reset_after": True},
    {"bidirectional": True, "merge_mode": "ave", "learn_initial_state": True},
    {"bidirectional": True, "num_layers": 2, "zero_output_for_mask": False},
    {"reverse": True, "zero_output_for_mask": False},
    {"time_major": True, "learn_initial_state": True},
    {"time_major": True, "bidirectional": True, "num_layers": 2, "learn_initial_state": True, "reset_after": True},
]


@pytest.mark.parametrize("kind", ["whole", "lengths", "mask"])
@pytest.mark.parametrize("returns", [(True, True), (False, False), (True, False)], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_layers_that_torch_does_not_have(rng, options, returns, kind):
    options = options | {"return_sequences": returns[0], "return_state": returns[1]}
    layer = randomized(cgru.GRU(H, input_size=D, dtype="float64", **options), rng)
    module = to_torch_module(layer)
    assert isinstance(module, torch.nn.Module) and not isinstance(module, torch.nn.GRU) and not module.training
    arguments = sequences(rng, kind)
    x = rng.standard_normal((N, T, D))
    if arguments:
        valid = arguments.get("mask", np.arange(T) < np.reshape(arguments.get("lengths", 0), (-1, 1)))
        x[~valid] = np.nan  # never read
    if layer.time_major:
        x = np.ascontiguousarray(x.swapaxes(0, 1))
        arguments = {name: value.T if name == "mask" else value for name, value in arguments.items()}
    h0 = rng.standard_normal(layer._state_shape(N))
    for state in (None, h0):
        h0_t = None if state is None else torch.from_numpy(h0.copy()).requires_grad_()
        x_t = torch.from_numpy(x.copy()).requires_grad_()
        result = module(x_t, h0_t, **{name: torch.from_numpy(np.array(a)) for name, a in arguments.items()})
        y, h, tape = layer.forward(x, state, training=True, **arguments)
        y_t, h_t = result if layer.return_state else (result, None)
        checks.assert_close(y, y_t.detach(), 1e-12, "y")
        dy = rng.standard_normal(y.shape)
        dh = rng.standard_normal(h.shape) if layer.return_state else None
        total = (y_t * torch.from_numpy(dy)).sum()
        if layer.return_state:
            checks.assert_close(h, h_t.detach(), 1e-12, "h")
            total = total + (h_t * torch.from_numpy(dh)).sum()
        module.zero_grad()
        total.backward()
        dx, dh0, grads = layer.backward(dy, tape, dh)
        checks.assert_close(dx, x_t.grad, 1e-11, "dx")
        if state is not None:
            checks.assert_close(dh0, h0_t.grad, 1e-11, "dh0")
        for name, gradient in grads.items():
            ours = dict(module.named_parameters())[name.replace(".", "_")].grad
            checks.assert_close(gradient, np.zeros_like(gradient) if ours is None else ours, 1e-11, name)
    back = cgru.from_torch(module)
    assert back.get_config() == layer.get_config()
    checks.assert_same_arrays(back.parameters, layer.parameters)


def test_dropout_between_layers_comes_along_both_ways():
    module = torch.nn.GRU(D, H, num_layers=2, dropout=0.3, batch_first=True)
    layer = cgru.from_torch(module)
    back = to_torch_module(layer)
    assert (layer.layer_dropout, back.dropout, cgru.from_torch(back).layer_dropout) == (0.3, 0.3, 0.3)
    assert cgru.from_torch(module.state_dict()).layer_dropout == cgru.from_torch(torch.nn.GRU(D, H)).layer_dropout == 0


def test_what_torch_has_is_its_own(rng):
    layer = randomized(cgru.GRU(H, num_layers=2, bidirectional=True, reset_after=True, input_size=D), rng)
    assert type(to_torch_module(layer)) is torch.nn.GRU
    dense, embedding = cgru.Dense(3), cgru.Embedding(7, D)
    dense.build(D)
    embedding.build()
    assert type(to_torch_module(dense)) is torch.nn.Linear and type(to_torch_module(embedding)) is torch.nn.Embedding
    for part in (dense, embedding):
        checks.assert_same_arrays(cgru.from_torch(to_torch_module(part)).get_weights(), part.get_weights())


MODELS = {
    "tagger": lambda: [cgru.Embedding(11, D), cgru.GRU(H, return_sequences=True), cgru.Dropout(0.5), cgru.Dense(3)],
    "classifier": lambda: [
        cgru.Embedding(11, D), cgru.GRU(H, reset_after=True, bidirectional=True), cgru.Dense(3, "softmax")
    ],
    "deep": lambda: [
        cgru.GRU(H, reset_after=True, num_layers=2, return_sequences=True),
        cgru.Dense(5, "tanh"),
        cgru.GRU(3, go_backwards=True, return_sequences=True),
        cgru.Dense(4, "relu", use_bias=False),
        cgru.GRU(2, reset_after=True, return_sequences=True),
        cgru.Dense(2, "sigmoid"),
    ],
    "sequences": lambda: [cgru.GRU(H, reset_after=True, return_sequences=True)],
    "vectors": lambda: [cgru.Dense(4, "relu"), cgru.Dropout(0.1), cgru.Dense(2)],
    "mixed types": lambda: [cgru.GRU(H, dtype="float64", reset_after=True), cgru.Dense(2)],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["whole", "lengths", "mask"])
@pytest.mark.parametrize("name", MODELS)
def test_whole_models(rng, name, kind):
    if name == "vectors" and kind != "whole":
        pytest.skip("vectors have no lengths")
    model = cgru.Sequential(MODELS[name](), seed=0)
    model.build(None if isinstance(model.layers[0], cgru.Embedding) else D)
    randomized(model, rng)
    arguments = sequences(rng, kind)
    if isinstance(model.layers[0], cgru.Embedding):
        x = rng.integers(0, 11, (N, T))
    else:
        x = rng.standard_normal((N, D) if name == "vectors" else (N, T, D)).astype("float32")
    if arguments:
        valid = arguments.get("mask", np.arange(T) < np.reshape(arguments.get("lengths", 0), (-1, 1)))
        x[~valid] = -1 if x.dtype.kind == "i" else np.nan
    module = to_torch_module(model)
    expected = model.predict(x, **arguments)
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in arguments.items()}
    for form in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        with torch.no_grad():
            checks.assert_close(expected, form(torch.from_numpy(x), **tensors), 5e-6)
    module.train()
    module(torch.from_numpy(x), **tensors).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.5)  # as training would
    back = cgru.from_torch(module)
    assert back.get_config()["layers"] == model.get_config()["layers"]
    checks.assert_same_arrays(back.get_weights(), [array / 2 for array in model.get_weights()])


def test_empty_sequences():
    for options in ({"reset_after": True}, {}):
        model = cgru.Sequential([cgru.GRU(H, return_sequences=True, **options), cgru.Dense(2)])
        model.build(D)
        assert to_torch_module(model)(torch.zeros(N, 0, D)).shape == (N, 0, 2)


def test_what_cannot_be():
    with pytest.raises(RuntimeError, match=r"^layer: expected one with parameters"):
        to_torch_module(cgru.Sequential([cgru.GRU(3)]))
    with pytest.raises(TypeError, match=r"^layer: expected a GRU, Dense, Embedding, Dropout or .*, got list"):
        to_torch_module([])
    with pytest.raises(ValueError, match=r"^PyTorch: cannot convert stateful=True exactly"):
        to_torch_module(cgru.GRU(3, stateful=True, input_size=2))
    module = to_torch_module(cgru.GRU(3, input_size=2))
    with pytest.raises(ValueError, match=r"^initial_state: expected shape \(4, 3\), got \(3, 4\)"):
        module(torch.zeros(4, 5, 2), torch.zeros(3, 4))
    x, ones = torch.zeros(4, 5, 2), torch.ones(4, 5, dtype=torch.bool)
    for arguments, message in [
        ({"lengths": torch.ones(4), "mask": ones}, "lengths, mask: give one of the two"),
        ({"lengths": torch.tensor([1, 6, 0, 0])}, r"lengths: expected 4 integers from 0 to 5, got \[1, 6, 0, 0\]"),
        ({"lengths": [1, -1, 0, 0]}, "lengths: expected 4 integers"),
        ({"lengths": torch.ones(4)}, "lengths: expected 4 integers"),
        ({"mask": ones.float()}, r"mask: expected shape \(4, 5\) and dtype bool, got \(4, 5\) and torch.float32"),
        ({"mask": ones[:, :4]}, r"mask: expected shape \(4, 5\)"),
    ]:
        with pytest.raises(ValueError, match=rf"^{message}"):
            module(x, **arguments)
    for wrong in (x[0], torch.zeros(4, 5, 3)):
        with pytest.raises(ValueError, match=r"^x: expected three axes and 2 features, got shape"):
            module(wrong)


def test_another_type_comes_back():
    layer = cgru.Sequential([cgru.GRU(H, input_size=D), cgru.Dense(3)])
    layer.build(D)
    back = cgru.from_torch(to_torch_module(layer).double())
    assert [part.dtype.name for part in back.layers] == ["float64", "float64"]
    checks.assert_same_arrays(back.get_weights(), [array.astype("float64") for array in layer.get_weights()])
