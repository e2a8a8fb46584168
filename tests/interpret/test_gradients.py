"""cgru.interpret: gradients with respect to inputs, against finite differences and models whose answer is known."""

import warnings

import numpy as np
import pytest
from checks import VALIDITY, D, N, T, assert_close, random_layer, spoiled, valid_steps

import cgru
from cgru import interpret
from cgru.interpret.case import Case

K = 4
OPTIONS = {"dtype": "float64", "seed": 1}


def classifier(rng, dtype="float64", last="softmax", **options):
    """With dropout, which has no part in this."""
    layers = [
        random_layer(rng, 7, input_size=D, dtype=dtype, **options),
        cgru.Dropout(0.5),
        cgru.Dense(K, activation=last, dtype=dtype, bias_initializer="uniform"),
    ]
    return cgru.Sequential(layers, seed=2).build(D)


MODELS = {
    "classifier": lambda rng: classifier(rng),
    "both directions": lambda rng: classifier(rng, bidirectional=True, num_layers=2),
    "tagger": lambda rng: classifier(rng, return_sequences=True),
    "backwards": lambda rng: classifier(rng, return_sequences=True, go_backwards=True),
    "sigmoids": lambda rng: classifier(rng, last="sigmoid", reset_after=True),
    "a GRU last": lambda rng: cgru.Sequential([random_layer(rng, K, input_size=D, dtype="float64", reverse=True)]),
    "no GRU": lambda rng: cgru.Sequential([cgru.Dense(5, "tanh", **OPTIONS), cgru.Dense(K, "softmax", **OPTIONS)]),
}


def last_steps(model, valid):
    """The last step with an output, in the order of the outputs, of each row that has one."""
    if any(getattr(layer, "go_backwards", False) for layer in model.layers):
        valid = valid[:, ::-1]
    return T - 1 - valid[:, ::-1].argmax(axis=1)


def explained(model, x, target, validity, step=None):
    """What is explained of each row, (N,), by `predict`."""
    y = np.asarray(model.predict(x, **validity))
    rows = np.arange(len(y))
    if y.ndim == 3:
        y = y[rows, last_steps(model, valid_steps(N, T, **validity)) if step is None else step]
    return y[rows, target]


def differences(function, x, eps=1e-5):
    """The derivatives of function(x)[i] with respect to x[i], of fourth order; rows do not depend on each other."""
    found = np.zeros_like(x)
    for index in np.ndindex(x.shape[1:]):
        at = (slice(None), *index)
        for shift, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            moved = x.copy()
            moved[at] += shift * eps
            found[at] += weight * function(moved) / (12 * eps)
    return found


@pytest.mark.parametrize("kind", VALIDITY)
@pytest.mark.parametrize("name", MODELS)
def test_saliency_is_the_derivative(rng, name, kind):
    model, validity = MODELS[name](rng), VALIDITY[kind]
    x, target = rng.uniform(-1, 1, (N, T, D)), np.array([1, 3, 0])
    valid = valid_steps(N, T, **validity)
    found = interpret.saliency(model, spoiled(x, valid), target, **validity)
    assert found.shape == x.shape and found.dtype == np.float64
    assert_close(found, differences(lambda x: explained(model, x, target, validity), x), 1e-9)
    assert not found[~valid].any()
    for batch_size in (1, 2):
        assert (interpret.saliency(model, x, target, **validity, batch_size=batch_size) == found).all()


@pytest.mark.parametrize("name", ["tagger", "backwards"])
def test_of_the_output_at_a_step(rng, name):
    model, validity = MODELS[name](rng), {"lengths": [4, 5, 4]}
    x, step = rng.uniform(-1, 1, (N, T, D)), 2 if name == "backwards" else 1
    found = interpret.saliency(model, x, 2, **validity, step=step, batch_size=1)
    assert_close(found, differences(lambda x: explained(model, x, 2, validity, step), x), 1e-9)
    assert found.any(axis=(1, 2)).all()


@pytest.mark.parametrize("name", ["classifier", "tagger", "sigmoids"])
def test_logits_are_what_goes_into_the_last_activation(rng, name):
    model, validity = MODELS[name](rng), VALIDITY["lengths"]
    *below, last = model.layers
    twin = cgru.Sequential([*below, last.with_options(activation="linear")])
    x = rng.uniform(-1, 1, (N, T, D))
    for function in (interpret.saliency, interpret.integrated_gradients):
        found = function(model, x, 1, **validity, logits=True)
        assert_close(found, function(twin, x, 1, **validity), 1e-13)
        assert (function(twin, x, 1, **validity, logits=True) == found).all()


def test_without_a_target_it_is_the_largest_logit_too(rng):
    model = MODELS["classifier"](rng)
    with model.layers[-1].update() as parameters:
        parameters["kernel"] *= 0.01
        parameters["bias"][:] = [0, 0, 1, 0]
    x = rng.uniform(-1, 1, (N, T, D))
    assert (interpret.saliency(model, x, logits=True) == interpret.saliency(model, x, 2, logits=True)).all()


def test_without_a_target_it_is_the_largest_output(rng):
    model, x = MODELS["classifier"](rng), rng.uniform(-3, 3, (20, T, D))
    best = model.predict(x).argmax(axis=1)
    assert len(set(best)) > 1
    for function in (interpret.saliency, interpret.integrated_gradients):
        assert (function(model, x) == function(model, x, best)).all()


def test_in_float32(rng):
    model = classifier(rng, "float32")
    x = rng.uniform(-1, 1, (N, T, D)).astype("float32")
    model.predict(x)
    wide = cgru.Sequential([layer.with_options(dtype="float64") for layer in model.layers if layer.parameters])
    for function in (interpret.saliency, interpret.integrated_gradients):
        found = function(model, x, 1)
        assert found.dtype == np.float32
        assert_close(found, function(wide, x, 1), 1e-6)


def test_of_ids_it_is_that_of_the_vectors(rng):
    layers = [cgru.Embedding(9, 5, **OPTIONS), cgru.GRU(7, **OPTIONS), cgru.Dense(K, "softmax", **OPTIONS)]
    model = cgru.Sequential(layers)
    ids, lengths = rng.integers(0, 9, (N, T)), [3, 5, 1]
    model.predict(ids)
    above = cgru.Sequential([layer.with_options() for layer in layers[1:]])
    vectors = layers[0].parameters["embeddings"]
    expected = interpret.saliency(above, vectors[ids], 1, lengths=lengths)
    found = interpret.saliency(model, ids, 1, lengths=lengths)
    assert found.shape == ids.shape
    assert_close(found, np.linalg.norm(expected, axis=-1), 1e-15)
    norms = interpret.gradient_norm_by_distance(model, ids, 1, lengths=lengths)
    assert_close(norms, interpret.gradient_norm_by_distance(above, vectors[ids], 1, lengths=lengths), 1e-15)

    for given, start in ((None, 0), (4, vectors[4]), (ids[::-1], vectors[ids[::-1]])):
        expected = interpret.integrated_gradients(above, vectors[ids], 1, lengths=lengths, baseline=start)
        found = interpret.integrated_gradients(model, ids, 1, lengths=lengths, baseline=given)
        assert_close(found, expected.sum(axis=-1), 1e-14)
    alone = interpret.saliency(cgru.Sequential([layers[0]]), ids[:, 0], 2)
    assert (alone == 1).all()


@pytest.mark.parametrize("function", [interpret.saliency, interpret.integrated_gradients])
def test_of_a_list_of_sequences_it_is_a_list(rng, function):
    model = MODELS["both directions"](rng)
    rows = [rng.uniform(-1, 1, (length, D)) for length in (4, 1, 6)]
    found = function(model, rows, 1)
    assert [part.shape for part in found] == [row.shape for row in rows]
    for part, row in zip(found, rows, strict=True):
        assert_close(part, function(model, row[None], 1)[0], 1e-14)


# -- integrated gradients


@pytest.mark.parametrize("kind", VALIDITY)
@pytest.mark.parametrize("name", MODELS)
def test_contributions_add_up_to_the_change_of_the_output(rng, name, kind):
    model, validity = MODELS[name](rng), VALIDITY[kind]
    x, baseline = rng.uniform(-2, 2, (2, N, T, D))
    valid = valid_steps(N, T, **validity)
    options = {"baseline": spoiled(baseline, valid), "tolerance": 1e-9} | validity
    found = interpret.integrated_gradients(model, spoiled(x, valid), 2, **options)
    change = explained(model, x, 2, validity) - explained(model, baseline, 2, validity)
    rows = valid.any(axis=1)
    if name == "no GRU":  # its output at a step depends on that step alone
        rows = rows & (np.abs(found).sum(axis=(1, 2)) > 0)
    assert_close(found.sum(axis=(1, 2))[rows], change[rows], 1e-8)
    assert not found[~valid].any()


def test_sums_are_within_the_stated_tolerance_in_float32(rng):
    model = classifier(rng, "float32", num_layers=2)
    x = rng.uniform(-3, 3, (40, 30, D)).astype("float32")
    found = interpret.integrated_gradients(model, x, 1)
    change = (model.predict(x) - model.predict(np.zeros_like(x)))[:, 1]
    assert (np.abs(found.sum(axis=(1, 2)) - change) <= 1e-3 * np.abs(found).sum(axis=(1, 2))).all()
    assert np.abs(change).max() > 0.05


def steep(slope):
    """A model whose output goes from 0 to 1 within about 10 / slope of the way from 0 to 1, around 0.3."""
    model = cgru.Sequential([cgru.Dense(1, activation="sigmoid", dtype="float64")]).build(1)
    with model.layers[0].update() as parameters:
        parameters["kernel"][:], parameters["bias"][:] = slope, -0.3 * slope
    return model


@pytest.mark.parametrize("slope", [10, 100, 1e3, 1e4])
def test_a_change_within_a_small_part_of_the_way_is_found(slope):
    x = np.ones((2, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for steps in (4, 16):
            found = interpret.integrated_gradients(steep(slope), x, steps=steps)
            assert_close(found, steep(slope).predict(x) - steep(slope).predict(0 * x), 1e-3)
            one, two = (
                interpret.integrated_gradients(
                    steep(slope), np.array([[1], [0.2], [0.4]]), steps=steps, batch_size=size
                )
                for size in (1, 3)
            )
            assert (one == two).all()


def test_work_is_bounded(monkeypatch):
    """By the parts of each way, where nothing is good enough, and for what is not finite."""
    passes = []
    forward = Case.forward
    monkeypatch.setattr(Case, "forward", lambda case, chunk: passes.append(len(chunk.rows)) or forward(case, chunk))
    for x in ([[1.0], [2.0]], [[np.nan], [1.0]], [[np.inf], [-np.inf]]):
        passes.clear()
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            interpret.integrated_gradients(steep(50), x, steps=2, tolerance=1e-15)
        assert sum(passes) < 2 * 4 * 1024


def test_a_number_that_is_not_finite_stays_in_its_row(rng):
    model, x = classifier(rng), rng.uniform(-1, 1, (N, T, D))
    expected = interpret.integrated_gradients(model, x, 1)
    x[1, 2, 0] = np.nan
    with pytest.warns(RuntimeWarning, match="contributions of 1 of 3 sequences miss .* of row 1 they add up to nan"):
        found = interpret.integrated_gradients(model, x, 1)
    assert (found[[0, 2]] == expected[[0, 2]]).all()
    assert (interpret.saliency(model, x, 1)[[0, 2]] == interpret.saliency(model, np.nan_to_num(x), 1)[[0, 2]]).all()


def test_an_output_that_hardly_changes_is_no_miss():
    model = steep(1)
    with model.layers[0].update() as parameters:
        parameters["kernel"][:], parameters["bias"][:] = 1e-3, 30
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interpret.integrated_gradients(model, [[1.0]])


def test_a_jump_is_a_warning():
    with pytest.warns(RuntimeWarning, match=r"contributions of 2 of 3 sequences miss .* of row [02] they add up to"):
        interpret.integrated_gradients(steep(1e9), np.array([[1], [0.2], [2]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert interpret.integrated_gradients(steep(1e9), np.ones((1, 1)), tolerance=None) < 0.5


def test_of_a_linear_model_everything_is_known(rng):
    layer = cgru.Dense(2, **OPTIONS)
    model = cgru.Sequential([layer])
    x, baseline = rng.standard_normal((5, 3)), rng.standard_normal(3)
    model.predict(x)
    weights = layer.parameters["kernel"][:, 1]
    assert_close(interpret.saliency(model, x, 1), np.tile(weights, (5, 1)), 1e-15)
    assert_close(interpret.integrated_gradients(model, x, 1), x * weights, 1e-14)
    found = interpret.integrated_gradients(model, x, 1, steps=1, baseline=baseline)
    assert_close(found, (x - baseline) * weights, 1e-14)


# -- distance


def leaky(share, **options):
    """h' = (1 - share) h + share x, whatever the reset gate says."""
    layer = cgru.GRU(1, "linear", recurrent_initializer="zeros", input_size=1, dtype="float64", **options)
    with layer.update() as parameters:
        parameters["kernel"][:] = [[0, 0, 1]]
        parameters["bias"][:] = [0, np.log(share / (1 - share)), 0]
    return cgru.Sequential([layer])


def test_norms_by_distance_are_those_of_a_leaky_integrator(rng):
    model, x = leaky(0.3), rng.standard_normal((6, 12, 1))
    expected = 0.3 * 0.7 ** np.arange(12)
    assert_close(interpret.gradient_norm_by_distance(model, x), expected, 1e-14)
    lengths = [12, 3, 0, 7, 12, 1]
    for batch_size in (2, 6):
        found = interpret.gradient_norm_by_distance(model, x, lengths=lengths, batch_size=batch_size)
        assert_close(found, expected, 1e-14)
    mask = rng.random((6, 12)) < 0.5  # only steps that are taken count
    longest = mask.sum(axis=1).max()
    assert_close(interpret.gradient_norm_by_distance(model, x, mask=mask), expected[:longest], 1e-14)
    assert interpret.gradient_norm_by_distance(model, x, lengths=[0] * 6).shape == (0,)


def test_distances_count_from_the_step(rng):
    model, x = leaky(0.3, return_sequences=True), rng.standard_normal((6, 12, 1))
    found = interpret.gradient_norm_by_distance(model, x, step=4)
    assert_close(found, 0.3 * 0.7 ** np.arange(5), 1e-14)
    assert len(interpret.gradient_norm_by_distance(model, x)) == 12


# -- what stays


def test_nothing_of_the_model_changes(rng):
    layer = random_layer(rng, 7, input_size=D, dtype="float64", stateful=True)
    model = cgru.Sequential([layer, cgru.Dropout(0.5), cgru.Dense(K, **OPTIONS)], seed=3)
    x = rng.standard_normal((N, T, D))
    fresh = interpret.saliency(model, x, 1)
    model.predict(x)
    state, weights = layer._state.copy(), model.get_weights()
    assert (interpret.saliency(model, x, 1) == fresh).all()  # from the beginning, whatever state is kept
    interpret.saliency(model, x[:2], 1, batch_size=1)
    interpret.integrated_gradients(model, x, 1)
    assert (layer._state == state).all()
    assert all((one == other).all() for one, other in zip(model.get_weights(), weights, strict=True))


def test_empty_inputs(rng):
    model = MODELS["classifier"](rng)
    assert interpret.saliency(model, np.zeros((0, T, D))).shape == (0, T, D)
    assert interpret.integrated_gradients(model, np.zeros((2, 0, D)), 1).shape == (2, 0, D)
    assert interpret.saliency(MODELS["tagger"](rng), np.zeros((2, 0, D))).shape == (2, 0, D)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"target": K}, ValueError, "target: expected at least 0 and less than 4"),
        ({"target": [0, 1]}, ValueError, r"target: expected an integer, or shape \(3,\)"),
        ({"target": "a"}, TypeError, "target: expected integer"),
        ({"step": 1}, ValueError, "step: expected None for a model with one output"),
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1"),
        ({"logits": 1}, TypeError, "logits: expected True or False"),
        ({"lengths": [9, 1, 1]}, ValueError, "lengths: expected"),
        ({"x": np.zeros((N, D))}, ValueError, "x: expected shape"),
        ({"model": "a"}, TypeError, "model: expected a Sequential"),
    ],
)
@pytest.mark.parametrize("name", ["saliency", "integrated_gradients", "gradient_norm_by_distance"])
def test_wrong_arguments_are_named(rng, name, arguments, error, message):
    given = {"model": classifier(rng), "x": np.zeros((N, T, D))} | arguments
    with pytest.raises(error, match=message):
        getattr(interpret, name)(**given)


def test_wrong_steps_baselines_and_layers_are_named(rng):
    x = np.zeros((N, T, D))
    with pytest.raises(ValueError, match="step: expected a step that every sequence has, got 3, which row 1 lacks"):
        interpret.saliency(MODELS["tagger"](rng), x, lengths=[4, 3, 5], step=3)
    with pytest.raises(ValueError, match="step: expected a step that every sequence has, got 0, which row 0 lacks"):
        interpret.saliency(MODELS["backwards"](rng), x, lengths=[4, 3, 5], step=0)
    interpret.saliency(MODELS["backwards"](rng), x, lengths=[4, 3, 5], step=4)
    with pytest.raises(ValueError, match="logits: expected False unless the last layer is a Dense, got GRU"):
        interpret.saliency(MODELS["a GRU last"](rng), x, logits=True)
    with pytest.raises(ValueError, match="x: expected sequences"):
        interpret.gradient_norm_by_distance(MODELS["no GRU"](rng), np.zeros((3, 2)))
    for arguments, message in (
        ({"baseline": np.zeros(D + 1)}, "baseline: expected shape"),
        ({"baseline": [np.zeros((2, D))] * N}, "baseline: expected sequences as long"),
        ({"steps": 0}, "steps: expected at least 1"),
        ({"tolerance": 0}, "tolerance: expected a positive"),
    ):
        with pytest.raises(ValueError, match=message):
            interpret.integrated_gradients(classifier(rng), x, **arguments)
    words = cgru.Sequential([cgru.Embedding(5, 3), cgru.GRU(4)])
    with pytest.raises(TypeError, match="baseline: expected integer ids"):
        interpret.integrated_gradients(words, np.zeros((2, 3), int), baseline=0.5)
    with pytest.raises(ValueError, match="baseline: expected ids"):
        interpret.integrated_gradients(words, np.zeros((2, 3), int), baseline=5)
