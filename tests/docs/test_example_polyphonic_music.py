"""docs/examples/polyphonic_music.py: reading, the measure, the chain whose answer is known, the sizes of the peers."""

import examples
import numpy as np
import pytest
import scipy.io


@pytest.fixture(scope="module")
def music():
    return examples.load("polyphonic_music")


def rolls_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.random((length, 88)) < 0.1).astype(np.uint8) for length in lengths]


def test_the_measure_sums_over_keys_and_leaves_out_first_steps(music):
    rolls = rolls_of([3, 5])
    costs = music.nats(rolls, [np.full((len(roll), 88), 0.25) for roll in rolls])
    expected = [roll.sum(1) * np.log(4) + (88 - roll.sum(1)) * np.log(4 / 3) for roll in rolls]
    for cost, wanted in zip(costs, expected, strict=True):
        np.testing.assert_allclose(cost, wanted)
    assert np.isclose(music.mean_nats(costs), (expected[0][1:].sum() + expected[1][1:].sum()) / 6)
    assert np.isclose(music.mean_nats(costs, first=True), np.concatenate(expected).mean())
    sure = music.nats(rolls[:1], [1 - rolls[0].astype(np.float32)])[0]
    np.testing.assert_allclose(sure, 88 * 24 * np.log(2))  # wrong everywhere, and still finite


def test_the_model_reads_the_step_before(music):
    (roll,) = rolls_of([6])
    (read,) = music.before([roll])
    assert not read[0].any() and (read[1:] == roll[:-1]).all() and read.dtype == np.uint8
    parts = music.cut(rolls_of([7, 3]), 3)
    assert [len(part) for part in parts] == [3, 3, 1, 3]
    np.testing.assert_array_equal(np.concatenate(parts), np.concatenate(rolls_of([7, 3])))


def test_sets_are_read_and_others_refused(music, tmp_path):
    made = {"traindata": rolls_of([4, 2]), "validdata": rolls_of([3]), "testdata": rolls_of([5, 6])}
    held = {}
    for name, rolls in made.items():
        held[name] = np.empty((1, len(rolls)), object)
        held[name][0, :] = rolls
    scipy.io.savemat(tmp_path / "JSB_Chorales.mat", held)
    parts = music.read(music.path_of(tmp_path, "JSB_Chorales"))
    for rolls, expected in zip(parts, made.values(), strict=True):
        assert all((a == b).all() and a.dtype == np.uint8 for a, b in zip(rolls, expected, strict=True))
    with pytest.raises(ValueError, match=r"expected a folder that holds Nottingham\.mat, got "):
        music.path_of(tmp_path, "Nottingham")
    (tmp_path / "text.mat").write_text("no such thing")
    scipy.io.savemat(tmp_path / "other.mat", {"x": np.ones(3)})
    held["testdata"][0, 0] = np.full((3, 88), 2)
    scipy.io.savemat(tmp_path / "twos.mat", held)
    for name in ("text", "other"):
        with pytest.raises(ValueError, match=r"expected a \.mat file with traindata, validdata and testdata, got"):
            music.read(tmp_path / f"{name}.mat")
    with pytest.raises(ValueError, match="of zeros and ones"):
        music.read(tmp_path / "twos.mat")


def test_the_known_answer_of_the_chain(music):
    chain, steps = music.Chain(), 8
    rolls = np.array(chain.draw(4_000, steps, np.random.default_rng(0)))
    said = (rolls @ chain.chords.T.astype(float) == chain.chords.sum(1)).argmax(axis=2)
    assert (chain.chords[said] == rolls).all()
    # What somebody pays who knows the chain: for the second step its mean over what may have been before the first.
    second = chain.pairs / chain.pairs.sum(axis=1, keepdims=True)
    following = [second[said[:, 0]], *(chain.follow[said[:, t - 2], said[:, t - 1]] for t in range(2, steps))]
    p = np.minimum(np.array(following).swapaxes(0, 1) @ chain.chords, 1)
    with np.errstate(divide="ignore"):
        paid = -np.log(np.where(rolls[:, 1:], p, 1 - p)).sum(axis=2)
    spread = paid.mean(axis=1).std() / np.sqrt(len(rolls))
    assert abs(paid.mean() - chain.best(steps)) < 4 * spread < 0.2
    assert np.isclose(chain.entropy(), -(np.array([0.8, 0.15, 0.05]) * np.log([0.8, 0.15, 0.05])).sum())
    assert np.isclose(chain.pairs.sum(), 1) and np.allclose(chain.pairs.sum(0), chain.pairs.sum(1))


def test_the_model_learns_and_goes_on_step_by_step(music):
    chain, rng = music.Chain(), np.random.default_rng(0)
    parts = music.Parts(*(chain.draw(size, 20, rng) for size in (64, 8, 8)))
    model, rows = music.train(parts, music.SETTINGS["chain"]._replace(units=16, epochs=2))
    cost = music.mean_nats(music.nats(parts.valid, music.predictions(model, parts.valid)), first=True)
    assert len(rows) == 2 and np.isclose(cost, min(valid for _, valid in rows), rtol=1e-5) and rows[1] < rows[0]
    roll = music.generate(model, 9, np.random.default_rng(1))
    drawn = np.random.default_rng(1).random((9, 88)) < music.predictions(model, [roll])[0]
    np.testing.assert_array_equal(roll, drawn)
    assert music.nats_of_frequencies(parts.train, parts.test) < 10


def test_peers_of_equal_size(music):
    gru = music.network(music.SETTINGS["JSB_Chorales"]).build(88)
    size = sum(p.size for p in gru.parameters.values())
    for blocks in (1, 4):  # PyTorch has two biases
        units = music.units_of_equal_size(blocks, size)
        assert abs(blocks * units * (88 + units + 2) + 89 * units + 88 - size) < 0.01 * size * (2 if blocks > 1 else 1)
    assert music.units_of_equal_size(4, size) < 200 < music.units_of_equal_size(1, size)
