"""Layers: the GRU, and what stands around it in a model."""

from cgru.layers.base import Layer
from cgru.layers.cross_attention import Attention
from cgru.layers.dense import Dense
from cgru.layers.dropout import Dropout
from cgru.layers.embedding import Embedding
from cgru.layers.gru import GRU
from cgru.layers.stateless import Stateless

__all__ = ["GRU", "Attention", "Dense", "Dropout", "Embedding", "Layer", "Stateless"]
