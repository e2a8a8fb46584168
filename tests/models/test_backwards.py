"""Models whose outputs come in processing order, from the last step: padding stands before them."""

import numpy as np
import pytest

import cgru

LENGTHS = [3, 5, 1, 4, 2, 5]


def model(*flips):
    layers = [cgru.GRU(6, return_sequences=True, go_backwards=flip) for flip in flips]
    model = cgru.Sequential([*layers, cgru.Dense(3, activation="softmax")], seed=0)
    model.compile(loss="sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("flips", [(True,), (True, True), (True, False), (False, True), (True, True, True)])
def test_batches_do_not_move_outputs(rng, flips):
    made = model(*flips)
    x = [rng.standard_normal((n, 2)) for n in LENGTHS]
    alone = [made(row[None])[0] for row in x]
    for batch_size in (1, 2, 6):
        for row, expected in zip(made.predict(x, batch_size=batch_size), alone, strict=True):
            np.testing.assert_array_equal(row, expected)
    padded, lengths = cgru.sequences.pad(x)
    together = np.concatenate([padded, np.full((6, 4, 2), np.nan)], axis=1)  # steps that no row reaches
    mask = np.arange(9) < lengths[:, None]
    for options in ({"lengths": lengths}, {"mask": mask}):
        whole = made.predict(together, batch_size=6, **options)
        for batch_size in (1, 2):
            np.testing.assert_array_equal(made.predict(together, batch_size=batch_size, **options), whole)
        np.testing.assert_array_equal(made(together, **options), whole)


@pytest.mark.parametrize("flips", [(True,), (True, True)])
def test_labels_of_every_step_stay_at_their_outputs(rng, flips):
    made = model(*flips)
    x = [rng.standard_normal((n, 2)) for n in LENGTHS]
    made(x)
    y = [made(row[None])[0].argmax(axis=-1) for row in x]
    expected = np.mean(np.concatenate([-np.log(made(row[None])[0].max(axis=-1)) for row in x]))
    for batch_size in (1, 2, 6):
        assert made.evaluate(x, y, batch_size=batch_size)["loss"] == pytest.approx(expected, rel=1e-5)
    losses = []
    for batch_size in (6, 2):
        again = model(*flips)
        again.build(2)
        again.set_weights(made.get_weights())
        again.fit(x, y, epochs=20, batch_size=batch_size, verbose=0)
        losses.append(again.evaluate(x, y)["loss"])
    assert max(losses) < expected
