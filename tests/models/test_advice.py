"""What messages advise where something came in place of a model, or of the labels and sequences it wants."""

import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

import cgru
from cgru.checks import model_text


class Estimator:
    def __init__(self):
        self.model_ = None


class Pipeline(list):
    @property
    def named_steps(self):
        return dict(enumerate(self))


ESTIMATOR = Estimator()
SEARCH = SimpleNamespace(best_estimator_=Pipeline([0, ESTIMATOR]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ESTIMATOR, "Estimator; its model is its .model_"),
        (Pipeline([0, ESTIMATOR]), "Pipeline; its model is its [-1].model_"),
        (SEARCH, "SimpleNamespace; its model is its .best_estimator_[-1].model_"),
        (Pipeline([0, 1]), "Pipeline"),
        (Pipeline(), "Pipeline"),
        (None, "NoneType"),
    ],
)
def test_who_has_a_model_says_where(value, expected):
    assert model_text(value) == expected


def test_modules_of_pytorch_are_to_be_converted():
    theirs = type("GRU", (type("RNNBase", (), {"__module__": "torch.nn.modules.rnn"}),), {})  # without PyTorch
    expected = r"^model: expected a Sequential or a GRU, got GRU of PyTorch; cgru.from_torch converts it$"
    with pytest.raises(TypeError, match=expected):
        cgru.Streams(theirs())


@pytest.mark.parametrize(
    "call",
    [
        cgru.Streams,
        lambda model: cgru.save(model, "model.safetensors"),
        lambda model: cgru.interpret.saliency(model, np.zeros((1, 2, 3))),
        lambda model: cgru.Seq2Seq(model, model),
        lambda model: cgru.Sequential([model]),
        pytest.param(cgru.convert.to_onnx, id="to_onnx"),
        pytest.param(cgru.convert.to_torch, id="to_torch"),
    ],
)
def test_what_wants_a_model_says_it(call, request):
    for name, package in (("to_onnx", "onnx"), ("to_torch", "torch")):
        if name in request.node.name:
            pytest.importorskip(package)
    with pytest.raises(TypeError, match=r"got Estimator; its model is its \.model_$"):
        call(ESTIMATOR)


def test_a_path_is_no_state_dict():
    with pytest.raises(TypeError, match=r"^weights: expected a module or a state_dict, got a path: torch\.load"):
        cgru.from_torch("model.pt")
    with pytest.raises(TypeError, match=r"got a path: cgru\.files\.load_tensors\(path\) reads it$"):
        cgru.from_torch(pathlib.Path("model.safetensors"))


def test_one_sequence_of_ids_is_put_into_a_batch():
    model = cgru.Sequential([cgru.Embedding(5, 3), cgru.GRU(4)], seed=0)
    with pytest.raises(ValueError, match=r"^x: expected sequences of ids, .* got \(2,\); one sequence: give x\[None\]"):
        model.predict(np.array([1, 2]))
    assert model.predict(np.array([1, 2])[None]).shape == (1, 4)


def test_tags_of_unequal_lengths_want_outputs_of_each_step():
    model = cgru.Sequential([cgru.GRU(4), cgru.Dense(2, activation="softmax")], seed=0)
    model.compile("adam", loss="sparse_categorical_crossentropy")
    x = [np.zeros((length, 3)) for length in (4, 5)]
    with pytest.raises(ValueError, match=r"unequal lengths; for a label for each step every GRU is to have return_"):
        model.fit(x, [np.zeros(4, int), np.zeros(5, int)], verbose=0)


def test_text_is_to_become_numbers():
    model = cgru.Sequential([cgru.Embedding(5, 3), cgru.GRU(4)], seed=0)
    with pytest.raises(TypeError, match=r"^x: .* got dtype <U\d; text has to become numbers first$"):
        model.predict(["ab", "c"])
