"""cgru.plot: what is drawn, how it is labelled, and that it can be read."""

import itertools
import sys

import numpy as np
import pytest

import cgru
from cgru import plot

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402


@pytest.fixture(autouse=True)
def figures_are_closed():
    yield
    pyplot.close("all")


@pytest.fixture
def found(rng):
    return cgru.GRU(6, input_size=3, seed=0).gates(rng.standard_normal((2, 9, 3)), lengths=[9, 4])


def lightness(color):
    return np.dot(to_rgb(color), [0.2126, 0.7152, 0.0722])


def labels(axes):
    return axes.get_xlabel(), axes.get_ylabel()


def image(axes):
    (found,) = axes.images
    return found


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def assert_legible(figure):
    """Nothing that is written is cut off by the edge, and no two tick labels of an axis overlap."""
    figure.canvas.draw()
    renderer, width, height = figure.canvas.get_renderer(), *figure.canvas.get_width_height()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            shown = [t for t in axis.get_ticklabels() if t.get_visible() and t.get_text()]
            low, high = sorted(axis.get_view_interval())
            places = axis.get_ticklocs()
            shown = [t for t, place in zip(shown, places, strict=False) if low <= place <= high]
            boxes = [t.get_window_extent(renderer) for t in shown]
            for box, following in itertools.pairwise(boxes):
                assert not box.overlaps(following), (axis.axis_name, [t.get_text() for t in shown])
            for text in (*shown, axis.label, axes.title):
                box = text.get_window_extent(renderer)
                if text.get_text():
                    assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text


# -- learning curves


def test_learning_curves_of_a_history(rng):
    model = cgru.Sequential([cgru.GRU(3), cgru.Dense(2, activation="softmax")], seed=0)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = rng.standard_normal((8, 4, 2)), [0, 1] * 4
    history = model.fit(x, y, epochs=3, validation_data=(x, y), verbose=0)
    panels = plot.learning_curves(history)
    assert [labels(axes) for axes in panels] == [("epoch", "loss"), ("epoch", "accuracy")]
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        training, validation = axes.lines
        assert training.get_xdata().tolist() == [1, 2, 3]
        assert training.get_ydata().tolist() == history.history[name]
        assert validation.get_ydata().tolist() == history.history[f"val_{name}"]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation"]
        # told apart without colours: by their lightness and by their lines
        assert abs(lightness(training.get_color()) - lightness(validation.get_color())) > 0.2
        assert training.get_linestyle() != validation.get_linestyle()
    assert_legible(panels[0].figure)


@pytest.mark.parametrize("epochs", [1, 25])
def test_learning_curves_count_epochs_in_whole_numbers(epochs):
    (axes,) = plot.learning_curves({"loss": np.linspace(1, 0.1, epochs)})
    axes.figure.canvas.draw()
    assert all(place == int(place) for place in axes.get_xticks()) and len(axes.get_xticks()) <= 12
    assert_legible(axes.figure)


def test_learning_curves_of_some_figures_on_given_axes():
    curves = {"loss": [2, 1], "mse": [4, 3], "val_mse": [6, 5], "macro_f1": [0, 1]}
    _, axes = pyplot.subplots()
    (panel,) = plot.learning_curves(curves, "mse", ax=axes)
    assert panel is axes and labels(axes) == ("epoch", "mean squared error")
    assert [line.get_ydata().tolist() for line in axes.lines] == [[4, 3], [6, 5]]
    _, both = pyplot.subplots(2)
    panels = plot.learning_curves(curves, ["macro_f1", "loss"], ax=both)
    assert panels == list(both) and [axes.get_ylabel() for axes in panels] == ["macro F1", "loss"]
    assert len(plot.learning_curves(curves)) == 3


def test_learning_curves_go_on_where_the_history_does():
    class History:
        epochs, history = [4, 5], {"loss": [2.0, 1.0]}

    (axes,) = plot.learning_curves(History())
    assert axes.lines[0].get_xdata().tolist() == [5, 6]


# -- confusion


def test_confusion_has_a_number_in_every_cell_that_counts():
    axes = plot.confusion([[50, 3, 0], [10, 20, 0], [0, 0, 7]], ["healthy", "ill", "who knows"])
    assert labels(axes) == ("predicted class", "true class") and axes.get_title() == "77 of 90 right"
    shown = {text.get_position(): text.get_text() for text in axes.texts}  # (column, row)
    assert shown == {(0, 0): "50", (1, 0): "3", (0, 1): "10", (1, 1): "20", (2, 2): "7"}
    for text in axes.texts:
        column, row = text.get_position()
        cell = image(axes).to_rgba(image(axes).get_array())[row, column, :3]
        assert abs(lightness(text.get_color()) - lightness(cell)) > 0.4, text
    assert ticks(axes.xaxis) == ticks(axes.yaxis) == ["healthy", "ill", "who knows"]
    assert_legible(axes.figure)


@pytest.mark.parametrize("classes", [1, 20, 120])
def test_confusion_of_many_classes_can_be_read(rng, classes):
    names = [f"phoneme {i}" for i in range(classes)]
    axes = plot.confusion(rng.integers(0, 100, (classes, classes)), names, what="phoneme")
    assert labels(axes) == ("predicted phoneme", "true phoneme")
    assert len(ticks(axes.xaxis)) <= 30
    assert bool(axes.texts) == (classes <= 20)
    if classes > 20:
        assert axes.figure.axes[1].get_ylabel() == "number of examples"
    assert_legible(axes.figure)


# -- gates


def test_gates_of_a_sequence(found):
    panels = plot.gates(found, row=1, steps=4)
    for axes, values, name in zip(
        panels, found, ("Reset gate r", "Update gate z", "Candidate n", "State h"), strict=True
    ):
        assert axes.get_title().startswith(name)
        assert (image(axes).get_array() == values[1, :4].T).all()
        assert image(axes).get_clim() == ((0, 1) if name[0] in "RU" else (-1, 1))
    assert [axes.get_xlabel() for axes in panels] == ["", "", "time step", "time step"]
    assert [axes.get_ylabel() for axes in panels] == ["unit", "", "unit", ""]
    assert_legible(panels[0].figure)


def test_gates_on_given_axes_and_beyond_one(found):
    _, axes = pyplot.subplots(4)
    wide = found._replace(h=3 * found.h / np.abs(found.h).max())
    assert plot.gates(wide, ax=axes) == list(axes)
    assert image(axes[3]).get_clim() == image(axes[2]).get_clim() == (-3, 3)
    assert image(axes[0]).get_clim() == (0, 1)


# -- saliency and attention


def test_saliency_by_step_and_feature(rng):
    values, names = rng.standard_normal((9, 3)), ["height", "weight", "blood pressure"]
    axes = plot.saliency(values, names, title="Why", label="contribution")
    assert (image(axes).get_array() == values.T).all()
    assert image(axes).get_clim() == (-np.abs(values).max(), np.abs(values).max())
    assert labels(axes) == ("time step", "feature") and axes.get_title() == "Why"
    assert ticks(axes.yaxis) == names and axes.figure.axes[1].get_ylabel() == "contribution"
    assert_legible(axes.figure)
    assert image(plot.saliency(np.zeros((2, 2)))).get_clim() == (-1, 1)
    assert image(plot.saliency([[2, np.nan], [-3, np.inf]])).get_clim() == (-3, 3)


@pytest.mark.parametrize("shape", [(1, 1), (200, 60)])
def test_saliency_of_any_size_can_be_read(rng, shape):
    assert_legible(plot.saliency(rng.standard_normal(shape), [f"feature {i}" for i in range(shape[1])]).figure)


@pytest.mark.parametrize(
    "words", [None, "a", "the film was not as good as expected .", "word " * 60, "incomprehensibility " * 15]
)
def test_saliency_by_word(rng, words):
    names = words and words.split()
    values = rng.standard_normal(len(names) if names else 7)
    axes = plot.saliency(values, names)
    assert [bar.get_height() for bar in axes.patches] == values.tolist()
    dark, light = (
        lightness(bar.get_facecolor()[:3]) for bar in (axes.patches[values.argmax()], axes.patches[values.argmin()])
    )
    assert values.max() < 0 or values.min() > 0 or light - dark > 0.2
    assert labels(axes) == ("time step", "gradient of the output")
    axes.figure.canvas.draw()
    assert all(place == int(place) for place in axes.get_xticks())
    assert_legible(axes.figure)


def test_attention(rng):
    weights = rng.dirichlet(np.ones(5), 3)
    axes = plot.attention(weights)
    assert (image(axes).get_array() == weights).all() and image(axes).get_clim() == (0, weights.max())
    assert labels(axes) == ("input step", "output step") and axes.figure.axes[1].get_ylabel() == "weight"
    assert_legible(axes.figure)
    axes = plot.attention(weights, "wie geht es dir heute".split(), ["how", "are", "you"])
    assert labels(axes) == ("input", "output")
    assert ticks(axes.xaxis) == "wie geht es dir heute".split() and ticks(axes.yaxis) == ["how", "are", "you"]
    assert_legible(axes.figure)
    long = plot.attention(rng.dirichlet(np.ones(80), 70), [f"w{i}" for i in range(80)], [f"v{i}" for i in range(70)])
    assert_legible(long.figure)


# -- what all have in common


@pytest.mark.parametrize("name", ["gates", "saliency", "attention"])
def test_colours_rise_in_lightness(rng, found, name):
    drawn = getattr(plot, name)(found if name == "gates" else rng.random((4, 5)))
    axes = drawn[0] if isinstance(drawn, list) else drawn
    steps = [lightness(color[:3]) for color in image(axes).cmap(np.linspace(0, 1, 64))]
    assert (np.diff(steps) > 0).all()


DRAWN = {
    "confusion": lambda **o: plot.confusion(np.eye(2, dtype=int), **o),
    "saliency": lambda **o: plot.saliency(np.ones((2, 3)), **o),
    "attention": lambda **o: plot.attention(np.ones((2, 3)), **o),
}


@pytest.mark.parametrize("name", DRAWN)
def test_given_axes_are_drawn_on(name):
    figure, (left, right) = pyplot.subplots(1, 2)
    assert DRAWN[name](ax=right) is right and not left.images
    assert DRAWN[name]() is not right
    with pytest.raises(ValueError, match="ax: expected an Axes, got 2"):
        DRAWN[name](ax=[left, right])
    with pytest.raises(ValueError, match="ax: expected an Axes, got 1 of Figure"):
        DRAWN[name](ax=figure)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda g: plot.learning_curves([1, 2]), TypeError, "history: expected a History or a dict"),
        (lambda g: plot.learning_curves({}), ValueError, "history: expected at least one finished epoch"),
        (lambda g: plot.learning_curves({"loss": []}), ValueError, "history: expected at least one finished epoch"),
        (
            lambda g: plot.learning_curves({"loss": [1]}, "mse"),
            ValueError,
            r"names: expected some of \['loss'\], got 'mse'",
        ),
        (lambda g: plot.confusion([[1, 2]]), ValueError, r"matrix: expected shape \(K, K\), got \(1, 2\)"),
        (lambda g: plot.confusion([[1]], ["a", "b"]), ValueError, "class_names: expected 1 names, got 2"),
        (lambda g: plot.confusion([[1]], "a"), ValueError, "class_names: expected 1 names, got a"),
        (lambda g: plot.gates({"l0.forward": g}), TypeError, r"found: expected Gates, got a dict: give one of \['l0"),
        (lambda g: plot.gates(g.h), TypeError, "found: expected the Gates of"),
        (lambda g: plot.gates(g, row=2), ValueError, "row: expected less than 2"),
        (lambda g: plot.gates(g, steps=10), ValueError, "steps: expected at most 9"),
        (lambda g: plot.gates(g, ax=[]), ValueError, "ax: expected a list of 4 Axes, got 0 of none"),
        (lambda g: plot.saliency(np.ones((2, 3, 4))), ValueError, r"values: expected .* of one sequence: values\[0\]"),
        (lambda g: plot.saliency(["a", "b"]), TypeError, "values: expected real numbers"),
        (lambda g: plot.confusion([["a"]]), TypeError, "matrix: expected real numbers"),
        (lambda g: plot.saliency([]), ValueError, "values: expected shape"),
        (lambda g: plot.saliency([1, 2], ["a"]), ValueError, "names: expected 2 names, got 1"),
        (
            lambda g: plot.attention(np.ones((2, 3, 4))),
            ValueError,
            r"weights: expected .* of one sequence: weights\[0\]",
        ),
        (lambda g: plot.attention(np.ones((2, 3)), ["a"]), ValueError, "inputs: expected 3 names, got 1"),
    ],
)
def test_wrong_arguments_are_named(found, draw, error, message):
    with pytest.raises(error, match=message):
        draw(found)


def test_without_matplotlib_the_extra_is_named(monkeypatch, found):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (*DRAWN.values(), lambda: plot.gates(found), lambda: plot.learning_curves({"loss": [1]})):
        with pytest.raises(ImportError, match=r'^drawing needs matplotlib: pip install "cgru\[plot\]"$'):
            draw()
