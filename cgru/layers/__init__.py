"""Layers: the GRU, and what stands around it in a model."""

from cgru.layers.attention import AttentionPooling
from cgru.layers.base import Layer
from cgru.layers.convolution import Conv1D
from cgru.layers.cross_attention import Attention
from cgru.layers.dense import Dense
from cgru.layers.dropout import Dropout
from cgru.layers.embedding import Embedding
from cgru.layers.gru import GRU
from cgru.layers.masking import Masking
from cgru.layers.normalization import LayerNormalization
from cgru.layers.pooling import GlobalAveragePooling1D, GlobalMaxPooling1D
from cgru.layers.quantized import QuantizedDense, QuantizedEmbedding, QuantizedGRU
from cgru.layers.stateless import Stateless

__all__ = [
    "GRU",
    "Attention",
    "AttentionPooling",
    "Conv1D",
    "Dense",
    "Dropout",
    "Embedding",
    "GlobalAveragePooling1D",
    "GlobalMaxPooling1D",
    "Layer",
    "LayerNormalization",
    "Masking",
    "QuantizedDense",
    "QuantizedEmbedding",
    "QuantizedGRU",
    "Stateless",
]
