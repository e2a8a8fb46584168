"""fit(..., chunk=k): truncated backpropagation through time."""

import re

import checks
import numpy as np
import pytest

import cgru
from cgru import optimizers
from cgru.applying import ready
from cgru.models import chunks
from cgru.models.targets import Targets

LOSS = "sparse_categorical_crossentropy"
N, T, D, K = 6, 11, 3, 4
LENGTHS = [11, 4, 0, 7, 9, 3]


@pytest.fixture
def x(rng):
    return rng.standard_normal((N, T, D))


@pytest.fixture
def tags(rng):
    return rng.integers(0, K, (N, T))


def made(by_step=True, rate=0.05, **options):
    layers = [
        cgru.Dense(3, "tanh", dtype="float64"),
        cgru.GRU(4, return_sequences=True, dtype="float64", num_layers=2, learn_initial_state=True, **options),
        cgru.GRU(5, return_sequences=by_step, dtype="float64", **options),
        cgru.Dense(K, "softmax", dtype="float64"),
    ]
    model = cgru.Sequential(layers, seed=0)
    model.compile(optimizers.Adam(rate), LOSS, metrics=["accuracy"])
    return model


def validity(kind):
    if kind == "lengths":
        return {"lengths": np.array(LENGTHS)}
    if kind == "mask":
        mask = np.arange(T) < np.array(LENGTHS)[:, None]
        mask[:, 3:6] = False  # a chunk without any step
        mask[0, 1] = mask[3, 6] = False
        return {"mask": mask}
    return {}


def cut(given, steps):
    if "lengths" in given:
        return {"lengths": np.clip(given["lengths"] - steps.start, 0, steps.stop - steps.start)}
    return {"mask": given["mask"][:, steps]} if given else {}


@pytest.mark.parametrize("kind", ["all", "lengths", "mask"])
@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_with_an_output_at_each_step(x, tags, kind, chunk):
    """Against layers that keep their state, trained chunk by chunk."""
    model, twin, given = made(), made(stateful=True), validity(kind)
    model.fit(x, tags, **given, epochs=2, shuffle=False, chunk=chunk, verbose=0)
    for _ in range(2):
        twin.reset_states()
        end = max(LENGTHS) if given else T
        for start in range(0, end, chunk):
            steps = slice(start, min(start + chunk, end))
            here = cut(given, steps)
            if "mask" not in here or here["mask"].any():
                twin.train_on_batch(x[:, steps], tags[:, steps], **here)
    assert model.iterations == twin.iterations > 2
    checks.assert_same_arrays(model.get_weights(), twin.get_weights())


@pytest.mark.parametrize("frozen", [[], [0], [2]])
@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        (loss, weights)
        for loss in ("mse", "categorical_crossentropy", LOSS)
        for weights in ("none", "rows", "steps", "classes")
        if (loss, weights) != ("mse", "classes")
    ],
)
def test_beside_other_losses_weights_and_frozen_layers(rng, x, tags, frozen, loss, weights):
    y = {"mse": rng.standard_normal((N, T, K)), "categorical_crossentropy": np.eye(K)[tags], LOSS: tags}[loss]
    given = {
        "none": {},
        "rows": {"sample_weight": rng.uniform(0, 2, N)},
        "steps": {"sample_weight": rng.uniform(0, 2, (N, T))},
        "classes": {"class_weight": {1: 3.0, 2: 0.5}},
    }[weights]
    model, twin = made(), made(stateful=True)
    for one in (model, twin):
        one.compile(optimizers.SGD(0.1, momentum=0.5, global_clipnorm=0.7), loss)
        for i in frozen:
            one.layers[i].trainable = False
    model.fit(x, y, LENGTHS, shuffle=False, chunk=4, verbose=0, **given)
    for start in range(0, T, 4):
        steps = slice(start, min(start + 4, T))
        here = {k: v[:, steps] if weights == "steps" else v for k, v in given.items()}
        twin.train_on_batch(x[:, steps], y[:, steps], **cut({"lengths": np.array(LENGTHS)}, steps), **here)
    checks.assert_same_arrays(model.get_weights(), twin.get_weights())


@pytest.mark.parametrize("kind", ["all", "lengths", "mask"])
@pytest.mark.parametrize("by_step", [True, False])
def test_the_figures_are_those_of_whole_sequences(x, tags, kind, by_step):
    """A rate so small that the parameters stay what they are."""
    given, y = validity(kind), tags if by_step else tags[:, 0]
    whole = made(by_step, rate=1e-30).fit(x, y, **given, shuffle=False, verbose=0).history
    for chunk in (2, 3, 5):
        found = made(by_step, rate=1e-30).fit(x, y, **given, shuffle=False, chunk=chunk, verbose=0).history
        assert found["accuracy"] == whole["accuracy"]
        checks.assert_close(found["loss"], whole["loss"], 1e-14)


@pytest.mark.parametrize("by_step", [True, False])
@pytest.mark.parametrize("kind", ["all", "lengths", "mask"])
def test_a_chunk_of_all_steps_is_no_chunk(x, tags, by_step, kind):
    y, given = tags if by_step else tags[:, 0], validity(kind)
    model, twin = made(by_step), made(by_step)
    history = model.fit(x, y, **given, epochs=2, batch_size=4, chunk=T, verbose=0).history
    assert history == twin.fit(x, y, **given, epochs=2, batch_size=4, verbose=0).history
    checks.assert_same_arrays(model.get_weights(), twin.get_weights())


def test_with_one_label_for_a_sequence(x, tags):
    """Rows are trained in the chunk in which they end, from the state that the chunks before led to."""
    model, twin, lengths, y = made(by_step=False), made(by_step=False), np.array(LENGTHS), tags[:, 0]
    model.fit(x, y, lengths=lengths, shuffle=False, chunk=4, verbose=0)
    twin.build(D)
    states, alive = None, np.arange(N)
    batch = cgru.sequences.as_batch(x, lengths)
    for start in (0, 4, 8):
        ended = alive[lengths[alive] <= start + 4]
        goes_on = alive[lengths[alive] > start + 4]
        after = None
        if len(goes_on):
            part = chunks._cut(batch, start, start + 4).take(goes_on)
            after = twin._forward(part, chunks._rows(states, np.isin(alive, goes_on)), training=True)[1]
        if len(ended):
            part = chunks._cut(batch, start, start + 4).take(ended)
            gradients = twin._gradients(part, Targets(y[ended]), chunks._rows(states, np.isin(alive, ended)))
            apply(twin, gradients)
        states, alive = after, goes_on
    assert model.iterations == 3
    for found, expected in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def apply(model, gradients):
    """One update of Adam by these gradients."""
    parameters = {(i, name): model.layers[i].parameters[name] for i, name in gradients}
    model._states, model._proposed = ready(model.optimizer, parameters, model._states, model._proposed or {})
    current, spare = model._states
    model.optimizer.propose(parameters, gradients, current, model._proposed, spare)
    model._publish((spare, current), [None] * len(model.layers), lambda: None)


@pytest.mark.parametrize("reset_after", [False, True])
def test_gradients_are_cut_where_the_chunk_begins(rng, x, tags, reset_after):
    """The gradients of a chunk by finite differences: states that went in are constants."""
    model = made(reset_after=reset_after).build(D)
    weights = model.get_weights()
    batch = cgru.sequences.as_batch(x, np.array(LENGTHS))
    _, states, *_ = model._forward(chunks._cut(batch, 0, 4))
    part, labels = chunks._cut(batch, 4, 8), tags[:, 4:8]
    found = {f"{i}.{name}": g for (i, name), g in model._gradients(part, Targets(labels, steps=True), states).items()}

    def loss(arrays):
        model.set_weights(list(arrays.values()))
        outputs, *_ = model._forward(part, states)
        value = model.loss(outputs.data, labels, outputs.valid)
        model.set_weights(weights)
        return value

    arrays = dict(zip(model.parameters, weights, strict=True))
    checks.assert_gradients(loss, arrays, found, rng)
    initial = [name for name in found if name.endswith("initial_state")]
    assert initial and not any(found[name].any() for name in initial)  # that is where the first chunk starts


def test_chunks_of_an_iterable_and_a_run_that_is_resumed(x, tags, tmp_path):
    path, count = tmp_path / "m.st", 0

    def stop(batch, logs):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt

    batches = [(x[:4], tags[:4], {"lengths": LENGTHS[:4]}), (x[4:], tags[4:], {"lengths": LENGTHS[4:]})]
    whole, model = made(), made()
    history = whole.fit(x, tags, LENGTHS, batch_size=4, epochs=3, shuffle=False, chunk=4, verbose=0).history
    saving = cgru.callbacks.ModelCheckpoint(path, every=1)
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            batches, epochs=3, chunk=4, verbose=0, callbacks=[saving, cgru.callbacks.LambdaCallback(on_batch_end=stop)]
        )
    again = cgru.load(path)
    assert again.fit(batches, epochs=3, chunk=4, verbose=0, callbacks=[saving], resume=True).history == history
    checks.assert_same_arrays(again.get_weights(), whole.get_weights())


@pytest.mark.parametrize(
    ("layer", "chunk", "error", "message"),
    [
        (cgru.GRU(4, bidirectional=True), 3, ValueError, "layer 0 (GRU) does not run forward in time, with bidirecti"),
        (cgru.GRU(4, reverse=True), 3, ValueError, "chunk: expected None, because layer 0 (GRU) does not run forward"),
        (cgru.GRU(4, go_backwards=True), 3, ValueError, "in time, with go_backwards=True, got a number"),
        (cgru.GRU(4, stateful=True), 3, ValueError, "layer 0 (GRU) keeps a state of its own, with stateful=True"),
        (cgru.GRU(4), 0, ValueError, "chunk: expected at least 1, got 0"),
        (cgru.GRU(4), 2.5, TypeError, "chunk: expected an integer, got 2.5"),
        (cgru.Dense(4), 2, ValueError, "chunk: expected a model with a GRU, got none"),
    ],
)
def test_what_cannot_be_cut(x, tags, layer, chunk, error, message):
    model = cgru.Sequential([layer, cgru.Dense(K, "softmax")])
    model.compile("adam", LOSS)
    with pytest.raises(error, match=re.escape(message)):
        model.fit(x if isinstance(layer, cgru.GRU) else x[:, 0], tags[:, 0], chunk=chunk, verbose=0)


def test_the_step_of_a_number_that_is_not_finite_is_that_of_the_sequence(x, tags):
    x[2, 9, 1] = np.nan
    with pytest.raises(ValueError, match=r"got an input of nan in row 2, step 9, feature 1 \(epoch 1, batch 1\)"):
        made().fit(x, tags, shuffle=False, chunk=4, verbose=0)
