"""docs/examples/named_entities.py: spans, scores, words as numbers, gradients of the model's four parts."""

import itertools

import checks
import examples
import numpy as np
import pytest


@pytest.fixture(scope="module")
def entities():
    return examples.load("named_entities")


# -- spans


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", set()),
        ("O O", set()),
        ("B-person", {("person", 0, 1)}),
        ("O B-person I-person O", {("person", 1, 3)}),
        ("B-person B-person I-person", {("person", 0, 1), ("person", 1, 3)}),
        ("B-person I-group I-group", {("person", 0, 1), ("group", 1, 3)}),
        ("I-group O I-group", {("group", 0, 1), ("group", 2, 3)}),  # no B before: it begins all the same
        ("B-creative-work I-creative-work", {("creative-work", 0, 2)}),
    ],
)
def test_spans(entities, tags, expected):
    assert entities.spans(tags.split()) == expected


def test_scores_of_a_case_counted_by_hand(entities):
    true = ["B-person I-person O B-group".split(), "B-location O B-person".split()]
    found = ["B-person I-person O B-person".split(), "B-location I-location B-person".split()]
    # Right: two persons. A group is taken for a person, a location is one word too long.
    counts = entities.counts_of(true, found)
    kinds = [*entities.TYPES, "nothing"]
    expected = {("person", "person"): 2, ("group", "person"): 1, ("location", "nothing"): 1, ("nothing", "location"): 1}
    assert {(kinds[i], kinds[j]): counts[i, j] for i, j in zip(*counts.nonzero(), strict=True)} == expected
    precision, recall, f1 = entities.scores_of(counts)
    person = kinds.index("person")
    assert (precision[person], recall[person], f1[person]) == (pytest.approx(200 / 3), 100, 80)
    assert (precision[-1], recall[-1], f1[-1]) == (50, 50, 50)
    assert not entities.scores_of(np.zeros((7, 7), int))[2].any()


def test_the_best_allowed_tags_are_those_of_all_sequences(entities, rng):
    tags = entities.TAGS
    for steps in (1, 2, 3):
        p = rng.dirichlet(np.full(len(tags), 0.3), steps)
        allowed = [
            way for way in itertools.product(range(len(tags)), repeat=steps)
            if all(tags[b][0] != "I" or tags[a][2:] == tags[b][2:] for a, b in itertools.pairwise((0, *way)))
        ]  # fmt: skip
        best = max(allowed, key=lambda way: sum(np.log(p[i, tag]) for i, tag in enumerate(way)))
        assert entities.best_tags(p) == [tags[i] for i in best]


# -- files and words


def test_files_are_read_and_wrong_lines_named(entities, tmp_path):
    path = tmp_path / "wnut17_train.conll"
    path.write_text("\t\nA\tB-person\tmore\nb c\u2028\tI-person\n\t\n\n.\tO", encoding="utf-8")
    assert entities.read_conll(path) == [(["A", "b c\u2028"], ["B-person", "I-person"]), (["."], ["O"])]
    with pytest.raises(SystemExit, match=r"without wnut17_dev.conll, wnut17_test.conll; the texts are in"):
        entities.read_parts(tmp_path)
    for part in ("dev", "test"):
        (tmp_path / f"wnut17_{part}.conll").write_text("A\tB-animal\n")
    with pytest.raises(SystemExit, match=r"dev.conll, line 1: expected a word, a tab and a tag like B-person, got 'A"):
        entities.read_parts(tmp_path)


def test_the_sample(entities):
    parts = entities.read_parts(None)
    assert [len(part) for part in parts] == [140, 30, 30]
    tags = [tag for part in parts for _, tags in part for tag in tags]
    assert set(tags) == set(entities.TAGS)
    assert len({" ".join(words) for part in parts for words, _ in part}) == 200


def test_words_shapes_and_what_is_not_known(entities):
    assert [entities.normalised(word) for word in ("@Joe", "@", "HTTP://x.y", "Ab12")] == ["@", "@", "http", "ab00"]
    shapes = {"Paris": "Xx", "4th": "dx", "iPhone6": "xXxd", "...": ".", "U.S.": "X.X."}
    assert {word: entities.shape(word) for word in shapes} == shapes
    lexicon = entities.Lexicon([(["Aa", "aa", "b", "Aaa"], ["O"] * 4)], least=2)
    assert lexicon.words == {"aa": 1, "aaa": 2, "b": 3} and lexicon.counts.tolist() == [0, 2, 1, 1]
    assert lexicon.shapes == {"Xx": 1, "x": 2} and lexicon.characters == {"A": 1, "a": 2}
    corpus = entities.Corpus(lexicon, [(["Aa", "new", "Aa"], ["B-group", "O", "O"]), (["1"], ["O"])])
    assert [ids.tolist() for ids in corpus.sentences] == [[0, 1, 0], [2]]
    assert corpus.words.tolist() == [1, 0, 0] and corpus.shapes.tolist() == [1, 2, 0]
    assert [ids.tolist() for ids in corpus.spellings] == [[3, 1, 2, 3], [3, 0, 0, 0, 3], [3, 0, 3]]
    assert [ids.tolist() for ids in corpus.labels] == [[5, 0, 0], [0]]


# -- the model


@pytest.fixture
def small(entities):
    sentences = entities.read_parts(None)[0][:3]
    lexicon = entities.Lexicon(sentences, least=1)
    sizes = {"word": 3, "shape": 2, "character": 3, "character_units": 2, "units": 4, "epochs": 2}
    off = dict.fromkeys(("dropout", "recurrent_dropout", "spelling_dropout", "unknown_once", "unknown"), 0.0)
    return entities.Tagger(lexicon, entities.SMALL | sizes | off), entities.Corpus(lexicon, sentences)


def test_the_gradients_of_all_parts(small, rng):
    tagger, corpus = small
    y, valid, tape = tagger.forward(corpus, [2, 0], training=True)
    dy = rng.standard_normal(y.shape).astype("float32")
    gradients = tagger.backward(dy, tape)
    for part, found in zip(tagger.parts, gradients, strict=True):
        before = part.get_weights()
        for i, name in enumerate(part.parameters):
            direction = rng.standard_normal(before[i].shape).astype("float32")
            values = []
            for sign in (1, -1):
                moved = before[i] + np.float32(1e-2 * sign) * direction
                part.set_weights([*before[:i], moved, *before[i + 1 :]])
                values.append((tagger.forward(corpus, [2, 0])[0][valid].astype(float) * dy[valid]).sum())
            part.set_weights(before)
            assert (values[0] - values[1]) / 2e-2 == pytest.approx((found[name] * direction).sum(), rel=2e-2, abs=2e-3)


def test_predictions_do_not_depend_on_the_batch(small):
    tagger, corpus = small
    assert [len(tags) for tags in tagger.predict(corpus)] == [len(tags) for tags in corpus.tags]
    assert tagger.predict(corpus) == tagger.predict(corpus, batch_size=1)
    whole, valid, _ = tagger.forward(corpus, [0, 1, 2])
    for i in range(3):
        checks.assert_same_arrays(tagger.forward(corpus, [i])[0][0], whole[i, valid[i]])


def test_words_are_hidden_in_training_and_the_best_epoch_stays(entities, small, capsys):
    tagger, corpus = small
    tagger.settings = tagger.settings | {"unknown_once": 1.0, "unknown": 1.0}
    checks.assert_same_arrays(
        tagger.forward(corpus, [0], training=True)[2][0][0].content[0], np.zeros(len(set(corpus.sentences[0])), np.intp)
    )
    best = entities.train(tagger, corpus, corpus, power=0.3, name="here")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("here, epoch 1/2: loss")
    counts = entities.counts_of(corpus.tags, tagger.predict(corpus))
    assert entities.scores_of(counts)[2][-1] == best


def test_weights_of_tags(entities):
    labels = [np.array([0, 0, 0, 1]), np.array([0, 0, 2, 0])]
    assert (entities.weights_of(labels, 0.0) == 1).all()
    balanced = entities.weights_of(labels, 1.0)
    assert balanced[:3] == pytest.approx([8 / 13 / 6, 8 / 13, 8 / 13])
    assert entities.weights_of(labels, 0.5) == pytest.approx(np.sqrt(balanced))
