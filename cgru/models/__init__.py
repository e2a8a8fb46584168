"""Models: layers that are trained and used together."""

from cgru.models.history import History
from cgru.models.model import LAYERS
from cgru.models.sequential import Sequential

__all__ = ["LAYERS", "History", "Sequential"]
