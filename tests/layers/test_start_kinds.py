"""Processes of every kind with a loaded model: as an argument, from its file, from the parent's memory."""

import multiprocessing

import children
import pytest

import cgru

SCRIPT = """
import sys
import multiprocessing
import warnings
import numpy as np
import cgru

warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads

path, kind = sys.argv[1:3]
x = np.random.default_rng(0).standard_normal((6, 5, 3)).astype(np.float32)
model = cgru.load(path) if __name__ == "__main__" or kind in ("spawn", "forkserver", "loky") else None


def given(one):
    return one.predict(x)


def from_file(name):
    return cgru.load(name).predict(x)


def own(_):
    return model.predict(x)


def trained(name):
    one = cgru.load(name)
    one.fit(x, np.arange(6) % 2, epochs=1, verbose=0)
    return one.get_weights()


def check(results, expected):
    for found in results:
        for array, known in zip(found, expected, strict=True):
            np.testing.assert_array_equal(array, known)


if __name__ == "__main__":
    expected = model.predict(x)  # threads of this process have worked, too
    with cgru.limit_threads(2):
        model.predict(np.ones((64, 50, 3)))
    if kind == "loky":
        from joblib import Parallel, delayed

        def run(function, arguments):
            return Parallel(n_jobs=2)(delayed(function)(argument) for argument in arguments)
    else:
        pool = multiprocessing.get_context(kind).Pool(2)
        run = pool.map
    check(run(given, [model] * 3), expected)
    check(run(from_file, [path] * 2), expected)
    if kind != "loky":
        check(run(own, range(2)), expected)
    for weights in run(trained, [path] * 2):
        check([weights], trained(path))
    if kind != "loky":
        pool.close()
        pool.join()
    check([model.predict(x)], expected)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    model = cgru.Sequential([cgru.GRU(4), cgru.Dense(2, activation="softmax")], seed=0)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.build(3)
    cgru.save(model, folder / "model.safetensors", training_state=True)
    (folder / "script.py").write_text(SCRIPT)
    return folder


@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver", "loky"])
def test_a_loaded_model_computes_in_processes_of_every_kind(saved, kind):
    if kind == "loky":
        pytest.importorskip("joblib")
    elif kind not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {kind}")
    done = children.python(str(saved / "script.py"), str(saved / "model.safetensors"), kind)
    assert done.returncode == 0, done.stdout + done.stderr
