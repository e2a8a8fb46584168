"""Optimizers, schedules, clipping and decay over 100 updates against PyTorch's, where the forms are the same."""

import math

import checks
import numpy as np
import pytest

import cgru
from cgru import losses, schedules
from cgru.optimizers import SGD, Adam, AdamW, RMSprop

torch = pytest.importorskip("torch")

TOLERANCE = {"float64": 1e-10, "float32": 1e-6}
UPDATES = 100
# Those with an epsilon have it elsewhere than PyTorch's; one that is small enough makes no difference.
TINY = 1e-16
RATE = 2.0**-9  # PyTorch rounds 1 - rate * weight_decay to the type of the parameter, which must not lose anything
PAIRS = {
    "sgd": (lambda **o: SGD(0.05, **o), lambda p: torch.optim.SGD(p, 0.05)),
    "momentum": (lambda **o: SGD(0.02, 0.9, **o), lambda p: torch.optim.SGD(p, 0.02, 0.9)),
    "nesterov": (lambda **o: SGD(0.02, 0.9, True, **o), lambda p: torch.optim.SGD(p, 0.02, 0.9, nesterov=True)),
    "rmsprop": (lambda **o: RMSprop(1e-3, 0.9, epsilon=TINY, **o), lambda p: torch.optim.RMSprop(p, 1e-3, 0.9, TINY)),
    "rmsprop with momentum": (
        lambda **o: RMSprop(1e-3, 0.8, 0.7, TINY, **o),
        lambda p: torch.optim.RMSprop(p, 1e-3, 0.8, TINY, momentum=0.7),
    ),
    "centered with momentum": (
        lambda **o: RMSprop(1e-3, 0.8, 0.7, TINY, True, **o),
        lambda p: torch.optim.RMSprop(p, 1e-3, 0.8, TINY, momentum=0.7, centered=True),
    ),
    "adam": (lambda **o: Adam(2e-3, epsilon=TINY, **o), lambda p: torch.optim.Adam(p, 2e-3, eps=TINY)),
    "amsgrad": (
        lambda **o: Adam(2e-3, 0.8, 0.9, TINY, True, **o),
        lambda p: torch.optim.Adam(p, 2e-3, (0.8, 0.9), TINY, amsgrad=True),
    ),
    "adamw": (
        lambda **o: AdamW(RATE, epsilon=TINY, weight_decay=0.25, decay_biases=True, **o),
        lambda p: torch.optim.AdamW(p, RATE, eps=TINY, weight_decay=0.25),
    ),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Of PyTorch: for so little its threads cost more than they do where processors are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def targets(dtype):
    """A task: parameters, and a function of them whose gradient both sides compute in NumPy."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (11, 6), "bias": (6,)}
    parameters = {name: (rng.standard_normal(shape) / 3).astype(dtype) for name, shape in shapes.items()}
    x, y = rng.standard_normal((UPDATES, 20, 11)), rng.standard_normal((UPDATES, 20, 6))

    def gradients(step, p):
        inner = np.tanh(x[step] @ p["kernel"].astype(float) + p["bias"].astype(float))
        d = (inner - y[step]) * (1 - inner**2)
        return {"kernel": (x[step].T @ d / 5).astype(dtype), "bias": (d.sum(axis=0) / 5).astype(dtype)}

    return parameters, gradients


def ours(optimizer, dtype):
    parameters, gradients = targets(dtype)
    layer = cgru.Dense(6, dtype=dtype)
    layer.build_from(11, [parameters["kernel"], parameters["bias"]])
    for step in range(UPDATES):
        optimizer.apply(layer, gradients(step, layer.parameters))
    return layer.get_weights()


def theirs(make, dtype, clip=lambda parameters: None, schedule=None):
    parameters, gradients = targets(dtype)
    tensors = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in parameters.items()}
    optimizer = make(list(tensors.values()))
    scheduler = schedule and torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    for step in range(UPDATES):
        arrays = gradients(step, {name: tensor.detach().numpy() for name, tensor in tensors.items()})
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(arrays[name])
        clip(list(tensors.values()))
        optimizer.step()
        if scheduler:
            scheduler.step()
    return [tensor.detach().numpy() for tensor in tensors.values()]


def assert_equal(optimizer, make, dtype, **options):
    start = list(targets(dtype)[0].values())
    for found, expected, before in zip(ours(optimizer, dtype), theirs(make, dtype, **options), start, strict=True):
        assert np.abs(expected - before).max() > 0.02, "it hardly moved"
        checks.assert_close(found, expected, TOLERANCE[dtype], repr(optimizer))


def clip_norm_as_keras(most):
    """PyTorch's own adds 1e-6 to the norm."""

    def clip(parameters):
        norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in parameters))
        for p in parameters:
            p.grad *= most / max(norm, most)

    return clip


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", PAIRS)
def test_optimizers(kind, dtype):
    make, peer = PAIRS[kind]
    assert_equal(make(), peer, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", PAIRS)
def test_clipping(kind, dtype):
    make, peer = PAIRS[kind]
    clips = {
        "clipvalue": lambda parameters: torch.nn.utils.clip_grad_value_(parameters, 0.7),
        "clipnorm": lambda parameters: [clip_norm_as_keras(0.7)([p]) for p in parameters],
        "global_clipnorm": clip_norm_as_keras(0.7),
    }
    for name, clip in clips.items():
        assert_equal(make(**{name: 0.7}), peer, dtype, clip=clip)


def test_the_global_norm_is_that_of_pytorch():
    make, peer = PAIRS["momentum"]
    found = ours(make(global_clipnorm=0.7), "float64")
    expected = theirs(peer, "float64", lambda parameters: torch.nn.utils.clip_grad_norm_(parameters, 0.7))
    for a, b in zip(found, expected, strict=True):
        checks.assert_close(a, b, 1e-6)  # which adds 1e-6 to it


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "rmsprop"])
def test_schedules(kind, dtype):
    rates = {"sgd": 0.05, "adam": 2e-3, "adamw": RATE, "rmsprop": 1e-3}
    rate = rates[kind]
    for schedule in (
        schedules.ExponentialDecay(rate, 30, 0.5),
        schedules.CosineDecay(0.1 * rate, 80, 0.1, warmup_target=rate, warmup_steps=10),
        schedules.PiecewiseConstantDecay([30, 60], [rate, rate / 2, rate / 10]),
        lambda step: rate / (1 + step / 50),
    ):
        make, peer = PAIRS[kind]
        optimizer = make()
        optimizer.learning_rate = schedule
        assert_equal(optimizer, peer, dtype, schedule=lambda step, schedule=schedule: schedule(step) / rate)


def test_the_cosine_is_that_of_pytorch():
    ours_ = schedules.CosineDecay(0.4, 50, 0.25)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.4)
    theirs_ = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=0.1)
    for step in range(50):
        assert math.isclose(ours_(step), theirs_.get_last_lr()[0], rel_tol=1e-12)
        optimizer.step()
        theirs_.step()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_whole_model(dtype):
    """100 updates of a GRU and a Dense: AdamW without decay of biases, global clipping, a cosine with warm-up."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((8, 6, 3)).astype(dtype), rng.integers(0, 4, 8)
    schedule = schedules.CosineDecay(0.0, 90, warmup_target=1e-2, warmup_steps=10)
    torch.manual_seed(0)
    kind, tolerance = getattr(torch, dtype), {"float64": 1e-9, "float32": 1e-5}[dtype]
    gru, head = torch.nn.GRU(3, 5, batch_first=True, dtype=kind), torch.nn.Linear(5, 4, dtype=kind)
    layer = cgru.from_torch(gru, return_sequences=False, return_state=False, time_major=False)
    model = cgru.Sequential([layer, cgru.Dense(4, "softmax", dtype=dtype)]).build(3)
    model.layers[1].set_weights([head.weight.detach().numpy().T, head.bias.detach().numpy()])

    optimizer = AdamW(schedule, weight_decay=0.1, global_clipnorm=0.1, epsilon=TINY)
    loss = losses.get("sparse_categorical_crossentropy")
    for _ in range(UPDATES):
        p, tape = model.forward(x, training=True)
        optimizer.apply(model, model.backward(loss.gradient(p, y), tape))

    named = [*gru.named_parameters(), *head.named_parameters()]
    groups = [
        {"params": [p for name, p in named if "bias" not in name], "weight_decay": 0.1},
        {"params": [p for name, p in named if "bias" in name], "weight_decay": 0.0},
    ]
    peer = torch.optim.AdamW(groups, 1.0, eps=TINY)
    scheduler = torch.optim.lr_scheduler.LambdaLR(peer, schedule)
    for _ in range(UPDATES):
        peer.zero_grad()
        logits = head(gru(torch.tensor(x))[0][:, -1])
        torch.nn.functional.cross_entropy(logits, torch.tensor(y)).backward()
        clip_norm_as_keras(0.1)([p for _, p in named])
        peer.step()
        scheduler.step()
    with torch.no_grad():
        expected = torch.softmax(head(gru(torch.tensor(x))[0][:, -1]), dim=-1).numpy()
    checks.assert_close(model(x), expected, tolerance)
    checks.assert_close(model.get_weights()[-2], head.weight.detach().numpy().T, tolerance)
