"""The recipes of docs/distributed.md, as they stand there, on two processes; and what they promise."""

import importlib.util
import json
import re
from pathlib import Path

import children
import numpy as np
import pytest
from processes import ended, mpiexec, started

import cgru

DOCUMENT = Path(__file__).parents[2] / "docs" / "distributed.md"

# Loaded by every Python that starts where this folder is on its path: notes which process loads a model, and when.
NOTING = """
import os
import cgru.files
load = cgru.files.load
def noting(path):
    with open(os.environ["CGRU_TEST_LOADS"], "a") as file:
        file.write(f"{os.getpid()}\\n")
    return load(path)
cgru.load = cgru.files.load = noting
"""


def recipe(name, folder):
    """Write the snippet whose first line is its name into the folder; return its path."""
    if not DOCUMENT.exists():
        pytest.skip("the documents are in the checkout")
    found = re.search(rf"^```py\n(# {re.escape(name)}\n.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"docs/distributed.md has no {name}"
    path = folder / name
    path.write_text(found[1])
    return path


def needs(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def run(path, **variables):
    done = children.python(str(path), cwd=path.parent, env=children.environment(**variables))
    assert done.returncode == 0, done.stdout + done.stderr


def test_training_by_mpi(tmp_path):
    ((status, output),) = ended([started(mpiexec(recipe("train.py", tmp_path)), folder=tmp_path)])
    assert status == 0, output
    assert output.count("epoch 5/5") == 1
    data = cgru.datasets.load_japanese_vowels()
    model = cgru.load(tmp_path / "model.safetensors")
    found = np.argmax(model.predict(data.x_test), axis=1)
    assert (found == data.y_test).mean() > 0.5


def test_prediction_by_dask(tmp_path):
    """The same bits as here, and the model is loaded once a worker."""
    needs("dask", "distributed")
    model = cgru.Sequential([cgru.GRU(8), cgru.Dense(3, activation="softmax")], seed=0).build(12)
    cgru.save(model, tmp_path / "model.safetensors")
    (tmp_path / "noting").mkdir()
    (tmp_path / "noting" / "sitecustomize.py").write_text(NOTING)
    environment = children.environment()
    paths = f"{tmp_path / 'noting'}:{environment['PYTHONPATH']}"
    run(recipe("predict_with_dask.py", tmp_path), PYTHONPATH=paths, CGRU_TEST_LOADS=str(tmp_path / "loads"))
    rng = np.random.default_rng(0)
    recordings = [rng.standard_normal((length, 12)).astype("float32") for length in rng.integers(5, 30, 200)]
    np.testing.assert_array_equal(np.load(tmp_path / "outputs.npy"), model.predict(recordings))
    loads = (tmp_path / "loads").read_text().split()
    assert len(loads) == len(set(loads)) == 2


def test_search_by_joblib_over_dask(tmp_path):
    """The scores are, to the bit, those of a search in this process."""
    needs("dask", "distributed", "joblib", "sklearn")
    path = recipe("search_with_dask.py", tmp_path)
    run(path)
    found = json.loads((tmp_path / "search.json").read_text())
    code = path.read_text().replace('backend="dask"', 'backend="sequential"')
    code = re.sub(r"with LocalCluster.*:", "if True:", code)
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "search.py"
    alone.write_text(code)
    run(alone)
    assert found == json.loads((tmp_path / "alone" / "search.json").read_text())
    assert len(found["scores"]) == 4 and max(found["scores"]) > 0.3
