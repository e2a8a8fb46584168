"""Models: layers that are trained and used together."""

from cgru.models.history import History
from cgru.models.model import LAYERS, Model
from cgru.models.seq2seq import Seq2Seq
from cgru.models.sequential import Sequential

MODELS = {"Sequential": Sequential, "Seq2Seq": Seq2Seq}  # what files may name

__all__ = ["LAYERS", "MODELS", "History", "Model", "Seq2Seq", "Sequential"]
