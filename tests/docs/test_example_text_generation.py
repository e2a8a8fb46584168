"""docs/examples/text_generation.py: parts without leaks, streams, bits and temperatures."""

import examples
import numpy as np
import pytest


@pytest.fixture(scope="module")
def generation():
    return examples.load("text_generation")


def test_repeated_paragraphs_are_left_out(generation):
    long = "a paragraph of more than forty characters in all"
    texts = [f"Title\n\n{long}\n\nend", f"Other\n\n{long.replace(' ', chr(10), 3)}\n\nend\n\n{long} and more"]
    assert generation.without_repetitions(texts) == f"Title\n\n{long}\n\nend\n\nOther\n\nend\n\n{long} and more"


def test_parts_follow_each_other(generation):
    text = "".join(chr(97 + i % 26) for i in range(103))
    parts = generation.split(text)
    assert "".join(parts) == text and [len(part) for part in parts] == [82, 10, 11]
    characters = generation.Characters("cab")
    ids = characters.ids("abcx")
    assert ids.tolist() == [1, 2, 3, 0] and characters.text(ids) == "abc\ufffd" and characters.size == 4


def test_streams_say_what_comes_next(generation):
    x, y = generation.streams(np.arange(23), 4)
    assert x.shape == y.shape == (4, 5) and (y == x + 1).all()
    assert (x.ravel() == np.arange(20)).all()


def test_the_drawn_text_has_its_entropy(generation):
    text = generation.drawn_text(60_000, np.random.default_rng(0))
    pairs = np.array([ord(c) for c in text])
    codes = {}
    for a, b, c in zip(pairs[:-2], pairs[1:-1], pairs[2:], strict=True):
        codes.setdefault((a, b), []).append(c)
    bits = 0.0
    for following in codes.values():
        counts = np.unique(following, return_counts=True)[1]
        assert len(counts) <= 4
        bits -= (counts * np.log2(counts / counts.sum())).sum()
    assert generation.entropy_of_drawn() == 1.75 and abs(bits / len(text) - 1.75) < 0.02


def test_bits_learning_and_temperatures(generation):
    text = "abcd" * 300
    characters = generation.Characters(text)
    ids = characters.ids(text)
    model = generation.network(characters, generation.SMALL)
    rows = generation.train(model, ids, ids[:200], generation.SMALL._replace(streams=8, chunk=10, epochs=3))
    costs = generation.bits_of(model, ids[:200])
    assert costs.shape == (199,) and np.isclose(costs.mean(), min(dev for _, dev in rows), rtol=1e-4)
    assert costs.mean() < 0.1 < 0.5 < rows[0][0]
    said = generation.write(model, ids[:6], 12, 0.2, np.random.default_rng(0))
    assert characters.text(said) == "cdabcdabcdab"
    hot = generation.write(model, ids[:6], 60, 50.0, np.random.default_rng(0))
    assert len(set(characters.text(hot))) == 4 and characters.text(hot)[:12] != "cdabcdabcdab" and hot.all()


def test_what_is_no_text_is_refused(generation, tmp_path):
    (tmp_path / "data").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ValueError, match="argument --data: expected a file of text in UTF-8, got"):
        generation.read(tmp_path / "data")
    with pytest.raises(ValueError, match="argument --data: expected a file of text"):
        generation.read(tmp_path)


def test_packers_need_less_for_what_they_know(generation):
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("abcdefgh"), 5000))
    known, new = generation.packed_bits(text, text[:2000]), generation.packed_bits(text, text[::-1][:2000])
    assert known["xz"] < 0.5 and 2.5 < new["xz"] < 4 and 2.5 < new["bzip2"] < 4
