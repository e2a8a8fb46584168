"""Random numbers from counters: the published test vectors, the compiled form against the plain one, and that they are
as random as they should be. Seeds are fixed: no test fails by chance."""

import hashlib
import itertools
import threading

import checks
import children
import numpy as np
import pytest
import scipy.stats

import cgru
from cgru import kernels, masks

KEY = masks.Key(0x0123456789ABCDEF, update=7, layer=2)
# Of Random123, the authors' own library (tests/kat_vectors): counter, key, block.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def plain(key, shape, use="elements", cell=0, direction=0, steps=None):
    """Words of `shape` by the plain form."""
    examples = np.arange(shape[0]) if key.examples is None else np.asarray(key.examples)
    index = list(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"))
    example, unit = examples[index[0]].astype(np.uint64), index[-1].astype(np.uint64)
    step = np.zeros_like(unit)
    if len(shape) == 3:
        step += np.uint64(1 + key.step) + (index[1] if steps is None else steps[:, :, None]).astype(np.uint64)
    block = masks.philox(
        (unit // 4, step, example & 0xFFFFFFFF, example >> 32), masks.subkey(key, use, cell, direction)
    )
    return np.choose((unit % 4).astype(np.intp), block).astype(np.uint32)


def words(*args, **kwargs):
    return (masks.uniform(*args, **kwargs) * 2**32).astype(np.uint32)


@pytest.mark.parametrize(("counter", "key", "block"), KNOWN)
def test_published_vectors(counter, key, block):
    assert masks.philox(counter, key) == block
    arrays = masks.philox(tuple(np.full(3, word, np.uint64) for word in counter), key)
    assert [set(array.tolist()) for array in arrays] == [{word} for word in block]


@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 4), (5, 7), (2, 64), (3, 129), (1, 1, 1), (2, 3, 5), (4, 9, 1), (3, 2, 67), (0, 3), (2, 0, 3)]
)
@pytest.mark.parametrize("use", ["elements", "zoneout"])
def test_the_compiled_form_is_the_plain_one(shape, use):
    examples = np.array([5, 2**40 + 3, 0, 2**63 - 1, 17])[: shape[0]]
    for key in (KEY, KEY._replace(examples=examples, step=11, seed=2**64 - 1, update=2**63)):
        expected = plain(key, shape, use, cell=3, direction=1)
        checks.assert_same_arrays(words(key, shape, use, cell=3, direction=1), expected)
        for rate in (0.0, 0.3, 1 - 2.0**-40):
            kept = expected >= masks.threshold(rate)
            checks.assert_same_arrays(masks.keep(key, shape, rate, use, 3, 1), kept)
            if rate > 0.9:
                continue
            for dtype in map(np.dtype, ("float32", "float64", "float16")):
                expected_scales = kept * dtype.type(1 / (1 - rate))
                checks.assert_same_arrays(masks.scales(key, shape, rate, dtype, use, 3, 1), expected_scales)


def test_steps_may_be_named():
    steps = np.array([[3, 0, 9], [1, 1, 2]])
    key = KEY._replace(step=4)
    checks.assert_same_arrays(words(key, (2, 3, 10), steps=steps), plain(key, (2, 3, 10), steps=steps))
    mask = np.array([[True, False, True], [False, True, True]])
    valid = masks.keep(key, (2, 3, 10), 0.5, steps=masks.steps_of(mask))[mask].reshape(2, 2, 10)
    checks.assert_same_arrays(valid, masks.keep(key, (2, 2, 10), 0.5))
    assert masks.steps_of(None) is None


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads):
    shape = (70, 23, 61)
    with cgru.limit_threads(threads):
        checks.assert_same_arrays(masks.keep(KEY, shape, 0.4), plain(KEY, shape) >= masks.threshold(0.4))


def test_python_threads_may_draw_at_once():
    results = [None] * 4

    def draw(i):
        results[i] = [masks.scales(KEY._replace(update=i), (20, 30, 40), 0.5, np.dtype("float32")) for _ in range(5)]

    workers = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i, result in enumerate(results):
        alone = masks.scales(KEY._replace(update=i), (20, 30, 40), 0.5, np.dtype("float32"))
        for array in result:
            checks.assert_same_arrays(array, alone)


def test_rows_depend_on_their_example_alone():
    whole = words(KEY, (9, 4, 13))
    order = np.array([7, 0, 8, 3])
    checks.assert_same_arrays(words(KEY._replace(examples=order), (4, 4, 13)), whole[order])
    checks.assert_same_arrays(words(KEY, (9, 2, 13)), whole[:, :2])  # padding
    checks.assert_same_arrays(words(KEY._replace(step=2), (9, 2, 13)), whole[:, 2:])  # a piece of the sequence
    checks.assert_same_arrays(words(KEY, (9, 4, 6)), whole[:, :, :6])


def test_a_wrong_key_is_refused():
    for change, message in [
        ({"seed": -1}, r"^key: expected a seed from 0 to 2\^64 - 1, got -1"),
        ({"update": 2**64}, r"^key: expected a update from 0 to 2\^64 - 1"),
        ({"layer": 2**32}, r"^key: expected a layer from 0 to 2\^32 - 1"),
        ({"examples": np.arange(3)}, r"^key: expected an index for each of 2 examples, got shape \(3,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            masks.keep(KEY._replace(**change), (2, 3), 0.5)


def test_seeds_of_any_size():
    assert 0 <= masks.seed_of(2**200) < 2**64 and masks.seed_of(3) == masks.seed_of(np.random.SeedSequence(3))
    assert masks.seed_of(3) != masks.seed_of(4) and masks.seed_of(None) != masks.seed_of(None)


# -- statistics


def samples():
    """name -> about 10^5 numbers (counts, 64), along whose first axis one part of the counter runs."""
    n = 1600
    yield "units", masks.uniform(KEY, (1, n * 64)).reshape(n, 64)
    yield "steps", masks.uniform(KEY, (1, n, 64))[0]
    yield "examples", masks.uniform(KEY, (n, 64))
    yield "updates", np.concatenate([masks.uniform(KEY._replace(update=i), (1, 64)) for i in range(n)])
    yield "layers", np.concatenate([masks.uniform(KEY._replace(layer=i), (1, 64)) for i in range(n)])
    yield "cells", np.concatenate([masks.uniform(KEY, (1, 64), cell=i) for i in range(n)])
    yield "seeds", np.concatenate([masks.uniform(masks.Key(i), (1, 64)) for i in range(n)])


def test_each_part_of_the_counter_gives_uniform_and_independent_numbers():
    """Means, bins and correlations of neighbours within four or five of their standard deviations."""
    for name, u in samples():
        assert u.min() >= 0 and u.max() < 1
        n = u.size
        assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / n), name
        assert scipy.stats.chisquare(np.histogram(u, 256, (0, 1))[0]).pvalue > 1e-4, name
        low_bits = (u * 2**32).astype(np.uint64) & 255
        assert scipy.stats.chisquare(np.bincount(low_bits.ravel().astype(int), minlength=256)).pvalue > 1e-4, name
        for lag, axis in itertools.product((1, 2, 3, 4, 8, 16), (0, 1)):
            first, second = np.delete(u, np.s_[-lag:], axis), np.delete(u, np.s_[:lag], axis)
            correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
            assert abs(correlation) < 5 / np.sqrt(first.size), (name, lag, axis)
        pairs = np.histogram2d(u[:-1].ravel(), u[1:].ravel(), 16, ((0, 1), (0, 1)))[0]
        assert scipy.stats.chisquare(pairs.ravel()).pvalue > 1e-4, name


def test_uses_directions_and_cells_share_no_numbers():
    arrays = {
        (use, cell, direction): words(KEY, (3, 20), use, cell, direction)
        for use, cell, direction in itertools.product(masks.USES, (0, 1), (0, 1))
    }
    arrays["a step"] = words(KEY, (3, 1, 20))
    arrays["the next"] = words(KEY._replace(step=1), (3, 1, 20))
    for name in ("seed", "update", "layer"):
        arrays[name] = words(KEY._replace(**{name: getattr(KEY, name) + 1}), (3, 20))
    seen = np.concatenate([array.ravel() for array in arrays.values()])
    assert len(np.unique(seen)) >= seen.size - 2  # of some 1500 words of 2^32


@pytest.mark.parametrize("rate", [0.0, 1e-3, 0.25, 0.5, 0.999])
def test_the_rate_is_the_share_that_is_dropped(rate):
    kept = masks.keep(KEY, (50, 40, 50), rate)
    n = kept.size
    assert abs((~kept).mean() - rate) <= 4 * np.sqrt(rate * (1 - rate) / n)
    if rate in (0.25, 0.5):  # of eight neighbours a binomial number is kept
        counts = np.bincount(kept.reshape(-1, 8).sum(axis=1), minlength=9)
        counts[1] += counts[0]  # of which few are expected
        expected = scipy.stats.binom.pmf(np.arange(9), 8, 1 - rate) * n / 8
        expected[1] += expected[0]
        assert scipy.stats.chisquare(counts[1:], expected[1:]).pvalue > 1e-4


@pytest.mark.parametrize("isa", kernels.available)
def test_every_build_gives_the_same_bits(isa):
    kept = plain(KEY, (5, 7, 67)) >= masks.threshold(0.3)
    digest = hashlib.sha256(kept * np.float32(1 / (1 - 0.3))).hexdigest()
    code = f"""if True:
        import hashlib
        import numpy as np
        from cgru import kernels, masks
        key = masks.Key({KEY.seed}, update={KEY.update}, layer={KEY.layer})
        drawn = masks.scales(key, (5, 7, 67), 0.3, np.dtype("float32"))
        print(kernels.isa, hashlib.sha256(drawn).hexdigest())
    """
    assert children.printed("-c", code, env=children.environment(CGRU_ISA=isa)) == f"{isa} {digest}"
