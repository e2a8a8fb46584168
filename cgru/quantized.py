"""Small weights for inference: layers and models whose matrices take 16 or 8 bits a weight."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike

from cgru import small
from cgru.checks import check_name, model_text
from cgru.layers import Dense, Layer
from cgru.layers.options import kind_of
from cgru.layers.quantized import QUANTIZED, Quantized
from cgru.layers.rows import valid_rows
from cgru.models import Seq2Seq, Sequential, examples
from cgru.sequences import as_batch
from cgru.small import QuantizationWarning
from cgru.typing import Array, LayerOrModel, SmallKind

__all__ = ["MatrixError", "QuantizationWarning", "Report", "compare", "quantize"]


@overload
def quantize(layer_or_model: LayerOrModel, kind: SmallKind, report: None = None) -> LayerOrModel: ...


@overload
def quantize(layer_or_model: LayerOrModel, kind: SmallKind, report: ArrayLike) -> tuple[LayerOrModel, Report]: ...


def quantize(layer_or_model: LayerOrModel, kind: SmallKind, report: Any = None) -> Any:
    """Return a new layer or model with small weights, for inference alone; the float32 one stays as it is.

    The kernels of GRU and Dense and the tables of Embedding become small; biases, gains, learned initial states and all
    other layers stay float32. What was compiled keeps its loss and metrics, for `evaluate`.

    Parameters
    ----------
    layer_or_model : GRU, Dense, Embedding, Sequential or Seq2Seq
        Built, of dtype float32.
    kind : {"float16", "bfloat16", "int8"}
        "float16": half the memory, 11 bits of each weight, up to 65504. "bfloat16": half the memory, 8 bits, the range
        of float32: no loss where the weights were trained or published in it. Of both, the weights are widened and
        everything is computed as in float32. "int8": a quarter of the memory; weights are integers with one scale for
        each unit and gate (of an Embedding: for each row), inputs and states are rounded to 8 bits at each step, and
        the sums are exact.
    report : array_like, or a list of them; optional
        Data as the float32 one takes them, of a Seq2Seq a pair (source, target): with them a `Report` of the errors on
        them comes back as well. `compare` takes lengths, a mask and resets beside them.

    Returns
    -------
    layer or model, or (layer or model, Report) with `report`
        With the same calls; what would train it is refused.

    Raises
    ------
    TypeError
        If it is no layer or model, or one without small form: a subclass, or a layer of another kind by itself.
    ValueError
        If the kind is unknown, it is not built, not of float32, or quantised already; or if a weight is NaN, infinite,
        or beyond the range of the kind. The message names the parameter and the place. As `compare` of the report.

    Warns
    -----
    QuantizationWarning
        If the kind keeps next to nothing of a column of weights: where one weight is so large that int8 makes 0 of more
        than half of the others, or all of them lie below the normal numbers of float16 (6e-5). Or nothing of a row of
        eight weights or more, those of one input feature, whose numbers then do not count any more.

    Notes
    -----
    What it costs is in docs/quantization.md, and a `Report` tells it of one's own data. Where a choice decides what
    follows, near ties may fall to the other side: of 2000 words, g2p_en's published model says 1997 in float16 as in
    float32, 1991 in bfloat16 and 1962 in int8.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> layer = cgru.GRU(64, input_size=32, return_sequences=True, seed=0)
    >>> fast = cgru.quantize(layer, "float16")
    >>> fast
    QuantizedGRU(64, return_sequences=True, seed=0, input_size=32, kind='float16')
    >>> x = np.random.default_rng(0).standard_normal((2, 10, 32))
    >>> bool(abs(fast(x) - layer(x)).max() < 1e-3)
    True
    """
    kind = check_name(kind, "kind", small.KINDS)
    if isinstance(layer_or_model, (Sequential, Seq2Seq)):
        result: Any = _model(layer_or_model, kind)
    elif isinstance(layer_or_model, Layer):
        if type(layer_or_model) not in QUANTIZED and not isinstance(layer_or_model, Quantized):
            raise TypeError(f"layer_or_model: expected {_TAKEN}, got {type(layer_or_model).__name__}")
        _check(layer_or_model, "")
        result = QUANTIZED[type(layer_or_model)].of(layer_or_model, kind)
    else:
        raise TypeError(f"layer_or_model: expected {_TAKEN}, got {model_text(layer_or_model)}")
    return result if report is None else (result, _compare(layer_or_model, result, report, _NONE_GIVEN, "report"))


_TAKEN = "a GRU, Dense or Embedding (no subclass of them), or a model that holds one"


def _model(model: Sequential | Seq2Seq, kind: SmallKind) -> Sequential | Seq2Seq:
    if type(model) not in (Sequential, Seq2Seq):
        raise TypeError(f"layer_or_model: expected a Sequential or Seq2Seq, no subclass, got {model_text(model)}")
    for i, layer in enumerate(model.layers):
        _check(layer, f"{examples.title(model.layers, i)}: ")
    if not any(type(layer) in QUANTIZED for layer in model.layers):
        raise TypeError(f"layer_or_model: expected {_TAKEN}, got {', '.join(type(la).__name__ for la in model.layers)}")
    names = dict(zip(map(id, model.layers), model._names, strict=True))

    def made(layer: Any) -> Any:
        if type(layer) not in QUANTIZED:
            return copy.copy(layer)
        return QUANTIZED[type(layer)].of(layer, kind, f"{names[id(layer)]}.")

    def sequential(part: Sequential) -> Sequential:
        return Sequential([made(layer) for layer in part.layers], seed=part.seed)

    result: Sequential | Seq2Seq
    if isinstance(model, Sequential):
        result = sequential(model)
    else:
        attention = None if model.attention is None else made(model.attention)
        parts = sequential(model.encoder), sequential(model.decoder)
        result = Seq2Seq(*parts, attention, model.start, model.end, model.seed)
    if model.loss is not None:
        result.compile(None, copy.copy(model.loss), [copy.copy(metric) for metric in model.metrics])
    return result


def _check(layer: Layer, where: str) -> None:
    """ValueError unless this layer is built, of float32 and not quantised."""
    if isinstance(layer, Quantized):
        raise ValueError(f"{where}expected float32 weights, got {layer.kind} ({type(layer).__name__}): it is quantised "
                         "already; quantize the layer that it was made of")  # fmt: skip
    if not layer.built:
        name = type(layer).__name__
        raise ValueError(f"{where}{name} has no parameters yet: call build(input_size) or use it on data")
    if layer.dtype == np.float64:
        raise ValueError(f"{where}expected a {type(layer).__name__} of dtype float32, got float64: "
                         'with_options(dtype="float32") makes such a layer')  # fmt: skip


# -- what it costs


class MatrixError(NamedTuple):
    """What making one matrix small does."""

    name: str
    shape: tuple[int, ...]
    weights: float  # root of the mean square of the weights' errors, by that of the weights
    outputs: float  # the same of the outputs on the data, with this matrix alone small


@dataclass(frozen=True, repr=False)
class Report:
    """The errors of a layer or model with small weights on somebody's data. Its repr is a table.

    Attributes
    ----------
    kind : str
        Of the small weights; several with commas between them, in the order of the layers.
    matrices : list of MatrixError
        For each small matrix its name, its shape, the relative error of its weights, and that of the outputs if this
        matrix alone were small (its weights; the inputs that int8 rounds as well are in the figures below).
    largest, rms : float
        Of the outputs' errors, all weights small: the largest, and the root of the mean square.
    relative : float
        `rms` by the same of the outputs.
    same : float or None
        Of outputs that are probabilities (softmax, sigmoid): the share with the same class, that of the largest, or
        with sigmoid on the same side of 0.5; what became NaN is not the same. None of others.
    count : int
        Of the vectors of outputs that were compared: a row's, or those of its valid steps.
    """

    kind: str
    matrices: list[MatrixError]
    largest: float
    rms: float
    relative: float
    same: float | None
    count: int

    def __repr__(self) -> str:
        width = max(6, *(len(matrix.name) for matrix in self.matrices))
        lines = [f"{self.kind}, relative errors", f"{'':<{width}}  {'shape':>12}  weights  outputs, it alone"]
        for name, shape, weights, outputs in self.matrices:
            lines.append(f"{name:<{width}}  {'x'.join(map(str, shape)):>12}  {weights:7.1e}  {outputs:7.1e}")
        rounds = "int8" in self.kind and not all(matrix.name.endswith("embeddings") for matrix in self.matrices)
        whole = "all, and inputs and states in 8 bits" if rounds else "all"
        lines.append(f"{whole:<{width + 23}}  {self.relative:7.1e}")
        lines.append(f"errors of {self.count:,} outputs: largest {self.largest:.2g}, rms {self.rms:.2g}")
        if self.same is not None:
            lines[-1] += f", same class {100 * self.same:.2f} %"
        return "\n".join(lines)


def compare(
    layer_or_model: LayerOrModel,
    quantized: LayerOrModel,
    x: Any,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    resets: Any = None,
) -> Report:
    """Return the errors of small weights on data.

    The model runs once for each matrix: some hundred examples, which the model was not trained on, tell as much as all.

    Parameters
    ----------
    layer_or_model : layer, Sequential or Seq2Seq
        That of float32.
    quantized : layer, Sequential or Seq2Seq
        What `quantize` made of it.
    x, lengths, mask, resets
        As a call of the float32 one takes them. Of a Seq2Seq a pair (source, target), without the others. What lies
        outside lengths or mask does not count; states of stateful layers stay as they are.

    Returns
    -------
    Report

    Raises
    ------
    TypeError, ValueError
        If the data do not fit, have no outputs or some that are not finite in float32, or `quantized` is not of that
        layer or model.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> model = cgru.Sequential([cgru.GRU(8), cgru.Dense(3, activation="softmax")], seed=0)
    >>> x = np.random.default_rng(0).standard_normal((20, 5, 4))
    >>> _ = model.build(4)
    >>> report = cgru.quantized.compare(model, cgru.quantize(model, "bfloat16"), x)
    >>> [matrix.name for matrix in report.matrices]
    ['0.kernel', '0.recurrent_kernel', '1.kernel']
    >>> bool(report.largest < 0.01), report.count
    (True, 20)
    """
    return _compare(layer_or_model, quantized, x, (lengths, mask, resets), "x")


_Given: TypeAlias = tuple[Any, Any, Any]  # lengths, mask, resets
_NONE_GIVEN: _Given = (None, None, None)


def _compare(layer_or_model: Any, quantized: Any, x: Any, given: _Given, called: str) -> Report:
    """`compare`; `called` is what the caller calls x."""
    small_layers = _check_pair(layer_or_model, quantized)
    kind = ", ".join(dict.fromkeys(layer.kind for layer in small_layers))
    exact, got = (_outputs(one, x, given, called) for one in (layer_or_model, quantized))
    if not exact.size or not np.isfinite(exact).all():
        what = "numbers that are not finite" if exact.size else "none"
        raise ValueError(f"{called}: expected data with outputs that are finite in float32, got {what}")
    matrices = _matrix_errors(copy.copy(layer_or_model), quantized, exact, x, given, called)
    errors = np.abs(got.astype(np.float64) - exact)
    rms = float(np.sqrt(np.square(errors).mean()))
    relative, same = _relative(exact, got), _same(layer_or_model, exact, got)
    return Report(kind, matrices, float(errors.max()), rms, relative, same, len(exact))


def _check_pair(layer_or_model: Any, quantized: Any) -> list[Quantized]:
    """Return the small layers of `quantized`, after checking that it is of that layer or model."""
    for name, one in (("layer_or_model", layer_or_model), ("quantized", quantized)):
        if not isinstance(one, (Layer, Sequential, Seq2Seq)):
            raise TypeError(f"{name}: expected a layer or model, got {model_text(one)}")
    for i, layer in enumerate(_layers(layer_or_model)):
        if isinstance(layer, Quantized):
            where = "" if layer is layer_or_model else f"{examples.title(_layers(layer_or_model), i)}: "
            _check(layer, f"layer_or_model: {where}")
    shapes = [{name: p.shape for name, p in one.parameters.items()} for one in (layer_or_model, quantized)]
    small_layers = [layer for layer in _layers(quantized) if isinstance(layer, Quantized)]
    parts = _layers(layer_or_model), _layers(quantized)
    tokens = [(getattr(one, "start", None), getattr(one, "end", None)) for one in (layer_or_model, quantized)]
    alike = shapes[0] == shapes[1] and len(parts[0]) == len(parts[1]) and tokens[0] == tokens[1]
    if not alike or not small_layers or not all(map(_is_of, *parts)):
        raise ValueError("quantized: expected what quantize made of the layer or model, got another one")
    return small_layers


def _matrix_errors(
    trial: Any, quantized: Any, exact: Array, x: Any, given: _Given, called: str
) -> list[MatrixError]:
    """What each small matrix does by itself; `trial` is a float32 one of our own, with outputs `exact`."""
    found = []
    for name, layer, key, own in _matrices(trial, quantized):
        kept = layer.parameters[key].copy()
        weights = own.parameters[key]
        with layer.update() as parameters:
            parameters[key] = weights
        alone = _outputs(trial, x, given, called)
        found.append(MatrixError(name, kept.shape, _relative(kept, weights), _relative(exact, alone)))
        with layer.update() as parameters:
            parameters[key] = kept
    return found


def _is_of(layer: Layer, own: Layer) -> bool:
    """Whether `own` may be what `quantize` made of the layer, or of one with other options that do not count here."""
    if type(own) is not type(layer) and type(own) is not QUANTIZED.get(type(layer)):
        return False
    kept, config = layer.get_config(), own.get_config()
    return all(repr(kept[name]) == repr(config[name]) for name in kept if name not in _FREE and kind_of(name) is None)


_FREE = ("trainable", "seed", "stateful")


def _layers(one: Any) -> list[Any]:
    return [one] if isinstance(one, Layer) else list(one.layers)


def _matrices(model: Any, quantized: Any) -> Iterator[tuple[str, Layer, str, Quantized]]:
    """Yield (name, float32 layer, name in the layer, quantised layer) of each small matrix."""
    names = [""] if isinstance(model, Layer) else [f"{name}." for name in model._names]
    for start, layer, own in zip(names, _layers(model), _layers(quantized), strict=True):
        if isinstance(own, Quantized):
            yield from ((start + key, layer, key, own) for key in own.parameters if own._is_small(key))


def _outputs(one: Any, x: Any, given: _Given, called: str) -> Array:
    """The outputs (M, K) that count, from the state that new sequences start from."""
    lengths, mask, resets = given
    if isinstance(one, Seq2Seq):
        if not isinstance(x, (tuple, list)) or len(x) != 2:
            raise TypeError(f"{called}: expected a pair (source, target) for a Seq2Seq, got {model_text(x)}")
        if resets is not None:
            raise ValueError("resets: expected None for a Seq2Seq, got some")
        fields = {"lengths": lengths, "mask": mask, "target_lengths": None, "sample_weight": None}
        source, target = x
        out = one._forward(one._pair(source, target, fields))[0]
    else:
        layers = [la.with_options(stateful=False) if getattr(la, "stateful", False) else la for la in _layers(one)]
        if getattr(one, "time_major", False):
            out = as_batch(x, lengths, mask, resets, dtype=one.dtype, time_major=True, name=called)
        else:
            out = examples.inputs(layers, x, lengths, mask, resets, name=called)[0]
        for layer in layers:
            out = layer.forward_batch(out)[0]
    return valid_rows(out.data, out.valid, out.data.dtype)


def _relative(exact: Array, got: Array) -> float:
    """Root of the mean square of the differences, by that of the exact numbers."""
    wide = exact.astype(np.float64)
    whole = float(np.square(wide).sum())
    difference = float(np.square(got - wide).sum())
    return float(np.sqrt(difference / whole)) if whole else float(difference > 0)


def _same(one: Any, exact: Array, got: Array) -> float | None:
    last = _layers(one)[-1]
    if not isinstance(last, Dense) or last.activation not in ("softmax", "sigmoid"):
        return None
    if last.activation == "sigmoid":
        return float(np.where(np.isnan(got), False, (exact > 0.5) == (got > 0.5)).mean())
    return float(np.where(np.isnan(got).any(-1), False, exact.argmax(-1) == got.argmax(-1)).mean())
