"""Every loss against its formula, by finite differences, alone and inside a model, with padding, masks and weights."""

import itertools
import math
import re

import checks
import numpy as np
import pytest

import cgru
from cgru import losses
from cgru.models.runs import FusedRun, Totals
from cgru.models.targets import targets

N, T, K = 3, 4, 3
VALID = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def softmax(a):
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def one_hot(y, s):
    wanted = np.full(K, s / K)
    wanted[y] += 1 - s
    return wanted


def crossentropy(p, wanted):
    return -sum(w * math.log(q) for w, q in zip(wanted, p, strict=True))


def binary(p, y, s):
    terms = [-(w * math.log(q) + (1 - w) * math.log(1 - q)) for q, w in zip(p, y * (1 - s) + s / 2, strict=True)]
    return sum(terms) / len(terms)


def huber(e, delta):
    return e * e / 2 if abs(e) <= delta else delta * abs(e) - delta**2 / 2


class Skewed(losses.Loss):
    """A loss of one's own, which has the two public methods and nothing else."""

    name = "skewed"

    def values(self, outputs, labels):
        return (np.exp(outputs - labels) - (outputs - labels)).sum(axis=1)

    def gradients(self, outputs, labels):
        return np.exp(outputs - labels) - 1


class OfClasses(losses.Loss):
    """The same with class labels: (1 - output of the class)^2."""

    labels = "classes"

    def values(self, outputs, labels):
        return (1 - outputs[np.arange(len(labels)), labels]) ** 2

    def gradients(self, outputs, labels):
        gradients = np.zeros_like(outputs)
        gradients[np.arange(len(labels)), labels] = -2 * (1 - outputs[np.arange(len(labels)), labels])
        return gradients


SCE, CCE, BCE = losses.SparseCategoricalCrossentropy, losses.CategoricalCrossentropy, losses.BinaryCrossentropy
# name: (loss, the last layer's activation, value of one row of logits (K,) with its label)
LOSSES = {
    "sparse": (SCE(), "softmax", lambda z, y: crossentropy(softmax(z), one_hot(y, 0))),
    "sparse logits": (SCE(True), "linear", lambda z, y: crossentropy(softmax(z), one_hot(y, 0))),
    "sparse smoothed": (SCE(label_smoothing=0.2), "softmax", lambda z, y: crossentropy(softmax(z), one_hot(y, 0.2))),
    "sparse logits smoothed": (SCE(True, 0.2), "linear", lambda z, y: crossentropy(softmax(z), one_hot(y, 0.2))),
    "dense": (CCE(), "softmax", lambda z, y: crossentropy(softmax(z), y)),
    "dense logits": (CCE(True), "linear", lambda z, y: crossentropy(softmax(z), y)),
    "dense smoothed": (CCE(label_smoothing=0.3), "softmax", lambda z, y: crossentropy(softmax(z), 0.7 * y + 0.3 / K)),
    "dense logits smoothed": (CCE(True, 0.3), "linear", lambda z, y: crossentropy(softmax(z), 0.7 * y + 0.3 / K)),
    "binary": (BCE(), "sigmoid", lambda z, y: binary(sigmoid(z), y, 0)),
    "binary logits": (BCE(True), "linear", lambda z, y: binary(sigmoid(z), y, 0)),
    "binary smoothed": (BCE(label_smoothing=0.1), "sigmoid", lambda z, y: binary(sigmoid(z), y, 0.1)),
    "binary logits smoothed": (BCE(True, 0.1), "linear", lambda z, y: binary(sigmoid(z), y, 0.1)),
    "mse": (losses.get("mse"), "linear", lambda z, y: ((z - y) ** 2).mean()),
    "mse of tanh": (losses.get("mse"), "tanh", lambda z, y: ((np.tanh(z) - y) ** 2).mean()),
    "mae": (losses.get("mae"), "linear", lambda z, y: np.abs(z - y).mean()),
    "huber": (losses.get("huber"), "linear", lambda z, y: np.mean([huber(e, 1) for e in z - y])),
    "huber 0.3": (losses.Huber(0.3), "linear", lambda z, y: np.mean([huber(e, 0.3) for e in z - y])),
    "own": (Skewed(), "linear", lambda z, y: (np.exp(z - y) - z + y).sum()),
    "own of classes": (OfClasses(), "linear", lambda z, y: (1 - z[y]) ** 2),
}
ACTIVATIONS = {"linear": lambda z: z, "sigmoid": sigmoid, "softmax": softmax, "tanh": np.tanh}
STEPS = {"rows": (False, None), "steps": (True, None), "valid": (True, VALID)}
WEIGHTS = ["none", "rows", "steps"]


def labels_for(loss, rng, shape, classes=K):
    """Random labels; those of numbers stay away from where the outputs are, for losses with kinks there."""
    if loss.labels == "classes":
        return rng.integers(0, classes, shape)
    if loss.distribution == "categorical":
        return softmax(rng.standard_normal((*shape, classes)))
    if loss.distribution == "binary":
        return rng.random((*shape, classes)).round(1)
    return rng.choice([-1, 1], (*shape, classes)) * rng.uniform(3, 4, (*shape, classes))


def problem(name, rng, steps, weights):
    """(loss, logits, labels, valid, weights), NaN where nothing may be read."""
    loss, (timed, valid) = LOSSES[name][0], STEPS[steps]
    shape = (N, T) if timed else (N,)
    logits, labels = rng.standard_normal((*shape, K)), labels_for(loss, rng, shape)
    weight = {"none": None, "rows": rng.random(N), "steps": rng.random(shape)}[weights]
    if weight is not None:
        weight.flat[1] = 0
    if valid is not None:
        logits[~valid] = np.nan
        labels = np.where(valid[..., None] if labels.ndim == 3 else valid, labels, -7 if labels.ndim == 2 else np.nan)
        if weights == "steps":
            weight[~valid] = np.nan
    return loss, logits, labels, valid, weight


CASES = [case for case in itertools.product(LOSSES, STEPS, WEIGHTS) if case[1:] != ("rows", "steps")]


@pytest.mark.parametrize(("name", "steps", "weights"), CASES)
def test_values_and_gradients(rng, name, steps, weights):
    loss, logits, labels, valid, weight = problem(name, rng, steps, weights)
    _, activation, formula = LOSSES[name]
    counted = np.ones(logits.shape[:-1], bool) if valid is None else valid
    each = np.ones(logits.shape[:-1])
    if weight is not None:
        each = each * (weight[:, None] if weight.ndim < each.ndim else weight)
    terms = [each[i] * formula(logits[i], labels[i]) for i in zip(*np.nonzero(counted), strict=True)]
    outputs = ACTIVATIONS[activation](logits)
    checks.assert_close(loss(outputs, labels, valid, weight), np.sum(terms) / len(terms), 1e-14)
    total, count = loss.total(outputs, labels, valid, weight)
    checks.assert_close(total, np.sum(terms), 1e-14)
    assert count == len(terms)

    gradient = loss.gradient(outputs, labels, valid, weight)
    assert gradient.shape == outputs.shape and (gradient[~counted] == 0).all()

    def by_differences(array, of_logits):
        found = np.zeros(array.shape)
        for i in zip(*np.nonzero(np.broadcast_to(counted[..., None], array.shape)), strict=True):

            def value(e, i=i):
                moved = array.copy()
                moved[i] += e
                return loss(ACTIVATIONS[activation](moved) if of_logits else moved, labels, valid, weight)

            found[i] = checks.derivative(value, 1e-4)
        return found

    checks.assert_close(gradient, by_differences(outputs, False), 1e-9)
    if loss.fused_activation == activation:
        at_logits = loss.gradient(outputs, labels, valid, weight, at_logits=True)
        checks.assert_close(at_logits, by_differences(logits, True), 1e-10)


@pytest.mark.parametrize("name", [name for name, (loss, *_) in LOSSES.items() if loss.knows("replace_logits")])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_pass_over_logits(rng, name, weighted, dtype):
    """Its gradient and values are those of the outputs; classes are what they decide for."""
    loss, activation, _ = LOSSES[name]
    z, bias = rng.standard_normal((5, K)).astype(dtype), rng.standard_normal(K).astype(dtype)
    labels = labels_for(loss, rng, (5,))
    labels = labels if loss.labels == "classes" else labels.astype(dtype)
    weights = rng.random(5) if weighted else None
    outputs = ACTIVATIONS[activation]((z + bias).astype(dtype))
    d = z.copy()
    values, best = loss.replace_logits(d, bias, labels, True, weights)
    tolerance = 10 * float(np.finfo(dtype).eps)
    assert d.dtype == values.dtype == dtype
    checks.assert_close(values, loss.values(outputs, labels), tolerance)
    checks.assert_close(d, loss.gradient(outputs, labels, None, weights, at_logits=True), tolerance)
    expected = outputs.argmax(axis=1) if loss.labels == "classes" else z + bias > 0
    np.testing.assert_array_equal(best, expected)
    z[1, 0] = np.nan
    _, best = loss.replace_logits(z, bias, labels, True, weights)
    assert (best[1] if loss.labels == "classes" else best[1, 0]) == -1
    assert loss.replace_logits(d, bias, labels, False, weights)[1] is None


def model_for(loss, activation, steps, units=K, dtype="float64"):
    layers = [cgru.GRU(4, return_sequences=steps, dtype=dtype), cgru.Dense(units, activation, dtype=dtype)]
    model = cgru.Sequential(layers, seed=3)
    model.compile("adam", loss)
    return model.build(2)


MODELS = [("rows", {}), ("steps", {}), ("steps", {"lengths": [2, 4, 0]}), ("steps", {"mask": VALID[:, ::-1]})]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_gradients_of_a_model(rng, name, weights):
    loss, activation, _ = LOSSES[name]
    for steps, validity in MODELS[:2] if weights == "rows" else MODELS[1:]:
        model = model_for(loss, activation, steps == "steps")
        x = rng.standard_normal((N, T, 2))
        batch = cgru.sequences.as_batch(x, **validity)
        shape = (N, T) if steps == "steps" else (N,)
        weight = {"none": None, "rows": rng.random(N), "steps": rng.random(shape)}[weights]
        y = labels_for(loss, rng, shape)
        made = targets(model.layers, loss, [], y, batch, (*shape, K), weight)
        run = model._run(batch, made)
        assert isinstance(run, FusedRun) == loss.knows("replace_logits")
        seen, gradients = run.seen(Totals(model))["loss"], run.gradients()
        outputs = model.predict(x, **validity)
        checks.assert_close(seen[0], loss.total(outputs, y, batch.valid, weight)[0], 1e-13)
        checks.assert_close(sum(run.row_losses(N)), seen[0], 1e-13)

        def value(arrays, model=model, batch=batch, made=made):
            for (i, _), array in arrays.items():
                model.layers[i].set_weights([array, *model.layers[i].get_weights()[1:]])
            return np.divide(*model._run(batch, made).seen(Totals(model))["loss"])

        kernels = {(i, "kernel"): model.layers[i].parameters["kernel"].copy() for i in (0, 1)}
        checks.assert_gradients(value, kernels, {key: gradients[key] for key in kernels}, rng, 1e-9)


def test_own_losses_are_trained_on(rng):
    """Skewed's minimum is at the labels; padding and zero weights take no part."""
    x, y = rng.standard_normal((6, T, 2)), rng.standard_normal((6, T, 1))
    lengths = np.array([4, 2, 3, 4, 1, 4])
    valid = np.arange(T) < lengths[:, None]
    results = []
    for spoil in (0, np.nan):
        model = cgru.Sequential([cgru.GRU(8, return_sequences=True), cgru.Dense(1)], seed=0)
        model.compile(cgru.optimizers.Adam(0.05), Skewed(), metrics=["mse"])
        given = np.where(valid[..., None], y, spoil)
        history = model.fit(np.where(valid[..., None], x, spoil), given, lengths=lengths, epochs=60, verbose=0).history
        assert history["loss"][-1] < 1.05 and history["mse"][-1] < 0.1
        results.append(model.get_weights())
    checks.assert_same_arrays(*results)


class TestOnesOwnLoss:
    @pytest.mark.parametrize("base", [SCE, CCE, BCE])
    def test_a_subclass_with_other_values_and_gradients_is_not_passed_by(self, rng, base):
        """Closed forms of the base are not those of the subclass."""

        class Doubled(base):
            def values(self, outputs, labels):
                return 2 * super().values(outputs, labels)

            def gradients(self, outputs, labels):
                return 2 * super().gradients(outputs, labels)

        class Renamed(base):
            name = "renamed"

        x, y = rng.standard_normal((N, T, 2)), labels_for(base(), rng, (N,))
        results = []
        for loss in (base(), Doubled(), Renamed()):
            model = model_for(loss, "sigmoid" if base is BCE else "softmax", False)
            batch, shape = cgru.models.examples.inputs(model.layers, x)
            made = model._targets(y, batch, shape)
            run = model._run(batch, made)
            values = run.seen(Totals(model))["loss"][0], model.evaluate(x, y)["loss"]
            results.append([*run.gradients().values(), np.array(values)])
        for plain, doubled, renamed in zip(*results, strict=True):
            checks.assert_close(doubled, 2 * plain, 1e-13)
            checks.assert_same_arrays(renamed, plain)

    def compiled(self, loss):
        model = cgru.Sequential([cgru.Dense(2)])
        model.compile("adam", loss)
        return model

    def test_what_lacks(self):
        class Half(losses.Loss):
            def values(self, outputs, labels):
                return outputs[:, 0]

        for loss, message in ((losses.Loss(), "loss: Loss has no values"), (Half(), "loss: Half has no gradients(")):
            with pytest.raises(TypeError, match=re.escape(message)):
                self.compiled(loss)

    def test_wrong_kinds(self):
        class Wrong(Skewed):
            labels = "class"

        with pytest.raises(TypeError, match=r"loss: Wrong.labels: expected one of \('values', 'classes'\), got 'cl"):
            self.compiled(Wrong())
        Wrong.labels, Wrong.distribution = "values", "normal"
        with pytest.raises(TypeError, match=r"loss: Wrong.distribution: expected one of \(None, 'binary'"):
            self.compiled(Wrong())

    def test_wrong_shapes(self):
        class Wrong(Skewed):
            def values(self, outputs, labels):
                return super().values(outputs, labels)[:, None]

        with pytest.raises(ValueError, match=r"Wrong.values: expected shape \(3,\), got \(3, 1\)"):
            self.compiled(Wrong()).fit(np.ones((3, 2)), np.ones((3, 2)), verbose=0)
        Wrong.values = Skewed.values
        Wrong.gradients = lambda self, outputs, labels: np.ones(len(outputs))
        with pytest.raises(ValueError, match=r"Wrong.gradients: expected shape \(3, 2\), got \(3,\)"):
            self.compiled(Wrong()).fit(np.ones((3, 2)), np.ones((3, 2)), verbose=0)

    def test_it_cannot_change_outputs_or_labels(self):
        class Writing(Skewed):
            def values(self, outputs, labels):
                outputs -= labels
                return outputs.sum(axis=1)

        with pytest.raises(ValueError, match="read-only"):
            Writing()(np.ones((2, 3)), np.ones((2, 3)))

    @pytest.mark.parametrize("wrong", [lambda v: v * 1j, lambda v: v.astype(str), lambda v: v.astype(object)])
    def test_values_and_gradients_are_numbers(self, wrong):
        class Wrong(losses.Loss):
            def values(self, outputs, labels):
                return wrong(outputs[:, 0]) if self.fails == "values" else outputs[:, 0]

            def gradients(self, outputs, labels):
                return wrong(outputs)

        ones, loss = np.ones((2, 3)), Wrong()
        for fails, call in (("values", loss), ("gradients", loss.gradient)):
            loss.fails = fails
            with pytest.raises(TypeError, match=f"Wrong.{fails}: expected numbers, got dtype"):
                call(ones, ones)

    def test_what_it_returns_is_left_alone_and_converted(self):
        kept = np.ones((2, 3))

        class Kept(Skewed):
            def gradients(self, outputs, labels):
                return kept

        gradient = Kept().gradient(np.ones((2, 3), np.float32), np.ones((2, 3)))
        assert gradient.dtype == np.float32 and (gradient == 0.5).all() and (kept == 1).all()


# -- numbers at the ends


def test_binary_of_large_logits_in_float32():
    """At logits of 100 and beyond loss and gradient are those of float64."""
    z = np.float32([[-1000], [-100], [-30], [0], [30], [100], [1000]])
    for label in (0.0, 1.0, 0.25):
        y = np.full(7, label)
        exact = np.logaddexp(0, z[:, 0].astype(float)) - label * z[:, 0]
        values = BCE(True).values(z, y[:, None].astype(np.float32))
        np.testing.assert_allclose(values, exact, rtol=1e-6, atol=1e-12)
        gradient = 7 * BCE(True).gradient(z, y)
        np.testing.assert_allclose(gradient, sigmoid(np.clip(z.astype(float), -700, 700)) - label, atol=1e-7)
        # A Dense(1, sigmoid): the same loss and gradients, from a pass that knows the logits
        model = cgru.Sequential([cgru.Dense(1, "sigmoid")], seed=0)
        model.compile("adam", "binary_crossentropy", metrics=["auc"] if label != 0.25 else [])
        model.build(1).set_weights([[[1.0]], [0.0]])
        for metrics in (model.metrics, []):  # outputs first, and then without them
            model.compile("adam", "binary_crossentropy", metrics=metrics)
            batch = cgru.sequences.as_batch(z)
            run = model._run(batch, targets(model.layers, model.loss, [], y, batch, (7, 1)))
            np.testing.assert_allclose(run.seen(Totals(model))["loss"], [exact.sum(), 7], rtol=1e-6)
            np.testing.assert_allclose(run.gradients()[0, "bias"], gradient.mean(axis=0), atol=1e-7)
        np.testing.assert_allclose(model.evaluate(z, y)["loss"], exact.mean(), rtol=1e-6)


def test_losses_of_certain_probabilities_stay_finite():
    p = np.float32([[0, 1], [1, 0]])
    for loss in (BCE(), CCE(), BCE(label_smoothing=0.1), CCE(label_smoothing=0.1)):
        for y in (p, p[::-1]):
            assert np.isfinite(loss(p, y)) and np.isfinite(loss.gradient(p, y)).all(), loss
    assert BCE()(p, p) == CCE()(p, p) == 0
    assert CCE(True)(np.array([[0, -np.inf]]), np.array([[1, 0]])) == 0  # a class that is ruled out
    assert math.isnan(BCE()(np.array([[np.nan]]), np.array([0])))


def test_a_sum_of_many_float32_terms_is_exact():
    outputs = np.full((100_000, 1), 0.1, np.float32)
    assert losses.get("mae").total(outputs, np.zeros(100_000))[0] == pytest.approx(0.1 * 1e5, rel=1e-7)


def test_nothing_counts():
    for name, (loss, *_) in LOSSES.items():
        labels = np.full((N, T), -1) if loss.labels == "classes" else np.full((N, T, K), np.nan)
        outputs, nothing = np.full((N, T, K), np.nan), np.zeros((N, T), bool)
        assert loss.total(outputs, labels, nothing, np.full((N, T), np.nan)) == (0, 0), name
        assert math.isnan(loss(outputs, labels, nothing)), name
        assert not loss.gradient(outputs, labels, nothing).any(), name


def test_one_output_is_never_broadcast(rng):
    outputs = rng.standard_normal((5, 1))
    y = rng.standard_normal(5)
    for name in ("mse", "mae", "huber"):
        loss = losses.get(name)
        assert loss(outputs, y) == loss(outputs, y[:, None])
        checks.assert_same_arrays(loss.gradient(outputs, y), loss.gradient(outputs, y[:, None]))
        assert loss.gradient(outputs, y).shape == (5, 1)
        for wrong in (y[None], y[:1], y[:, None, None], np.ones((5, 2))):
            with pytest.raises(ValueError, match=r"labels: expected shape \(5, 1\), that of the outputs, got"):
                loss(outputs, wrong)


@pytest.mark.parametrize(
    ("loss", "labels", "error", "message"),
    [
        ("mse", [["a", "b"]], TypeError, "labels: expected numbers, got dtype <U1; make them: labels = np.asarray("),
        ("mse", [[np.nan, 1]], ValueError, "labels: expected finite numbers in float64, got nan"),
        ("mse", [[1j, 1]], TypeError, "labels: expected numbers, got dtype complex128"),
        ("binary_crossentropy", [[0, 2]], ValueError, "labels: expected probabilities, from 0 to 1, got 2.0; for cla"),
        ("binary_crossentropy", [[-1, 1]], ValueError, "got -1.0; for labels of -1 and 1 give (labels + 1) / 2"),
        ("categorical_crossentropy", [[0.5, 1.5]], ValueError, "labels: expected probabilities, from 0 to 1, got 1.5"),
        ("categorical_crossentropy", [1], ValueError, "labels: expected shape (1, 2), that of the outputs, got (1,)"),
    ],
)
def test_refused_labels(loss, labels, error, message):
    for call in (losses.get(loss), losses.get(loss).total, losses.get(loss).gradient):
        with pytest.raises(error, match=re.escape(message)):
            call(np.array([[0.5, 0.5]]), labels)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1, -1], ValueError, "weights: expected finite numbers of at least 0, got -1.0"),
        ([1, np.nan], ValueError, "weights: expected finite numbers of at least 0, got nan"),
        ([1, np.inf], ValueError, "weights: expected finite numbers of at least 0, got inf"),
        ([1], ValueError, "weights: expected shape (2,), got (1,)"),
        (["1", "2"], TypeError, "weights: expected numbers, got dtype <U1"),
    ],
)
def test_refused_weights(weights, error, message):
    for call in (losses.get("mse"), losses.get("mse").total, losses.get("mse").gradient):
        with pytest.raises(error, match=re.escape(message)):
            call(np.ones((2, 1)), [1, 2], None, weights)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SCE(label_smoothing=1), "label_smoothing: expected a number of at least 0 and less than 1, got 1"),
        (lambda: BCE(label_smoothing=-0.1), "label_smoothing: expected a number of at least 0 and less than 1"),
        (lambda: CCE(label_smoothing="a lot"), "label_smoothing: expected a number, got 'a lot'"),
        (lambda: BCE(from_logits=1), "from_logits: expected True or False, got 1"),
        (lambda: losses.Huber(0), "delta: expected a positive, finite number, got 0"),
        (lambda: losses.Huber(delta=True), "delta: expected a number, got True"),
        (lambda: losses.get("nonsense"), "'huber', 'mae', 'mean_absolute_error', 'mean_squared_error', 'mse'"),
        (lambda: BCE()(np.array([[1.5]]), [1]), "an output of 1.5: end the model with a sigmoid, or use BinaryCross"),
        (lambda: CCE()(np.array([[1.5]]), [[1]]), "an output of 1.5: end the model with a softmax, or use Categorical"),
    ],
)
def test_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        make()


def test_configurations_and_reprs():
    for loss in (SCE(True, 0.1), CCE(label_smoothing=0.2), BCE(True), losses.Huber(2.0), losses.MeanSquaredError()):
        again = type(loss)(**loss.get_config())
        assert again.get_config() == loss.get_config() and repr(again) == repr(loss)
        assert eval(repr(loss), vars(losses)).get_config() == loss.get_config()
    assert repr(SCE(True, 0.1)) == "SparseCategoricalCrossentropy(from_logits=True, label_smoothing=0.1)"


@pytest.mark.parametrize("own", [losses.MeanSquaredError(), losses.Huber(), losses.CategoricalCrossentropy()])
def test_the_order_in_memory_does_not_matter(own):
    rng = np.random.default_rng(0)
    outputs, labels = rng.random((2, 50, 8), np.float32) / 8
    weights = rng.random(50)
    for form in (np.asfortranarray, lambda a: a[::-1].copy()[::-1], lambda a: np.repeat(a, 3, -1)[:, ::3]):
        assert own(form(outputs), form(labels), weights=weights) == own(outputs, labels, weights=weights)
        found = own.gradient(form(outputs), form(labels))
        np.testing.assert_array_equal(found, own.gradient(outputs, labels))


@pytest.mark.parametrize("method", ["total", "__call__", "gradient"])
def test_a_class_is_no_array(method):
    with pytest.raises((TypeError, ValueError), match=r"^outputs: expected"):
        getattr(losses.MeanSquaredError(), method)(np.ndarray, np.zeros((2, 3)))


def test_what_counts_in_any_form():
    own, rng = losses.MeanSquaredError(), np.random.default_rng(0)
    outputs, labels = rng.random((2, *VALID.shape, K), np.float32)
    for form in (VALID.tolist(), VALID.astype(object), np.asfortranarray(VALID)):
        assert own(outputs, labels, form) == own(outputs, labels, VALID)
        np.testing.assert_array_equal(own.gradient(outputs, labels, form), own.gradient(outputs, labels, VALID))
