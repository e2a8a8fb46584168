"""The parts of docs/examples/adding_problem.py."""

import numpy as np
import pytest

import cgru
from tests import examples


@pytest.fixture(scope="module")
def adding():
    return examples.load("adding_problem")


def test_the_answer_is_the_sum_of_one_number_of_each_half(adding):
    x, y = adding.sequences(np.random.default_rng(0), 50, 11)
    assert x.shape == (50, 11, 2) and y.shape == (50, 1)
    np.testing.assert_array_equal(x[:, :5, 1].sum(axis=1), 1)
    np.testing.assert_array_equal(x[:, 5:, 1].sum(axis=1), 1)
    np.testing.assert_allclose((x[:, :, 0] * x[:, :, 1]).sum(axis=1), y[:, 0], rtol=1e-6)
    assert len(np.unique(x[:, :, 1].argmax(axis=1))) == 5


def test_who_always_answers_one_has_the_error_that_the_text_names(adding):
    _, y = adding.sequences(np.random.default_rng(1), 20000, 4)
    assert np.mean((y - 1) ** 2) == pytest.approx(adding.GUESSING, rel=0.03)


def test_remembering_is_a_bias_of_the_update_gate_alone(adding):
    bias = adding.remembering(200)
    layer = cgru.GRU(400, bias_initializer=bias, recurrent_initializer="zeros", input_size=2, seed=0)
    r, z, n = np.split(layer.parameters["bias"], 3)
    assert not r.any() and not n.any()
    steps = np.exp(-z)  # 1 / z about, where z weighs the new candidate
    assert 1 <= steps.min() < 10 and 190 < steps.max() <= 199


def numeric(end, states, epsilon=1e-6):
    """Gradients of `end`, a function of a state's arrays, by central differences: one array (N, H) for each."""
    found = []
    for k, state in enumerate(states):
        gradient = np.empty_like(state)
        for place in np.ndindex(state.shape):
            moved = [[array.copy() for array in states] for _ in range(2)]
            moved[0][k][place] += epsilon
            moved[1][k][place] -= epsilon
            gradient[place] = (end(moved[0]) - end(moved[1])) / (2 * epsilon)
        found.append(gradient)
    return found


@pytest.mark.parametrize("kind", ["Tanh", "LSTM"])
def test_norms_of_cells_are_those_of_differences(adding, kind):
    rng = np.random.default_rng(2)
    cell = adding.fresh(getattr(adding, kind), 3, rng, 0.7)
    cell.bias += rng.normal(0, 0.3, cell.bias.shape)
    x, direction = rng.standard_normal((1, 7, 2)), rng.standard_normal(3)
    distances, found = adding.norms(cell, x, direction, chunk=3)

    def end(state):
        for t in range(1, 7):
            state, _ = cell.step(x[:, t], state)
        return state[0][0] @ direction

    zeros = np.zeros((1, 3))
    state, _ = cell.step(x[:, 0], (zeros,) * (2 if kind == "LSTM" else 1))
    assert distances.tolist() == [0, 3, 6]
    assert found[0] == pytest.approx(np.linalg.norm(direction))
    assert found[2] == pytest.approx(np.linalg.norm(np.concatenate(numeric(end, state), axis=1)), rel=1e-6)


def test_norms_of_the_gru_are_those_of_differences(adding):
    rng = np.random.default_rng(3)
    layer = cgru.GRU(3, input_size=2, dtype="float64", return_sequences=True, seed=1)
    x, direction = rng.standard_normal((1, 7, 2)), rng.standard_normal(3)
    distances, found = adding.gru_norms(layer, x, direction, chunk=2)
    last = layer.with_options(return_sequences=False)
    h = last(x[:, :1])
    (expected,) = numeric(lambda state: last(x[:, 1:], initial_state=state[0])[0] @ direction, [h])
    assert distances.tolist() == [0, 2, 4, 6, 7]
    assert found[0] == pytest.approx(np.linalg.norm(direction))
    assert found[3] == pytest.approx(np.linalg.norm(expected), rel=1e-6)


def test_training_stops_well_below_the_goal(adding, capsys):
    report, made = adding.reporting.Report("adding_problem", {}), []
    errors = iter([0.2, adding.GOAL, adding.GOAL / 3, 0.0])
    updates = adding.train(lambda x, y: made.append(x.shape), lambda x, y: next(errors), 6, 0, 100, "it", report, 10)
    assert updates == 30 and made == [(adding.BATCH, 6, 2)] * 30
    assert [point["updates"] for point in report.curves["it"]] == [10, 20, 30]
    assert capsys.readouterr().out.count("it: ") == 3
