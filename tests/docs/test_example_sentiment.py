"""docs/examples/sentiment.py: its parts, on sentences whose answer is known."""

import examples
import numpy as np
import pytest


@pytest.fixture(scope="module")
def sentiment():
    return examples.load("sentiment")


def says(words):
    """The rule of the made-up sentences: the clauses of praise, or of negated blame, are more than the others."""
    praise = "good great moving funny clever fresh warm brilliant charming honest".split()
    clauses = [clause.split() for clause in " ".join(words).split("the ")[1:]]
    assert [clause[1] for clause in clauses] == ["is"] * 3
    return int(sum((clause[-1] in praise) != (clause[2] in ("not", "never", "hardly")) for clause in clauses) > 1)


def test_made_up_sentences_follow_their_rule_but_for_one_in_ten(sentiment):
    texts, labels, rule = sentiment.made_up(2000)
    assert [says(words) for words in texts] == rule.tolist()
    assert 0.88 < np.mean(rule == labels) < 0.92 and 0.4 < labels.mean() < 0.6
    again, others, _ = sentiment.made_up(2000)
    assert again == texts and np.array_equal(others, labels)
    _, labels, rule = sentiment.made_up(50, noise=0.0)
    assert np.array_equal(labels, rule)


def test_folds_are_even_for_each_label(sentiment):
    labels = np.repeat([1, 0], [53, 40])
    number = sentiment.folds(labels, 10)
    for label, allowed in ((0, {4}), (1, {5, 6})):
        assert set(np.bincount(number[labels == label], minlength=10)) <= allowed
    assert np.array_equal(number, sentiment.folds(labels, 10))
    assert not np.array_equal(number, sentiment.folds(labels, 10, seed=1))


def test_a_vocabulary_knows_nothing_of_what_is_tested(sentiment):
    labels = np.arange(100) % 2
    texts = [["all", "all", f"own{i}", f"own{i}"] for i in range(100)]
    tested = sentiment.folds(labels, 10) == 3
    vocabulary, train, develop, test = sentiment.parts_of(texts, labels, tested, {"least_count": 2})
    assert [len(part.y) for part in (train, develop, test)] == [80, 10, 10]
    assert vocabulary.size == 1 + len(vocabulary.words) == 1 + 81
    assert {f"own{i}" for i in np.flatnonzero(tested)}.isdisjoint(vocabulary.words)
    assert all(0 not in ids for ids in train.x)
    for ids in (*develop.x, *test.x):
        assert ids.tolist() == [vocabulary.words.index("all") + 1] * 2 + [sentiment.UNKNOWN] * 2
    for part in (train, develop, test):
        assert part.y.mean() == 0.5


def test_rare_words_are_unknown(sentiment):
    vocabulary = sentiment.Vocabulary([["a", "b"], ["b", "c", "c"]], least=2)
    assert [ids.tolist() for ids in vocabulary.ids([["a", "b", "c", "d"], []])] == [[0, 1, 2, 0], []]


def test_the_files_are_read(sentiment, tmp_path):
    with pytest.raises(SystemExit, match=r"expected a folder with rt-polarity.neg and rt-polarity.pos.*without rt-pol"):
        sentiment.read(tmp_path)
    (tmp_path / "rt-polarity.neg").write_bytes("too \xe9pic \x85 .\n\n".encode("latin-1"))
    with pytest.raises(SystemExit, match=r"without rt-polarity.pos;.*CNN_sentence"):
        sentiment.read(tmp_path)
    (tmp_path / "rt-polarity.pos").write_bytes(b"good .\nfine\n")
    texts, labels = sentiment.read(tmp_path)
    assert texts == [["too", "\xe9pic", "."], ["good", "."], ["fine"]] and labels.tolist() == [0, 1, 1]


def test_mean_and_standard_error(sentiment):
    assert sentiment.mean_and_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / np.sqrt(3)))


def test_folds_are_validated_and_curves_are_of_what_is_asked(sentiment, capsys):
    texts, labels, _ = sentiment.made_up(120)
    settings = sentiment.SMALL | {"embedding": 4, "units": 4, "epochs": 2}
    found = list(sentiment.cross_validate(texts, labels, settings, count=2))
    assert len(found) == 2
    for accuracy, history in found:
        assert 0 <= accuracy <= 1 and len(history.epochs) == 2
    curves = sentiment.overfitting(texts, labels, settings, rates=(0.0, 0.5), count=2)
    assert "dropout 0.5" in capsys.readouterr().out
    for history in curves.values():
        assert {name: len(row) for name, row in history.items()} == dict.fromkeys(history, 2)
        assert {"loss", "val_loss", "accuracy", "val_accuracy"} <= history.keys()
