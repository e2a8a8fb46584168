"""What a model has seen: which inputs its outputs depend on, how much, and how far back.

Everything here asks the model as it is in inference: nothing is dropped, no parameter and no state changes, and
stateful layers start from their beginning. What lies outside lengths or mask is not read, and has no part in anything.
The work goes through the model `batch_size` sequences at a time.
"""

from __future__ import annotations

from cgru.interpret.exchange import Importance, permutation_importance
from cgru.interpret.gradients import gradient_norm_by_distance, saliency
from cgru.interpret.path import integrated_gradients

__all__ = ["Importance", "gradient_norm_by_distance", "integrated_gradients", "permutation_importance", "saliency"]
