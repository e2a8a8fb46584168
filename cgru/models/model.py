"""What every model is: layers with their parameters, a configuration, a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import masks
from cgru.checks import check_int, model_text, shape_text
from cgru.configured import Configured
from cgru.layers import (
    GRU,
    Attention,
    AttentionPooling,
    Conv1D,
    Dense,
    Dropout,
    Embedding,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    Layer,
    LayerNormalization,
    Masking,
    QuantizedDense,
    QuantizedEmbedding,
    QuantizedGRU,
)
from cgru.locks import Locked
from cgru.models.stateful import stateful_layers
from cgru.typing import Array, Shape, States

if TYPE_CHECKING:
    from typing_extensions import Self

# What configurations and files may name.
LAYERS: dict[str, Any] = {
    layer.__name__: layer
    for layer in (
        *(Dense, Dropout, Embedding, GRU, Conv1D, GlobalMaxPooling1D, GlobalAveragePooling1D, AttentionPooling),
        *(LayerNormalization, Masking, Attention, QuantizedGRU, QuantizedDense, QuantizedEmbedding),
    )
}


class Model(Locked, Configured):
    """Base class of the models: the parameters of their layers, and their configuration.

    Parameters
    ----------
    layers : list of Layer
        At least one; no layer twice.
    seed : int, optional
        Seed of the initial parameters and of the dropout masks, for layers without a seed of their own, and of the
        order of the examples in training.
    """

    _options: tuple[str, ...] = ("layers", "seed")

    def __init__(self, layers: Sequence[Layer], seed: SupportsIndex | None = None) -> None:
        super().__init__()
        if not isinstance(layers, (list, tuple)):
            raise TypeError(f"layers: expected a list of layers, got {type(layers).__name__}")
        if not layers:
            raise ValueError("layers: expected at least one layer, got none")
        seen = set()
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers: expected layers, at index {i} got {model_text(layer)}")
            if id(layer) in seen:
                raise ValueError(f"layers: expected each layer once, got {type(layer).__name__} again at index {i}")
            seen.add(id(layer))
        self.seed = None if seed is None else check_int(seed, "seed")
        self.layers = tuple(layers)
        order, *seeds = np.random.SeedSequence(self.seed).spawn(1 + len(layers))
        self._training_seed = masks.seed_of(order)  # of what training draws
        for layer, child in zip(layers, seeds, strict=True):
            layer._inherit_seed(child)

    # -- parameters

    @property
    def built(self) -> bool:
        """Whether all layers have their parameters."""
        return all(layer.built for layer in self.layers)

    def _check_built(self) -> None:
        for i, layer in enumerate(self.layers):
            if not layer.built:
                name = type(layer).__name__
                raise RuntimeError(
                    f"layer {i} ({name}) has no parameters yet: call build(input_size), or use the model on data"
                )

    @property
    def parameters(self) -> dict[str, Array]:
        """dict "layer index.name" -> read-only view of the parameter; RuntimeError before the model is built."""
        self._check_built()
        layers = zip(self._names, self.layers, strict=True)
        return {f"{own}.{name}": p for own, layer in layers for name, p in layer.parameters.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters in memory; RuntimeError before the model is built."""
        self._check_built()
        return sum(layer.nbytes for layer in self.layers)

    @property
    def _names(self) -> list[str]:
        """What the names of each layer's parameters begin with."""
        return [str(i) for i in range(len(self.layers))]

    def get_weights(self) -> list[Array]:
        """Return copies of all parameters, a list in the order of `parameters`."""
        self._check_built()
        return [array for layer in self.layers for array in layer.get_weights()]

    def set_weights(self, weights: Sequence[ArrayLike]) -> None:
        """Copy `weights`, a list in the order of `parameters`, into the layers: all of them or, on an error, none.

        Raises
        ------
        RuntimeError
            If the model is not built.
        TypeError, ValueError
            If the number, a shape or the type of the arrays is wrong; the message names layer and parameter.
        """
        self._check_built()
        if not isinstance(weights, (list, tuple)):
            raise TypeError(f"weights: expected a list of arrays, got {type(weights).__name__}")
        counts = [len(layer.parameters) for layer in self.layers]
        if len(weights) != sum(counts):
            names = ", ".join(self.parameters) or "none"
            raise ValueError(f"weights: expected {sum(counts)} arrays ({names}), got {len(weights)}")
        ends = np.cumsum(counts)
        parts = [list(weights[end - count : end]) for end, count in zip(ends, counts, strict=True)]
        for i, (layer, part) in enumerate(zip(self.layers, parts, strict=True)):
            try:
                layer._checked_weights(part)
            except (TypeError, ValueError) as error:
                raise type(error)(f"layer {i} ({type(layer).__name__}): {error}") from None
        for layer, part in zip(self.layers, parts, strict=True):
            layer.set_weights(part)

    def get_config(self) -> dict[str, Any]:
        """Return seed and layers as a dict that JSON can hold; parameters are not part of it."""
        layers = [{"class": type(layer).__name__, "config": layer.get_config()} for layer in self.layers]
        return {"layers": layers, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return a new, unbuilt model from what `get_config` returned.

        Raises
        ------
        TypeError, ValueError
            If `config` is not of that form, or names a layer that this library does not have.
        """
        if not isinstance(config, dict) or config.keys() != {"layers", "seed"}:
            raise ValueError(f"config: expected a dict of 'layers' and 'seed', got {config!r}")
        if not isinstance(config["layers"], (list, tuple)):
            raise ValueError(f"config: expected a list of layers, got {config['layers']!r}")
        layers = []
        for entry in config["layers"]:
            if not isinstance(entry, dict) or entry.keys() != {"class", "config"}:
                raise ValueError(f"config: expected each layer to be a dict of 'class' and 'config', got {entry!r}")
            name = entry["class"]
            if not isinstance(name, str) or name not in LAYERS:
                raise ValueError(f"config: expected a class among {sorted(LAYERS)}, got {name!r}")
            layers.append(LAYERS[name].from_config(entry["config"]))
        return cls(layers, seed=config["seed"])

    # -- states

    def reset_states(self) -> None:
        """Forget the states of the stateful layers.

        Raises
        ------
        RuntimeError
            If no layer is stateful.
        """
        kept = stateful_layers(self.layers)
        if not kept:
            raise RuntimeError("reset_states: expected a model with a stateful GRU, got none")
        for i in kept:
            self.layers[i].reset_states()

    def _keep_states(self, states: States) -> None:
        """Let the next call go on from `states`, one entry a layer, in the layers that are stateful: in all or none."""
        kept = [(self.layers[i], states[i]) for i in stateful_layers(self.layers)]
        try:
            for layer, state in kept:
                layer._keep_state(state)
        except KeyboardInterrupt:
            for layer, state in kept:
                layer._keep_state(state)
            raise

    # -- what is printed

    def __repr__(self) -> str:
        layers = "".join(f"    {layer!r},\n" for layer in self.layers)
        return f"{type(self).__name__}([\n{layers}]{'' if self.seed is None else f', seed={self.seed}'})"

    def summary(self) -> None:
        """Print the layers: the shape of their outputs, the number of their parameters and the bytes of these in
        memory, their shapes, and the kind of small ones (`cgru.quantize`); and how many of the values are frozen, in
        layers with trainable=False, which `fit` leaves alone.

        Examples
        --------
        >>> import cgru
        >>> model = cgru.Sequential([cgru.GRU(5), cgru.Dense(3, activation="softmax")])
        >>> model.build(4).summary()
           layer        output shape    parameters       bytes
        0  GRU          (N, 5)                 150         600  kernel 4x15  recurrent_kernel 5x15  bias 15
        1  Dense        (N, 3)                  18          72  kernel 5x3  bias 3
        168 parameters in 672 bytes
        """
        width = max(12, *(len(type(layer).__name__) for layer in self.layers))
        print(f"   {'layer':<{width}} {'output shape':<15} {'parameters':>10} {'bytes':>11}")
        total = nbytes = frozen = 0
        for i, (layer, shape) in enumerate(zip(self.layers, self._output_shapes(), strict=True)):
            line = f"{i:<2} {type(layer).__name__:<{width}} {shape_text(shape) if shape else '?':<15} "
            if layer.built:
                parameters: dict[str, Any] = layer._built_parameters()  # in the form that they have in memory
                count = sum(math.prod(p.shape) for p in parameters.values())
                shown = [[name, "x".join(map(str, p.shape)), getattr(p, "kind", "")] for name, p in parameters.items()]
                shapes = "  ".join(" ".join(words).rstrip() for words in shown)
                print(f"{line}{count:>10,} {layer.nbytes:>11,}  {shapes}".rstrip())
                total += count
                nbytes += layer.nbytes
                frozen += 0 if layer.trainable else count
            else:
                print(f"{line}{'not built':>10}")
        rest = (f", {frozen:,} frozen" if frozen else "") + ("" if self.built else " so far")
        print(f"{total:,} parameters in {nbytes:,} bytes{rest}")

    def _output_shapes(self) -> Iterator[Shape | None]:
        """Yield the shape of each layer's outputs, names standing for what is not known; None where no data fit."""
        first = self.layers[0]
        sequences = any(layer._takes_sequences or isinstance(layer, Embedding) for layer in self.layers)
        steps = ("T",) if sequences else ()
        shape: Shape | None
        shape = ("N", *steps) if isinstance(first, Embedding) else ("N", *steps, first.input_size or "D")
        for layer in self.layers:
            if shape is not None:
                fits = not layer._takes_sequences or len(shape) == 3
                shape = layer.output_shape(shape) if fits else None
            yield shape
