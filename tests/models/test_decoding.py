"""Seq2Seq.generate: greedy, sampled and beams, against plain loops and an exhaustive search."""

import itertools

import numpy as np
import pytest

import cgru
from cgru.models import decoding

V, K = 9, 7
START, END = 1, 2


@pytest.fixture
def rng():
    """The same in every run: the tests ask that what the models say has many lengths."""
    return np.random.default_rng(0)


def model_of(attention=None, seed=0, dtype="float32", spread=4.0, activation="softmax", **options):
    """One whose outputs differ, and which ends at many lengths."""
    model = cgru.Seq2Seq(
        cgru.Sequential([
            cgru.Embedding(V, 5, dtype=dtype), cgru.GRU(6, return_sequences=True, dtype=dtype, **options),
        ]),
        cgru.Sequential([
            cgru.Embedding(K, 4, dtype=dtype), cgru.GRU(6, return_sequences=True, dtype=dtype, **options),
            cgru.Dense(K, activation, dtype=dtype),
        ]),
        attention=attention, seed=seed,
    ).build()  # fmt: skip
    model.set_weights([spread * array for array in model.get_weights()])
    return model


def sources(rng, N=20, longest=6):
    return [rng.integers(0, V, n) for n in rng.integers(1, longest, N)]


def probabilities(model, source, said):
    """What may follow each of `said` = [ids, ...], of equal lengths, (len(said), K): from a teacher-forced pass."""
    reads = np.array([[START, *ids] for ids in said])
    return model.predict([np.tile(source, (len(said), 1)), reads])[:, -1].astype(float)


def greedy(model, source, most):
    said, score = [], 0.0
    for _ in range(most):
        p = probabilities(model, source, [said])[0]
        p[START] = 0
        token = int(p.argmax())
        score += np.log(p[token])
        if token == END:
            break
        said.append(token)
    return said, score


def lists(found):
    return [ids.tolist() for ids in found]


@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2}, {"reset_after": True}, {"layer_norm": True, "zoneout": 0.2, "recurrent_dropout": 0.3}],
)
@pytest.mark.parametrize("attention", [None, "dot", "general", "additive"])
def test_greedy_is_a_plain_loop(attention, options, rng):
    model, source = model_of(attention, **options), sources(rng)
    found, scores = model.generate(source, 8, return_scores=True)
    assert all(ids.dtype.kind == "i" for ids in found)
    assert {8} < {len(ids) for ids in found}  # some end, some do not
    for ids, score, x in zip(found, scores, source, strict=True):
        expected, sum_ = greedy(model, x, 8)
        assert ids.tolist() == expected
        assert score == pytest.approx(sum_, rel=1e-6)


@pytest.mark.parametrize("attention", [None, "additive"])
@pytest.mark.parametrize(
    "how",
    [
        {}, {"beam": 3, "length_penalty": 0.6}, {"seed": 3}, {"temperature": 2.0, "top_k": 4, "seed": 3},
        {"top_p": 0.8, "temperature": 0.7, "seed": 3},
    ],
)  # fmt: skip
def test_nothing_depends_on_batch_padding_or_team(attention, how, rng):
    model, source = model_of(attention), sources(rng)
    found, scores = model.generate(source, 8, return_scores=True, **how)
    lengths = np.array([len(x) for x in source])
    for steps in (lengths.max(), 11):
        x = np.full((20, steps), 77)
        for row, ids in zip(x, source, strict=True):
            row[: len(ids)] = ids
        again, others = model.generate(x, 8, lengths=lengths, return_scores=True, batch_size=3, **how)
        assert lists(again) == lists(found)
        np.testing.assert_array_equal(others, scores)
    with cgru.limit_threads(1):
        again, others = model.generate(source, 8, return_scores=True, batch_size=1, **how)
    assert lists(again) == lists(found)
    np.testing.assert_array_equal(others, scores)
    if "seed" not in how:  # draws follow the row
        again, others = model.generate(source[5:], 8, return_scores=True, **how)
        assert lists(again) == lists(found[5:])
        np.testing.assert_array_equal(others, scores[5:])


@pytest.mark.parametrize("penalty", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_beam_of_one_is_greedy_to_the_bit(dtype, penalty, rng):
    model = model_of("general", dtype=dtype)
    source = np.array(sources(rng, 30, 2))[:, :1]
    rows, begun = np.arange(30), model._begun(cgru.sequences.Batch(source))
    one = decoding.decode(model, begun, rows, 9, decoding.Beam(1, 30, END), penalty)
    two = decoding.decode(model, begun, rows, 9, decoding.Greedy(), penalty)
    assert lists(one[0]) == lists(two[0])
    np.testing.assert_array_equal(one[1], two[1])
    whole = model.generate(source, 9, beam=1, length_penalty=penalty, return_scores=True)
    assert lists(whole[0]) == lists(one[0])
    np.testing.assert_array_equal(whole[1], one[1])


def test_equal_probabilities_go_to_the_first():
    model = model_of()
    model.set_weights([0 * array for array in model.get_weights()])
    assert lists(model.generate([[3]], 3)) == [[0, 0, 0]]
    begun = model._begun(cgru.sequences.Batch(np.array([[3]])))
    assert lists(decoding.decode(model, begun, np.arange(1), 3, decoding.Beam(1, 1, END), 0.0)[0]) == [[0, 0, 0]]


def every(model, x, most, penalty):
    """dict ids -> score, of everything that can be said with at most so many ids, the end included."""
    found, open_ = {}, {(): 0.0}
    for step in range(1, most + 1):
        p = probabilities(model, x, list(open_))
        new = {}
        for (said, score), row in zip(open_.items(), p, strict=True):
            for token in range(K):
                if token == END:
                    found[said] = (score + np.log(row[token])) / step**penalty
                elif token != START:
                    new[(*said, token)] = score + np.log(row[token])
        open_ = new
    found.update({said: score / most**penalty for said, score in open_.items()})
    return found


@pytest.mark.parametrize("penalty", [0.0, 0.8, 2.0])
@pytest.mark.parametrize("attention", [None, "dot"])
def test_a_wide_beam_finds_what_an_exhaustive_search_finds(attention, penalty, rng):
    model, source = model_of(attention, seed=2), sources(rng, 8)
    found, scores = model.generate(source, 4, beam=5**4, length_penalty=penalty, return_scores=True)
    lengths = set()
    for ids, score, x in zip(found, scores, source, strict=True):
        known = every(model, x, 4, penalty)
        best = max(known, key=known.get)
        assert tuple(ids.tolist()) == best
        assert score == pytest.approx(known[best], rel=1e-5)
        lengths.add(len(best))
    assert len(lengths) > 1 or penalty > 1
    narrow = [model.generate(source, 4, beam=b, length_penalty=penalty, return_scores=True)[1] for b in (1, 2, 5**4)]
    assert (narrow[0] <= narrow[2]).all() and (narrow[1] <= narrow[2]).all() and (narrow[0] < narrow[2]).any()


def beam_by_hand(model, x, width, most):
    """The search as the documentation tells it, one hypothesis after the other."""
    open_, best, places = [((), 0.0)], None, width
    for step in range(1, most + 1):
        following = []
        for said, score in open_:
            p = probabilities(model, x, [list(said)])[0]
            following += [((*said, token), score + np.log(p[token])) for token in range(K) if token != START]
        following = sorted(following, key=lambda pair: -pair[1])[:places]
        open_ = []
        for said, score in following:
            if said[-1] == END or step == most:
                places -= said[-1] == END
                said = said[:-1] if said[-1] == END else said
                best = (said, score) if best is None or score > best[1] else best
            else:
                open_.append((said, score))
    return best


@pytest.mark.parametrize("width", [2, 3, 6])
def test_beams_are_as_the_documentation_tells(width, rng):
    model, source = model_of("additive", spread=2.5), sources(rng, 12)
    found, scores = model.generate(source, 6, beam=width, return_scores=True)
    for ids, score, x in zip(found, scores, source, strict=True):
        said, expected = beam_by_hand(model, x, width, 6)
        assert tuple(ids.tolist()) == said
        assert score == pytest.approx(expected, rel=1e-5)


# -- drawn


def test_draws_have_the_distribution_of_the_model():
    model = model_of(spread=2.0)
    x, count = np.array([3, 5]), 20000
    p = probabilities(model, x, [[]])[0]
    p[START] = 0
    found = model.generate(np.tile(x, (count, 1)), 1, temperature=1.0, seed=7, batch_size=count)
    tokens = np.array([ids[0] if len(ids) else END for ids in found])
    for how, expected in (
        ({}, p),
        ({"temperature": 0.5}, p**2),
        ({"temperature": 3.0}, p ** (1 / 3)),
        ({"top_k": 2}, np.where(p >= np.sort(p)[-2], p, 0)),
        ({"top_k": 3, "temperature": 2.0}, np.where(p >= np.sort(p)[-3], np.sqrt(p), 0)),
        ({"top_p": 0.6}, nucleus(p, 0.6)),
        ({"top_p": 0.8, "top_k": 3}, nucleus(np.where(p >= np.sort(p)[-3], p, 0), 0.8)),
    ):
        found = model.generate(np.tile(x, (count, 1)), 1, seed=7, batch_size=count, **how)
        tokens = np.array([ids[0] if len(ids) else END for ids in found])
        shares, expected = np.bincount(tokens, minlength=K) / count, expected / expected.sum()
        assert np.abs(shares - expected).max() < 5 * np.sqrt(0.25 / count), how
        assert not shares[expected == 0].any()


def nucleus(p, share):
    """The largest of p whose sum is at least this share of the whole."""
    order = np.argsort(-p, kind="stable")
    kept = order[: np.searchsorted(p[order].cumsum(), share * p.sum()) + 1]
    return np.where(np.isin(np.arange(len(p)), kept), p, 0)


def test_draws_follow_seed_and_row():
    model, source = model_of(spread=2.0), np.tile([3, 4], (30, 1))
    found = lists(model.generate(source, 8, seed=1))
    assert len(set(map(tuple, found))) > 10
    assert lists(model.generate(source, 8, seed=1, temperature=1.0, batch_size=7)) == found
    assert lists(model.generate(source, 8, seed=2)) != found
    assert lists(model.generate(source, 8, temperature=1.0)) != lists(model.generate(source, 8, temperature=1.0))
    for how in ({"top_k": 1, "seed": 5}, {"top_p": 1e-9}, {"temperature": 1e-6}):
        assert lists(model.generate(source, 8, **how)) == lists(model.generate(source, 8))
    assert lists(model.generate(source, 8, top_k=99, top_p=1.0, seed=1)) == found


def test_of_equals_the_first_are_taken():
    weights = np.array([0.2, 0.1, 0.2, 0.2, 0.3])
    assert decoding.largest(weights, 3).tolist() == [0, 2, 4]
    assert decoding.largest(np.full(4, 0.25), 1).tolist() == [0]
    assert decoding.largest(weights, 5).tolist() == [0, 1, 2, 3, 4]
    assert decoding.nucleus(weights, 0.6).tolist() == [0, 2, 4]
    assert decoding.nucleus(weights, 1e-9).tolist() == [4]


@pytest.mark.parametrize("size", [1, 5, 128, 129, 3000])
def test_a_number_means_the_place_where_the_sum_exceeds_it(size, rng):
    weights = rng.integers(0, 5, size).astype("float32")  # whose sums are exact
    weights[-1] = weights[0] = 1
    sums, numbers = weights.cumsum(), np.linspace(0, 1, 200, endpoint=False)
    for u in numbers:
        found = decoding.drawn(np.array([weights, weights[::-1]]), np.array([u, 0]))
        assert found.tolist() == [np.searchsorted(sums, u * sums[-1], side="right"), 0]
    weights[1:] *= np.arange(1, size) != size - 1
    assert decoding.drawn(weights[None], np.ones(1)) == np.flatnonzero(weights)[-1]  # what rounding may come to


@pytest.mark.parametrize("size", [5, 256, 257, 3000])
def test_a_nucleus_is_what_a_whole_sort_finds(size, rng):
    for sharpness in (0.1, 3.0):
        weights = np.exp(sharpness * rng.standard_normal(size))
        for share in (0.1, 0.7, 0.999):
            np.testing.assert_array_equal(decoding.nucleus(weights, share), np.flatnonzero(nucleus(weights, share)))


@pytest.mark.parametrize("count", [1, 3, 16, 17, 40])
def test_the_largest_of_each_row(count, rng):
    p = rng.integers(0, 9, (6, 30)) / 9
    rows, places, values = decoding._largest_of_each(p.copy(), count)
    np.testing.assert_array_equal(values, p[rows, places])
    for row in range(6):
        expected = [i for i in np.argsort(-p[row], kind="stable")[:count] if p[row, i] > 0]
        assert set(expected) <= set(places[rows == row])
        assert p[row, places[rows == row]].min() >= p[row, expected].min()


# -- what else


def test_logits_are_as_good_as_probabilities(rng):
    one, two = model_of(spread=2.0), model_of(spread=2.0, activation="linear")
    source = sources(rng)
    for how in ({}, {"beam": 4}, {"seed": 3}):
        (a, scores), (b, others) = (m.generate(source, 6, return_scores=True, **how) for m in (one, two))
        assert lists(a) == lists(b)
        np.testing.assert_allclose(scores, others, rtol=1e-5)


def test_start_is_never_said_and_end_ends(rng):
    model = model_of(spread=1.0)
    weights = model.get_weights()
    weights[-1][START] = 20.0
    model.set_weights(weights)
    for how in ({}, {"beam": 4}, {"seed": 3}):
        found = model.generate(sources(rng), 6, **how)
        assert not any(START in ids or END in ids for ids in found)
    weights[-1][START] = 1e4  # nothing else has any probability
    model.set_weights(weights)
    for how in ({}, {"beam": 4}, {"seed": 3}, {"temperature": 0.5, "top_k": 2, "top_p": 0.5}):
        assert lists(model.generate([[3], [4, 5]], 6, **how)) == [[], []]
    weights[-1][[START, END]] = 20.0, 40.0
    model.set_weights(weights)
    assert all(len(ids) == 0 for ids in model.generate(sources(rng), 6))
    same = cgru.Seq2Seq(model.encoder, model.decoder, start=2, end=2)
    assert all(len(ids) == 0 for ids in same.generate(sources(rng), 6))


def test_no_sources_empty_sources_and_features():
    model = model_of()
    assert model.generate([], 5) == []
    assert model.generate(np.ones((0, 4), int), 5) == []
    scores = model.generate([], 5, return_scores=True)[1]
    assert scores.shape == (0,)
    assert len(model.generate(np.ones((2, 4), int), 5, lengths=[0, 4])) == 2
    read = cgru.Seq2Seq(cgru.Sequential([cgru.GRU(6)]), model.decoder).build(3)
    x = np.random.default_rng(0).standard_normal((2, 4, 3))
    assert lists(read.generate(x, 5)) == lists(read.generate(list(x), 5))
    mask = np.array([[True, False, True, False], [True] * 4])
    assert lists(read.generate(x, 5, mask=mask))[0] == lists(read.generate(x[:1, ::2], 5))[0]


@pytest.mark.parametrize("attention", [None, "dot", "general", "additive"])
def test_empty_sources_among_others(attention, rng):
    model = model_of(attention)
    given = [np.arange(0), rng.integers(0, V, 4), np.arange(0)]
    padded = np.full((3, 6), -1)
    padded[1, :4] = given[1]
    for beam in (1, 3):
        found, scores = model.generate(given, 7, beam, return_scores=True)
        again, same = model.generate(padded, 7, beam, lengths=[0, 4, 0], return_scores=True)
        assert lists(found) == lists(again) and scores.tobytes() == same.tobytes()
        assert lists(found) == [lists(model.generate([source], 7, beam))[0] for source in given]
        assert lists(model.generate([[], []], 7, beam)) == [lists(found)[0]] * 2


def test_rows_that_ended_leave_the_batch(rng, monkeypatch):
    model, seen = model_of(), []
    gru = model.decoder.layers[1]
    whole = type(gru).step
    monkeypatch.setattr(type(gru), "step", lambda self, x, h: (seen.append(len(x)), whole(self, x, h))[1])
    found = model.generate(sources(rng), 8)
    expected = [sum(len(ids) >= step for ids in found) for step in range(8)]
    assert seen == [n for n in expected if n] and seen[-1] < seen[0]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"beam": 0}, "beam: expected"),
        ({"beam": -1}, "beam"),
        ({"max_length": 0}, "max_length"),
        ({"temperature": 0}, "temperature: expected a finite number above 0, got 0"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": np.inf}, "temperature"),
        ({"temperature": np.nan}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p: expected a number above 0 and at most 1, got 0.0"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": np.nan}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"beam": 2, "temperature": 1.0}, "beam: expected 1 beside temperature"),
        ({"beam": 2, "seed": 1}, "beam: expected 1 beside temperature"),
        ({"length_penalty": -0.1}, "length_penalty"),
        ({"length_penalty": np.nan}, "length_penalty"),
        ({"length_penalty": 1e6, "beam": 2}, r"length_penalty: expected max_length\*\*length_penalty to be finite"),
        ({"batch_size": 0}, "batch_size"),
        ({"lengths": [1, 2]}, "lengths, mask: a ragged list"),
    ],
)
def test_what_is_out_of_range(how, words):
    with pytest.raises(ValueError, match=words):
        model_of().generate([[3], [4, 5]], **how)


def test_a_model_without_parameters_and_other_types():
    model = model_of()
    fresh = cgru.Seq2Seq.from_config(model.get_config())
    with pytest.raises(ValueError, match="generate: expected a model with parameters, got none"):
        fresh.generate([[3]])
    for how in ({"beam": 1.5}, {"temperature": "hot"}, {"top_k": 2.0}, {"top_p": "all"}, {"return_scores": 1}):
        with pytest.raises(TypeError, match=next(iter(how))):
            model.generate([[3]], **how)
    with pytest.raises(ValueError, match="source: expected ids"):
        model.generate([[V]])


@pytest.mark.parametrize("how", [{}, {"beam": 3}, {"temperature": 1.5}])
def test_outputs_that_are_not_finite_are_refused(how):
    model = model_of()
    weights = model.get_weights()
    weights[0][4] = np.nan
    model.set_weights(weights)
    with pytest.raises(FloatingPointError, match="row 2 of source"):
        model.generate([[3], [5, 6], [4]], **how)
    assert len(model.generate([[3], [5, 6]], **how)) == 2


def test_a_plan_of_every_length(rng):
    model, source = model_of(), sources(rng, 5)
    whole = lists(model.generate(source, 12))
    for most in range(1, 12):
        assert lists(model.generate(source, most)) == [ids[:most] for ids in whole]
    assert list(itertools.chain(*whole))
