"""The command `cgru bench`: what it measures, what it does with contestants that fail, and what it leaves behind."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import children
import numpy as np
import pytest

import cgru
from cgru import cli, kernels, plot
from cgru.cli import bench
from cgru.cli.case import Case

CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children")
CELLS = (Case(2, 3, 5, 7), Case(3, 4, 2, 5, "training"), Case(1, 4, 3, 5, "step"))


@pytest.fixture
def short(monkeypatch):
    """Small cells, two rounds, no peers, no tqdm."""
    find_spec = bench.importlib.util.find_spec
    absent = {"torch", "onnx", "onnxruntime"}
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None if name in absent else find_spec(name))
    monkeypatch.setattr(bench, "CELLS", CELLS)
    monkeypatch.setattr(bench, "ROUNDS", 2)
    monkeypatch.setitem(sys.modules, "tqdm", None)


@pytest.fixture
def no_children(monkeypatch):
    def start(*arguments):
        pytest.fail("started a child")

    monkeypatch.setattr(bench, "Process", start)


# -- the whole


def test_bench(short, capsys, tmp_path):
    path = tmp_path / "figures.json"
    assert cli.main(["bench", "--threads", "1", "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    assert f"cgru {cgru.__version__}, numpy {np.__version__}; " in out
    assert f"{kernels.isa} kernels, threads: 1\n" in out
    assert "without torch: torch not installed\nwithout onnxruntime: onnxruntime and onnx not installed\n" in out
    assert f"figures  {path}\n" in out
    assert err == "cell 1/3  inference 2,3,5,7\ncell 2/3  training 3,4,2,5\ncell 3/3  step 1,1,3,5\n"

    found = json.loads(path.read_text())
    assert found["threads"] == 1 and found["isa"] == kernels.isa and found["failures"] == {}
    assert found["backend"] in ("native", "blas") and set(found["versions"]) == {"python", "cgru", "numpy"}
    assert [Case(*(cell[name] for name in ("N", "T", "D", "H", "mode"))) for cell in found["cells"]] == list(CELLS)
    for cell in found["cells"]:
        times = cell["microseconds"]
        assert times["numpy"] > 0 and times["cgru"] > 0
        assert cell["ratio"] == times["numpy"] / times["cgru"]
        assert all(len(medians) == 2 and np.median(medians) == times[name] for name, medians in cell["rounds"].items())
        assert 0 < cell["differences"]["cgru"] < 1e-5
        figures = f"{times['cgru']:,.1f} +{times['numpy']:,.1f} +{cell['ratio']:.2f}"
        assert re.search(rf"^{cell['cell']} +{figures}$", out, re.MULTILINE)
    assert re.search(r"^geometric mean +\d+\.\d\d$", out, re.MULTILINE)


def test_wrong_results_are_no_success(short, capsys, monkeypatch):
    monkeypatch.setattr(bench, "TOLERANCE", 0)
    assert cli.main(["bench"]) == 1
    out, err = capsys.readouterr()
    for name in ("cgru", "numpy"):
        assert re.search(rf"^{name} FAILED at inference 2,3,5,7: differs from the reference by \d", err, re.MULTILINE)
    assert "geometric mean" not in out


def test_bar(short, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "tqdm")
    pytest.importorskip("tqdm")
    monkeypatch.setattr(bench, "CELLS", CELLS[:1])
    assert cli.main(["bench"]) == 0
    err = capsys.readouterr().err
    assert "inference 2,3,5,7" in err and "2/2" in err and "cell 1/1" not in err


@pytest.mark.skipif(not hasattr(os, "getloadavg"), reason="no load average here")
@pytest.mark.parametrize("load", [0.25, 3.0])
def test_a_busy_machine_is_told(short, capsys, monkeypatch, load):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(bench, "CELLS", CELLS[:1])
    assert cli.main(["bench"]) == 0
    assert ("load average 3.0 before the start" in capsys.readouterr().out) == (load == 3.0)


@pytest.mark.skipif(not CHILDREN.exists(), reason="children are looked up in /proc")
def test_ctrl_c_leaves_no_child():
    program = "import sys; sys.modules['tqdm'] = None; import cgru.cli; sys.exit(cgru.cli.main(['bench']))"
    process = children.start(program, start_new_session=True)
    try:
        while not process.stderr.readline().startswith("cell 1/"):
            assert process.poll() is None
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(workers) >= 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, err = process.communicate(timeout=children.PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert err.endswith("\ncgru: interrupted\n") and "Traceback" not in err
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


# -- arguments and pictures


def test_files_are_checked_before_anything_runs(no_children, capsys, tmp_path):
    assert cli.main(["bench", "--json", str(tmp_path / "nowhere" / "a.json")]) == 1
    assert capsys.readouterr().err.startswith(f"cgru bench: {tmp_path / 'nowhere' / 'a.json'}: there is no folder ")
    pytest.importorskip("matplotlib")
    assert cli.main(["bench", "--plot", str(tmp_path / "a.mp3")]) == 1
    assert "expected a file name ending in one of " in capsys.readouterr().err


def test_wrong_threads(no_children, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["bench", "--threads", "0"])
    assert exit.value.code == 2
    assert "argument --threads: expected at least 1, got 0" in capsys.readouterr().err


def test_bench_draws(short, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "picture.png"
    assert cli.main(["bench", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert f"plot     {path}\n" in capsys.readouterr().out


def test_picture_shows_the_ratios(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *arguments, **options: figures.append(figure))
    times = [{"cgru": 2.0, "numpy": 8.0, "torch": 1.0}, {"numpy": 1.0}, {"cgru": 5.0, "numpy": 60.0}]
    cells = [{"cell": f"cell {index}", "microseconds": each} for index, each in enumerate(times)]
    plot.draw_times(cells, "the machine", tmp_path / "a.png")
    plot.draw_times(cells[1:2], "without cgru", tmp_path / "a.png")
    (axes,) = figures[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cell 0\ncgru 2.0 µs", "cell 2\ncgru 5.0 µs"]
    bars = [(bars.get_label(), [bar.get_x() + bar.get_width() for bar in bars]) for bars in axes.containers]
    assert bars == [("numpy", [4.0, 12.0]), ("torch", [0.5])]
    assert [text.get_text().strip() for text in axes.texts] == ["4.0", "12.0", "0.5"]
    assert figures[1].axes[0].containers == []
