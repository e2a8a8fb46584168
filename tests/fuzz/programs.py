"""The kinds of random programs, and how often each comes."""

from layer_programs import attention, gru, products, stateless
from model_programs import estimators, foreign, measures, seq2seq, sequential, small, stepped, updates

KINDS = {
    "gru": (gru, 10), "stateless": (stateless, 5), "attention": (attention, 2), "products": (products, 4),
    "sequential": (sequential, 6), "stepped": (stepped, 3), "seq2seq": (seq2seq, 2), "measures": (measures, 2),
    "small": (small, 3), "updates": (updates, 1), "foreign": (foreign, 1), "estimators": (estimators, 0.3),
}  # fmt: skip
