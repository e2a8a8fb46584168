"""Models: layers that are trained and used together."""

from cgru.models.model import LAYERS
from cgru.models.sequential import Sequential
from cgru.models.training import History

__all__ = ["LAYERS", "History", "Sequential"]
