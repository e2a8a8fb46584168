"""The command `cgru`, and the pictures it draws."""

import platform
import re
import signal
import sys

import children
import numpy as np
import pytest

import cgru
from cgru import cli, kernels, plot, reference
from cgru.cli import demo, info
from cgru.datasets import load_japanese_vowels
from cgru.models import History, Sequential

NUMBER = r"\d+\.\d+"


@pytest.fixture
def no_training(monkeypatch):
    def fit(self, *arguments, **options):
        pytest.fail("trained")

    monkeypatch.setattr(Sequential, "fit", fit)


def history_of(*results):
    history = History()
    history._results.extend(results)
    return history


# -- cgru demo


def test_demo(capsys):
    assert cli.main(["demo", "--epochs", "2", "--seed", "3"]) == 0
    out, _ = capsys.readouterr()
    assert "270 training and 370 test utterances of nine speakers" in out
    assert "2 epochs, seed 3" in out
    accuracy, hits = re.search(rf"^test accuracy  ({NUMBER}) \((\d+) of 370\)$", out, re.MULTILINE).groups()
    assert float(accuracy) == round(int(hits) / 370, 4) > 0.8
    assert re.search(rf"^training time  {NUMBER} s$", out, re.MULTILINE)
    assert re.search(rf"^kernels        {kernels.isa}$", out, re.MULTILINE)
    assert "N, T, D, H = 32, 26, 12, 64, both directions, float32" in out
    for name in ("forward ", "backward"):
        assert re.search(rf"^{name}       {NUMBER} ms; NumPy reference {NUMBER} ms, {NUMBER} times as long$", out, re.M)
    difference = re.search(r"^difference     (\S+) of the largest value.*: within 1e-05$", out, re.MULTILINE)
    assert 0 < float(difference[1]) < 1e-5


@pytest.mark.parametrize("part", ["forward", "backward"])
@pytest.mark.parametrize("name", ["dx", "kernel", "recurrent_kernel", "bias"])
def test_demo_fails_if_the_reference_disagrees(capsys, monkeypatch, part, name):
    original = getattr(reference, part)

    def wrong(*arguments, **options):
        result = original(*arguments, **options)
        if part == "forward":
            y, h, tape = result
            return y, h * (1 + 1e-4), tape
        return result | {name: result[name] * (1 + 1e-4)}

    monkeypatch.setattr(reference, part, wrong)
    assert cli.main(["demo", "--epochs", "1"]) == 1
    assert "OUT OF 1e-05" in capsys.readouterr().out


def test_demo_counts_nan_as_out_of_tolerance(capsys, monkeypatch):
    original = demo._reference_backward
    monkeypatch.setattr(demo, "_reference_backward", lambda *arguments: original(*arguments) | {"dx": np.array(np.nan)})
    assert cli.main(["demo", "--epochs", "1"]) == 1
    assert "OUT OF" in capsys.readouterr().out


def test_demo_reaches_its_accuracy(capsys):
    """What the demonstration promises: 0.97 with each of seeds 0 to 4, 0.978 on average."""
    data = load_japanese_vowels()
    x_train, x_test = demo.standardise(data.x_train, data.x_test)
    accuracies = []
    for seed in range(5):
        model = demo.build_model(seed)
        model.fit(x_train, data.y_train, epochs=60, batch_size=demo.BATCH_SIZE, verbose=0)
        accuracies.append(model.evaluate(x_test, data.y_test)["accuracy"])
    assert min(accuracies) >= 0.97, accuracies
    assert np.mean(accuracies) >= 0.978, accuracies


def test_standardise_looks_at_the_training_data_only(rng):
    train = [rng.normal(3, 2, (n, 2)) for n in (5, 9)]
    test = [np.zeros((1, 2)), np.full((2, 2), 7.0)]
    x, z = demo.standardise(train, test)
    frames = np.concatenate(x)
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(frames.std(axis=0), 1)
    mean, deviation = np.concatenate(train).mean(axis=0), np.concatenate(train).std(axis=0)
    np.testing.assert_allclose(z[1][0], (7 - mean) / deviation)
    np.testing.assert_allclose(demo.standardise(train, test[:1])[1][0], z[0])
    assert (test[1] == 7).all()


def test_ctrl_c_is_one_line_and_130(capsys, monkeypatch):
    def fit(self, *arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Sequential, "fit", fit)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr().err == "\ncgru: interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent in another way there")
def test_a_real_ctrl_c():
    program = "import sys; sys.modules['tqdm'] = None; import cgru.cli; sys.exit(cgru.cli.main(sys.argv[1:]))"
    process = children.start(program, "demo", "--epochs", "100000")
    try:
        while not process.stdout.readline().startswith("epoch 2/"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=children.PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert err.endswith("\ncgru: interrupted\n") and "Traceback" not in err


def test_damaged_data_is_one_line(capsys, monkeypatch, no_training):
    def load():
        raise ValueError("/there/japanese_vowels.npz: damaged data file")

    monkeypatch.setattr(demo, "load_japanese_vowels", load)
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == "cgru demo: /there/japanese_vowels.npz: damaged data file\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: command"),
        (["train"], "invalid choice: 'train'"),
        (["demo", "--seed", "-1"], "argument --seed: expected at least 0, got -1"),
        (["demo", "--seed", "x"], "argument --seed: invalid integer value: 'x'"),
        (["demo", "--epochs", "0"], "argument --epochs: expected at least 1, got 0"),
        (["demo", "--plots", "a.png"], "unrecognized arguments: --plots"),
        (["info", "--seed", "1"], "unrecognized arguments: --seed"),
    ],
)
def test_wrong_arguments(arguments, message, capsys, no_training):
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"cgru {cgru.__version__}\n"


# -- cgru info


def test_info(capsys):
    assert cli.main(["info"]) == 0
    out, _ = capsys.readouterr()
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert list(lines) == ["cgru", "Python", "NumPy", "SciPy", "kernels", "int8", "backend", "BLAS", "threads"]
    assert lines["cgru"] == cgru.__version__ and lines["NumPy"] == np.__version__
    neon = " by NEON" if platform.machine() == "aarch64" else ""
    assert lines["kernels"] == f"{kernels.isa}{neon} (this CPU can run: {', '.join(kernels.available)})"
    assert lines["int8"].split()[0] == ("with" if kernels.tune()["dots"] else "without")
    assert re.search(r"\d", lines["BLAS"])
    assert lines["backend"] == f"{cgru.get_backend()} (there are: native, blas)"
    threads = rf"kernels {cgru.get_num_threads()}, (BLAS \d+|of BLAS unknown.*); usable CPUs: \d+"
    assert re.fullmatch(threads, lines["threads"])


def test_info_without_threadpoolctl(capsys, monkeypatch):
    monkeypatch.setattr(info.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["info"]) == 0
    assert "of BLAS unknown (threadpoolctl is not installed); usable CPUs" in capsys.readouterr().out


# -- pictures


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib")


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_files_have_names_where_none_is_given(command, monkeypatch):
    given = {}
    monkeypatch.setattr(cli.demo, "run", lambda seed, epochs, plot: given.update(plot=plot))
    monkeypatch.setattr(cli.bench, "run", lambda threads, json, plot: given.update(json=json, plot=plot))
    for files in ([], ["a.png"]):
        cli.main([command, "--plot", *files])
        assert given["plot"] == (files[0] if files else f"cgru-{command}.png")
    cli.main([command])
    assert given["plot"] is None
    if command == "bench":
        cli.main([command, "--json", "--plot"])
        assert given == {"json": "cgru-bench.json", "plot": "cgru-bench.png"}


def test_demo_draws_into_the_folder_that_it_runs_in(matplotlib, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--epochs", "1", "--plot"]) == 0
    assert (tmp_path / "cgru-demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_draws(matplotlib, capsys, tmp_path):
    path = tmp_path / "picture.png"
    assert cli.main(["demo", "--epochs", "2", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"plot           {path}\n" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_picture_shows_the_figures(matplotlib, tmp_path, monkeypatch, ending):
    import matplotlib.figure

    figures = []
    savefig = matplotlib.figure.Figure.savefig

    def recording(figure, *arguments, **options):
        figures.append(figure)
        savefig(figure, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", recording)
    confusion = np.array([[5, 1, 0], [0, 7, 0], [2, 0, 9]])
    history = history_of({"loss": 1.5, "accuracy": 0.3}, {"loss": 0.25, "accuracy": 0.75})
    plot.draw_training(history, confusion, tmp_path / f"picture.{ending}")
    assert (tmp_path / f"picture.{ending}").stat().st_size > 1000
    loss, accuracy, matrix = figures[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 1.5], [2, 0.25]]
    assert accuracy.lines[0].get_xydata().tolist() == [[1, 0.3], [2, 0.75]]
    shown = {text.get_position(): text.get_text() for text in matrix.texts}  # (column, row): count
    assert shown == {(0, 0): "5", (1, 0): "1", (1, 1): "7", (0, 2): "2", (2, 2): "9"}
    assert matrix.get_title() == "Test: 21 of 24 right"


def test_plot_without_matplotlib(capsys, monkeypatch, no_training, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["demo", "--plot", str(tmp_path / "a.png")]) == 1
    assert capsys.readouterr().err == 'cgru demo: drawing needs matplotlib: pip install "cgru[plot]"\n'


def test_plot_is_checked_before_the_training(matplotlib, capsys, no_training, tmp_path):
    (tmp_path / "folder.png").mkdir()
    for path, message in (
        ("a.mp3", "expected a file name ending in one of "),
        ("a", "expected a file name ending in one of "),
        ("nowhere/a.png", "there is no folder "),
        ("folder.png", "is a folder"),
    ):
        assert cli.main(["demo", "--plot", str(tmp_path / path)]) == 1
        assert capsys.readouterr().err.startswith(f"cgru demo: {tmp_path / path}: {message}")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.png"]


def test_plot_where_nothing_may_be_written(matplotlib, capsys, no_training, tmp_path, monkeypatch):
    monkeypatch.setattr(plot.os, "access", lambda path, mode: False)
    assert cli.main(["demo", "--plot", str(tmp_path / "a.png")]) == 1
    assert capsys.readouterr().err == f"cgru demo: {tmp_path / 'a.png'}: may not be written\n"
