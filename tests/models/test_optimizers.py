"""Optimizers against their formulas, alone and with every other option, and what they refuse."""

import copy
import itertools
import json
import math
import pickle
import re

import checks
import numpy as np
import pytest

import cgru
from cgru import descent, kernels, optimizers, schedules
from cgru.optimizers import SGD, Adam, AdamW, RMSprop

KINDS = {
    "sgd": (SGD, {}),
    "momentum": (SGD, {"momentum": 0.8}),
    "nesterov": (SGD, {"momentum": 0.8, "nesterov": True}),
    "rmsprop": (RMSprop, {"epsilon": 1e-3}),
    "rmsprop with momentum": (RMSprop, {"rho": 0.8, "momentum": 0.7}),
    "centered": (RMSprop, {"rho": 0.7, "centered": True, "epsilon": 1e-2}),
    "centered with momentum": (RMSprop, {"rho": 0.7, "momentum": 0.7, "centered": True, "epsilon": 1e-2}),
    "adam": (Adam, {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
    "amsgrad": (Adam, {"beta_1": 0.8, "beta_2": 0.7, "amsgrad": True}),
    "adamw": (AdamW, {}),
}
CLIPPING = ({}, {"clipnorm": 1.5}, {"global_clipnorm": 1.5}, {"clipvalue": 0.5}, {"clipnorm": 1e3})
DECAY = ({}, {"weight_decay": 0.3}, {"weight_decay": 0.3, "decay_biases": True})
RATES = (0.02, schedules.ExponentialDecay(0.03, 2, 0.5))


def run(optimizer, parameters, gradients_of, updates):
    """Parameters after some updates, and the states, as a model calls the optimizer."""
    parameters = {key: array.copy() for key, array in parameters.items()}
    proposed = {key: np.empty_like(array) for key, array in parameters.items()}
    states = optimizer.start(parameters), optimizer.start(parameters)
    for step in range(updates):
        optimizer.propose(parameters, gradients_of(step), states[0], proposed, states[1])
        states = states[::-1]
        for key, array in parameters.items():
            array[...] = proposed[key]
    return parameters, states[0]


def clipped(gradients, optimizer):
    if optimizer.clipvalue is not None:
        return {key: np.clip(g, -optimizer.clipvalue, optimizer.clipvalue) for key, g in gradients.items()}
    norms = {key: np.linalg.norm(g) for key, g in gradients.items()}
    if optimizer.global_clipnorm is not None:
        norms = dict.fromkeys(norms, math.hypot(*norms.values()))
    most = optimizer.clipnorm or optimizer.global_clipnorm or math.inf
    return {key: g if norms[key] <= most else g * most / norms[key] for key, g in gradients.items()}


def plain(optimizer, parameters, gradients):
    """(parameters, slots) after updates with these gradients, in NumPy: the formulas of the docstrings."""
    parameters, o = dict(parameters), optimizer
    m, v, a, top = ({key: np.zeros_like(p) for key, p in parameters.items()} for _ in range(4))
    for t, step in enumerate(gradients, start=1):
        rate = o.learning_rate_at(t - 1)
        for key, g in clipped(step, o).items():
            p = parameters[key]
            if o.weight_decay and (o.decay_biases or key[1] != "bias"):
                p = p - rate * o.weight_decay * p
            if isinstance(o, SGD):
                m[key] = o.momentum * m[key] - rate * g
                p = p + (o.momentum * m[key] - rate * g if o.nesterov else m[key])
            elif isinstance(o, RMSprop):
                v[key] = o.rho * v[key] + (1 - o.rho) * g**2
                a[key] = o.rho * a[key] + (1 - o.rho) * g
                s = rate * g / np.sqrt(v[key] - (a[key] ** 2 if o.centered else 0) + o.epsilon)
                m[key] = o.momentum * m[key] + s
                p = p - m[key]
            else:
                m[key] = o.beta_1 * m[key] + (1 - o.beta_1) * g
                v[key] = o.beta_2 * v[key] + (1 - o.beta_2) * g**2
                top[key] = np.maximum(top[key], v[key])
                correction = math.sqrt(1 - o.beta_2**t) / (1 - o.beta_1**t)
                p = p - rate * correction * m[key] / (np.sqrt(top[key] if o.amsgrad else v[key]) + o.epsilon)
            parameters[key] = p
    if isinstance(o, SGD):
        slots = {key: (m[key],) if o.momentum else () for key in parameters}
    elif isinstance(o, RMSprop):
        slots = {
            key: (v[key], *([a[key]] if o.centered else []), *([m[key]] if o.momentum else [])) for key in parameters
        }
    else:
        slots = {key: (m[key], v[key], *([top[key]] if o.amsgrad else [])) for key in parameters}
    return parameters, slots


def problem(rng, size=3, updates=4):
    parameters = {(0, "kernel"): rng.standard_normal((size, 2)), (2, "bias"): rng.standard_normal((2, 3))}
    gradients = [{key: rng.standard_normal(array.shape) for key, array in parameters.items()} for _ in range(updates)]
    return parameters, gradients


# -- formulas


@pytest.mark.parametrize("kind", KINDS)
def test_each_optimizer_with_clipping_decay_and_schedule(rng, kind):
    make, options = KINDS[kind]
    parameters, gradients = problem(rng)
    for clipping, decay, rate in itertools.product(CLIPPING, DECAY, RATES):
        optimizer = make(rate, **options, **clipping, **decay)
        actual, state = run(optimizer, parameters, lambda step: gradients[step], 4)
        expected, slots = plain(optimizer, parameters, gradients)
        assert state.iterations == 4
        for key in parameters:
            checks.assert_close(actual[key], expected[key], 1e-13, f"{optimizer} {key}")
            assert len(state.slots[key]) == len(slots[key]) == optimizer.slots
            for found, formula in zip(state.slots[key], slots[key], strict=True):
                checks.assert_close(found, formula, 1e-13, f"{optimizer} {key}")


@pytest.mark.parametrize("kind", KINDS)
def test_large_parameters_and_float32(rng, kind):
    make, options = KINDS[kind]
    optimizer = make(0.02, global_clipnorm=3.0, weight_decay=0.1, **options)
    parameters, gradients = problem(rng, size=2 * descent._BLOCK + 5, updates=2)
    expected, _ = plain(optimizer, parameters, gradients)
    actual, _ = run(optimizer, parameters, lambda step: gradients[step], 2)
    for key in parameters:
        checks.assert_close(actual[key], expected[key], 1e-13)
    single = {key: array.astype(np.float32) for key, array in parameters.items()}
    actual, state = run(
        optimizer, single, lambda step: {key: g.astype(np.float32) for key, g in gradients[step].items()}, 2
    )
    for key in parameters:
        assert actual[key].dtype == np.float32 and {slot.dtype for slot in state.slots[key]} <= {np.dtype("float32")}
        checks.assert_close(actual[key], expected[key], 3e-6)


def test_the_first_step_of_adam_is_the_learning_rate():
    parameters = {(0, "bias"): np.zeros(3, np.float32)}
    gradient = {(0, "bias"): np.array([1e-2, -5, 300], np.float32)}
    actual, _ = run(optimizers.get("adam"), parameters, lambda step: gradient, 1)
    checks.assert_close(actual[0, "bias"] / 1e-3, [-1, 1, -1], 1e-3)


def test_which_parameters_decay():
    optimizer = SGD(0.5, weight_decay=0.5)
    names = {
        "kernel": (2, 6), "recurrent_kernel": (2, 6), "embeddings": (2, 3), "l1.backward.kernel": (2, 6),
        "bias": (2, 6), "l1.backward.bias": (2, 6), "gain": (2, 6), "l0.forward.initial_state": (2,), "scale": (4,),
    }  # fmt: skip
    parameters = {(0, name): np.ones(shape) for name, shape in names.items()}
    nothing = {key: np.zeros_like(array) for key, array in parameters.items()}
    actual, _ = run(optimizer, parameters, lambda step: nothing, 1)
    assert [name for _, name in actual if (actual[0, name] == 0.75).all()] == list(names)[:4]
    assert [name for _, name in actual if (actual[0, name] == 1).all()] == list(names)[4:]
    actual, _ = run(SGD(0.5, weight_decay=0.5, decay_biases=True), parameters, lambda step: nothing, 1)
    assert all((array == 0.75).all() for array in actual.values())


def test_decay_in_float32_is_not_lost_in_rounding():
    parameters = {(0, "kernel"): np.linspace(1, 2, 1000, dtype=np.float32)[None]}
    nothing = {(0, "kernel"): np.zeros((1, 1000), np.float32)}
    actual, _ = run(SGD(1e-3, weight_decay=4e-3), parameters, lambda step: nothing, 200)
    lost = 1 - (actual[0, "kernel"] / parameters[0, "kernel"]).mean(dtype=np.float64)
    assert abs(lost / (200 * 4e-6) - 1) < 0.02


def test_a_gradient_whose_square_no_float32_holds_is_clipped():
    gradient = np.array([[3e30, -4e30]], np.float32)
    for optimizer in (SGD(1.0, clipnorm=5.0), SGD(1.0, global_clipnorm=5.0), Adam(1.0, clipnorm=5.0)):
        parameters = {(0, "kernel"): np.zeros((1, 2), np.float32)}
        proposed, states = {(0, "kernel"): np.empty((1, 2), np.float32)}, [optimizer.start(parameters) for _ in "ab"]
        assert optimizer.propose(parameters, {(0, "kernel"): gradient}, states[0], proposed, states[1])
        expected = [[-1, 1]] if isinstance(optimizer, Adam) else [[-3, 4]]
        checks.assert_close(proposed[0, "kernel"], expected, 2e-6)


@pytest.mark.parametrize("clipping", [*CLIPPING, {"clipnorm": 1e-3}])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_not_finite_is_seen_through_any_clipping(kind, clipping):
    make, options = KINDS[kind]
    optimizer = make(0.1, **options, **clipping)
    for bad in (np.nan, np.inf, -np.inf):
        parameters = {"a": np.ones(5), "b": np.ones(3)}
        gradients = {"a": np.array([0, 0, 1, bad, 0]), "b": np.ones(3)}
        states, proposed = [optimizer.start(parameters) for _ in "ab"], {"a": np.ones(5), "b": np.ones(3)}
        with np.errstate(all="ignore"):
            assert not optimizer.propose(parameters, gradients, states[0], proposed, states[1])
        gradients["a"][3] = 0
        assert optimizer.propose(parameters, gradients, states[0], proposed, states[1])


def test_a_norm_that_is_not_finite_is_seen():
    optimizer, parameters = SGD(0.1, clipnorm=1.0), {"a": np.ones((1, 2))}
    states, proposed = [optimizer.start(parameters) for _ in "ab"], {"a": np.ones((1, 2))}
    assert not optimizer.propose(parameters, {"a": np.full((1, 2), 1e200)}, states[0], proposed, states[1])
    optimizer, parameters = SGD(0.1, clipnorm=1e-3), {"a": np.ones((1, 2), np.float32)}
    states, proposed = [optimizer.start(parameters) for _ in "ab"], {"a": np.ones((1, 2), np.float32)}
    gradient = {"a": np.full((1, 2), 1e38, np.float32)}  # by which a scale of float32 cannot bring it to that norm
    assert not optimizer.propose(parameters, gradient, states[0], proposed, states[1])


def test_the_centred_second_moment_is_not_negative(rng):
    """v - a^2 of a constant gradient is a difference of equal numbers, which rounding may leave below -epsilon."""
    parameters = {"a": np.zeros((50, 40), np.float32)}
    gradient = {"a": (1e3 * rng.standard_normal((50, 40))).astype(np.float32)}
    optimizer = RMSprop(1e-6, rho=0.5, centered=True)
    states, proposed = [optimizer.start(parameters) for _ in "ab"], {"a": np.empty((50, 40), np.float32)}
    for _ in range(60):
        assert optimizer.propose(parameters, gradient, states[0], proposed, states[1])
        states.reverse()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit(rng, kind):
    make, options = KINDS[kind]
    optimizer = make(0.02, global_clipnorm=3.0, weight_decay=0.1, **options)
    parameters, gradients = problem(rng, size=40000, updates=2)
    threads, before = kernels.get_num_threads(), kernels.tune(thread_work=0, small_work=0, measured=0)
    found = []
    try:
        for count in (1, 2, 3):
            kernels.set_num_threads(count)
            actual, state = run(optimizer, parameters, lambda step: gradients[step], 2)
            found.append([actual, state.slots])
    finally:
        kernels.tune(**before)
        kernels.set_num_threads(threads)
    checks.assert_same_arrays(found[1], found[0])
    checks.assert_same_arrays(found[2], found[0])


# -- what a model relies on


def test_an_optimizer_reads_what_it_is_given_and_writes_aside(rng):
    adam = Adam()
    parameters, gradients = ({"a": rng.standard_normal((4, 3))} for _ in range(2))
    proposed = {"a": np.empty((4, 3))}
    current, spare = adam.start(parameters), adam.start(parameters)
    current.slots["a"][0][:] = current.slots["a"][1][:] = 0.5
    before = parameters["a"].copy(), gradients["a"].copy(), *(s.copy() for s in current.slots["a"])
    for array in (parameters["a"], gradients["a"], *current.slots["a"]):
        array.flags.writeable = False
    adam.propose(parameters, {"a": np.asfortranarray(gradients["a"])}, current, proposed, spare)
    checks.assert_same_arrays((parameters["a"], gradients["a"], *current.slots["a"]), before)
    assert (current.iterations, spare.iterations) == (0, 1)
    once = proposed["a"].copy()
    adam.propose(parameters, gradients, current, proposed, spare)  # again from the same state: the same
    checks.assert_same_arrays(proposed["a"], once)
    assert not np.array_equal(once, parameters["a"])


def test_optimizer_notices_gradients_that_do_not_fit():
    adam, parameters = Adam(), {"a": np.zeros(3), "b": np.zeros(2)}
    states = adam.start(parameters), adam.start(parameters)
    with pytest.raises(RuntimeError, match="gradients and parameters differ in b"):
        adam.propose(parameters, {"a": np.zeros(3)}, states[0], parameters, states[1])
    with pytest.raises(RuntimeError, match=re.escape("the gradient of b has shape (3,), not (2,)")):
        adam.propose(parameters, {"a": np.zeros(3), "b": np.zeros(3)}, states[0], parameters, states[1])


def test_state_knows_what_it_was_made_for():
    parameters = {"a": np.zeros((2, 3))}
    state = Adam().start(parameters)
    assert state.fits(parameters)
    assert not state.fits({"a": np.zeros((3, 2))})
    assert not state.fits({"a": np.zeros((2, 3), np.float32)})
    assert not state.fits({"b": np.zeros((2, 3))})


@pytest.mark.parametrize("options", [{"clipvalue": 0.2, "weight_decay": 0.5}, {"global_clipnorm": 0.5}, {}])
def test_an_optimizer_of_ones_own_is_clipped_and_decays(rng, options):
    class Descent(optimizers.Optimizer):
        def _step(self, iteration):
            rate = self.learning_rate_at(iteration - 1)

            def step(p, g, new_p):
                np.subtract(p, rate * g, out=new_p)

            return step

    parameters, gradients = problem(rng)
    schedule = schedules.ExponentialDecay(0.1, 3, 0.5)
    actual, _ = run(Descent(schedule, **options), parameters, lambda step: gradients[step], 4)
    expected, _ = plain(SGD(schedule, **options), parameters, gradients)
    for key in parameters:
        checks.assert_close(actual[key], expected[key], 1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_learns_with_it(rng, kind):
    make, options = KINDS[kind]
    x = rng.standard_normal((24, 5, 3))
    y = (x[:, :, 0].sum(axis=1) > 0).astype(int)
    model = cgru.Sequential([cgru.GRU(6), cgru.Dense(2, "softmax")], seed=0)
    rate = 0.3 if make is SGD else 0.02
    schedule = schedules.CosineDecay(0.0, 200, 0.1, warmup_target=rate, warmup_steps=5)
    model.compile(make(schedule, global_clipnorm=5.0, **options), "sparse_categorical_crossentropy", ["accuracy"])
    history = model.fit(x, y, epochs=40, batch_size=8, verbose=0).history
    assert history["loss"][-1] < 0.6 * history["loss"][0] and history["accuracy"][-1] > 0.85


def test_the_schedule_of_a_model_counts_its_updates(rng):
    seen = []

    def rate(step):
        seen.append(step)
        return 0.1 / (1 + step)

    x, y = rng.standard_normal((6, 2)), rng.integers(0, 2, 6)
    model = cgru.Sequential([cgru.Dense(2, "softmax")], seed=0)
    model.compile(SGD(rate), "sparse_categorical_crossentropy")
    seen.clear()
    model.fit(x, y, batch_size=2, epochs=2, verbose=0)
    assert seen == [0, 1, 2, 3, 4, 5]


# -- arguments


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (Adam, {"learning_rate": 0}, ValueError, "learning_rate: expected a positive, finite number, got 0"),
        (SGD, {"learning_rate": math.nan}, ValueError, "learning_rate: expected a positive, finite number, got nan"),
        (Adam, {"learning_rate": math.inf}, ValueError, "learning_rate: expected a positive, finite number, got inf"),
        (Adam, {"learning_rate": "fast"}, TypeError, "learning_rate: expected a number, got 'fast'"),
        (Adam, {"learning_rate": schedules.CosineDecay}, TypeError, "learning_rate: expected a number, got <class"),
        (SGD, {"learning_rate": lambda step: -1.0}, ValueError, "learning_rate: expected a finite number of at least"),
        (SGD, {"learning_rate": lambda step: "1"}, ValueError, "for step 0, got '1'"),
        (SGD, {"learning_rate": lambda step: None}, ValueError, "for step 0, got None"),
        (Adam, {"beta_1": 1}, ValueError, "beta_1: expected a number of at least 0 and less than 1, got 1"),
        (Adam, {"beta_2": -0.5}, ValueError, "beta_2: expected a number of at least 0 and less than 1, got -0.5"),
        (Adam, {"beta_2": True}, TypeError, "beta_2: expected a number, got True"),
        (Adam, {"epsilon": 0}, ValueError, "epsilon: expected a positive, finite number, got 0"),
        (Adam, {"amsgrad": 1}, TypeError, "amsgrad: expected True or False, got 1"),
        (SGD, {"momentum": 1}, ValueError, "momentum: expected a number of at least 0 and less than 1, got 1"),
        (SGD, {"nesterov": True}, ValueError, "nesterov: expected False without momentum, got True"),
        (SGD, {"momentum": 0.5, "nesterov": "yes"}, TypeError, "nesterov: expected True or False, got 'yes'"),
        (RMSprop, {"rho": 2}, ValueError, "rho: expected a number of at least 0 and less than 1, got 2"),
        (RMSprop, {"epsilon": -1}, ValueError, "epsilon: expected a positive, finite number, got -1"),
        (RMSprop, {"centered": None}, TypeError, "centered: expected True or False, got None"),
        (AdamW, {"weight_decay": -1}, ValueError, "weight_decay: expected a finite number of at least 0, got -1"),
        (SGD, {"weight_decay": math.inf}, ValueError, "weight_decay: expected a finite number of at least 0, got inf"),
        (SGD, {"weight_decay": True}, TypeError, "weight_decay: expected a number, got True"),
        (SGD, {"decay_biases": 1}, TypeError, "decay_biases: expected True or False, got 1"),
        (SGD, {"clipnorm": 0}, ValueError, "clipnorm: expected a positive, finite number, got 0"),
        (Adam, {"global_clipnorm": math.inf}, ValueError, "global_clipnorm: expected a positive, finite number"),
        (RMSprop, {"clipvalue": "1"}, TypeError, "clipvalue: expected a number, got '1'"),
        (Adam, {"clipnorm": 1, "clipvalue": 1}, ValueError, "clipnorm, clipvalue: give one of them, got 2"),
    ],
)
def test_optimizers_refuse(make, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make(**arguments)


def test_the_learning_rate_can_be_set():
    adam = Adam()
    adam.learning_rate = 0.5
    assert adam.learning_rate == adam.learning_rate_at(7) == 0.5
    with pytest.raises(ValueError, match="learning_rate: expected a positive, finite number, got -1"):
        adam.learning_rate = -1
    assert adam.learning_rate == 0.5
    schedule = adam.learning_rate = schedules.ExponentialDecay(1.0, 1, 0.5)
    assert adam.learning_rate is schedule and adam.learning_rate_at(3) == 0.125
    with pytest.raises(ValueError, match="step: expected at least 0, got -1"):
        adam.learning_rate_at(-1)
    adam.learning_rate = lambda step: math.inf if step > 3 else np.float32(0.5)
    assert adam.learning_rate_at(3) == 0.5
    with pytest.raises(ValueError, match="for step 4, got inf"):
        adam.learning_rate_at(4)


def test_optimizers_get():
    adam = Adam(0.1)
    assert optimizers.get(adam) is adam
    assert optimizers.get("adam") is not optimizers.get("adam")
    assert [type(optimizers.get(name)) for name in ("SGD", "RMSprop", "Adam", "AdamW")] == [SGD, RMSprop, Adam, AdamW]
    for wrong in ("adagrad", None, Adam):
        with pytest.raises(ValueError, match=r"optimizer: expected one of \['adam', 'adamw', 'rmsprop', 'sgd'\] or an"):
            optimizers.get(wrong)


def test_defaults_are_those_of_keras():
    common = {
        "weight_decay": None, "decay_biases": False, "clipnorm": None, "global_clipnorm": None, "clipvalue": None
    }  # fmt: skip
    adam = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "amsgrad": False}
    assert Adam().get_config() == adam | common
    assert AdamW().get_config() == adam | common | {"weight_decay": 0.004}
    assert SGD().get_config() == {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False} | common
    rmsprop = {"learning_rate": 1e-3, "rho": 0.9, "momentum": 0.0, "epsilon": 1e-7, "centered": False}
    assert RMSprop().get_config() == rmsprop | common


@pytest.mark.parametrize("kind", KINDS)
def test_configurations_are_json(kind):
    make, options = KINDS[kind]
    for rate in (
        0.3,
        schedules.ExponentialDecay(0.1, 10, 0.5, staircase=True),
        schedules.CosineDecay(0.0, 10, 0.1, warmup_target=0.5, warmup_steps=3),
        schedules.PiecewiseConstantDecay([2, 5], [0.1, 0.2, 0.05]),
    ):
        optimizer = make(rate, clipvalue=0.5, weight_decay=0.25, **options)
        config = json.loads(json.dumps(optimizers.to_config(optimizer)))
        again = optimizers.from_config(config)
        assert type(again) is make and repr(again) == repr(optimizer) and optimizers.to_config(again) == config
        assert [again.learning_rate_at(t) for t in range(12)] == [optimizer.learning_rate_at(t) for t in range(12)]
        assert repr(make.from_config(config["config"])) == repr(optimizer)
        for copied in (copy.copy(optimizer), copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            assert optimizers.to_config(copied) == config


def test_configurations_refused():
    class Mine(Adam):
        pass

    for wrong in (Adam(lambda step: 0.1), Mine()):
        with pytest.raises(TypeError, match="of which only its own code knows how to make it again"):
            optimizers.to_config(wrong)
    with pytest.raises(TypeError, match=re.escape("learning_rate: expected a number or one of cgru.schedules' Cosine")):
        Adam(lambda step: 0.1).get_config()
    assert repr(Adam(np.cos)) == "Adam(learning_rate=<ufunc 'cos'>)"
    for config, error, message in (
        ({"class": "Adagrad", "config": {}}, ValueError, "expected a class among ['Adam', 'AdamW', 'RMSprop', 'SGD']"),
        ({"class": ["Adam"], "config": {}}, ValueError, "got ['Adam']"),
        ({"class": "Adam"}, ValueError, "optimizer: expected a dict of 'class' and 'config', got {'class'"),
        ("Adam", ValueError, "optimizer: expected a dict of 'class' and 'config', got 'Adam'"),
        ({"class": "Adam", "config": 1}, TypeError, "optimizer: expected a dict of Adam's arguments, got 1"),
        ({"class": "Adam", "config": {"rho": 1}}, TypeError, "unexpected keyword argument 'rho'"),
        (
            {"class": "Adam", "config": {"learning_rate": {"class": "Adam", "config": {}}}},
            ValueError,
            "schedule: expected a class among ['CosineDecay', 'ExponentialDecay', 'PiecewiseConstantDecay'], got",
        ),
    ):
        with pytest.raises(error, match=re.escape(message)):
            optimizers.from_config(config)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_saved_goes_on_to_the_bit(rng, tmp_path, kind):
    make, options = KINDS[kind]
    x, y = rng.standard_normal((20, 4, 3)), rng.integers(0, 2, 20)
    schedule = schedules.CosineDecay(0.0, 12, warmup_target=0.05, warmup_steps=2)

    def compiled():
        model = cgru.Sequential([cgru.GRU(5), cgru.Dense(2, "softmax")], seed=0)
        model.compile(make(schedule, clipnorm=0.5, weight_decay=0.1, **options), "sparse_categorical_crossentropy")
        return model

    whole, part = compiled(), compiled()
    whole.fit(x, y, epochs=5, batch_size=8, verbose=0)
    part.fit(x, y, epochs=2, batch_size=8, verbose=0)
    cgru.save(part, tmp_path / "part.safetensors", training_state=True)
    again = cgru.load(tmp_path / "part.safetensors")
    assert repr(again.optimizer) == repr(part.optimizer) and again.iterations == 6
    again.fit(x, y, epochs=5, batch_size=8, verbose=0, resume=True)
    checks.assert_same_arrays(again.get_weights(), whole.get_weights())
    checks.assert_same_arrays(part.get_weights(), cgru.load(tmp_path / "part.safetensors").get_weights())


def test_a_learning_rate_that_no_file_holds(tmp_path):
    model = cgru.Sequential([cgru.Dense(2, "softmax")], seed=0).build(3)
    model.compile(SGD(lambda step: 0.1), "sparse_categorical_crossentropy")
    with pytest.raises(TypeError, match=r"learning_rate: expected a number or one of cgru\.schedules' CosineDecay"):
        cgru.save(model, tmp_path / "model.safetensors", training_state=True)
    assert not list(tmp_path.iterdir())
    cgru.save(model, tmp_path / "model.safetensors")
