"""An encoder and a decoder as one model: what fits together, and the passes through both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

import numpy as np

from cgru.checks import check_int, check_name, model_text
from cgru.layers import GRU, Attention, Dense, Embedding, Masking
from cgru.layers.cross_attention import SCORES
from cgru.models import decoding, pairs
from cgru.models.examples import title
from cgru.models.handover import Handover
from cgru.models.pairs import Pair
from cgru.models.sequential import Sequential
from cgru.models.targets import Targets, targets
from cgru.models.training import Trainable
from cgru.sequences import Batch
from cgru.typing import Array, AttentionScore, IntArray, Key, Parameter, Recompute, Shape, States

if TYPE_CHECKING:
    from typing_extensions import Self

Layers: TypeAlias = Sequence[Any]


class EncoderDecoder(Trainable):
    """Base class of `Seq2Seq`, which is its face: layers, configuration and passes."""

    encoder: Sequential
    decoder: Sequential
    attention: Attention | None
    start: int
    end: int
    _options: tuple[str, ...] = ("encoder", "decoder", "attention", "start", "end")
    _inputs = "source"
    _beside = ("lengths", "mask", "target_lengths", "sample_weight")

    def __init__(
        self,
        encoder: Sequential,
        decoder: Sequential,
        attention: AttentionScore | Attention | None = None,
        start: SupportsIndex = 1,
        end: SupportsIndex = 2,
        seed: SupportsIndex | None = None,
    ) -> None:
        for name, part in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(part, Sequential):
                raise TypeError(f"{name}: expected a Sequential, got {model_text(part)}")
        last = _check_decoder(decoder.layers)
        _check_encoder(encoder.layers, attention is not None)
        handover = Handover(encoder.layers, decoder.layers)
        attention = _attention(attention, encoder.layers, decoder.layers[last])
        inner = [] if attention is None else [attention]
        if seed is not None:
            for part in (encoder, decoder):
                for layer in part.layers if part.seed is None else ():
                    layer._inherited_seed = None  # drawn when nothing else was known
        super().__init__([*encoder.layers, *decoder.layers[: last + 1], *inner, *decoder.layers[last + 1 :]], seed)
        self.encoder, self.decoder, self.attention = encoder, decoder, attention
        self.start, self.end = check_int(start, "start"), check_int(end, "end")
        for name, limit in (("start", decoder.layers[0].input_dim), ("end", self.classes)):
            if getattr(self, name) >= limit:
                raise ValueError(
                    f"{name}: expected less than {limit}, the number of the decoder's "
                    f"{'ids' if name == 'start' else 'outputs'}, got {getattr(self, name)}"
                )
        self._handover = handover
        padding = {0} if decoder.layers[0].mask_zero else set()
        for name in ("start", "end"):
            if getattr(self, name) in padding:
                raise ValueError(f"{name}: expected another id than 0, which is padding by mask_zero=True, got 0")
        self._never = [i for i in padding | {self.start} - {self.end} if i < self.classes]  # what is not said

    @property
    def classes(self) -> int:
        """Number of ids that the decoder may say."""
        return self.decoder.layers[-1].units

    @property
    def _names(self) -> list[str]:
        inner = 0 if self.attention is None else self.layers.index(self.attention)
        encoder, decoder = len(self.encoder.layers), len(self.decoder.layers)
        names = [f"encoder.{i}" for i in range(encoder)] + [f"decoder.{i}" for i in range(decoder)]
        return names[:inner] + ["attention"] + names[inner:] if inner else names

    # -- configuration

    def get_config(self) -> dict[str, Any]:
        """Return encoder, decoder, attention, start, end and seed as a dict that JSON can hold; parameters are not part
        of it."""
        return {
            "encoder": self.encoder.get_config(),
            "decoder": self.decoder.get_config(),
            "attention": None if self.attention is None else self.attention.get_config(),
            "start": self.start,
            "end": self.end,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return a new, unbuilt model from what `get_config` returned.

        Raises
        ------
        TypeError, ValueError
            If `config` is not of that form, or names a layer that this library does not have.
        """
        names = ("encoder", "decoder", "attention", "start", "end", "seed")
        if not isinstance(config, dict) or config.keys() != set(names):
            raise ValueError(f"config: expected a dict of {', '.join(names)}, got {config!r}")
        encoder, decoder = (Sequential.from_config(config[name]) for name in ("encoder", "decoder"))
        attention = config["attention"]
        if attention is not None:
            attention = Attention.from_config(attention)
        return cls(encoder, decoder, attention, config["start"], config["end"], config["seed"])

    def __repr__(self) -> str:
        parts = [repr(self.encoder), repr(self.decoder)]
        if self.attention is not None:
            own = self.attention
            plain = Attention(own.score, memory_size=own.memory_size, dtype=self.layers[-1].dtype)
            parts.append(f"attention={own.score if own.get_config() == plain.get_config() else own!r}")
        parts += [f"start={self.start}", f"end={self.end}"]
        return f"{type(self).__name__}({', '.join(parts)}{'' if self.seed is None else f', seed={self.seed}'})"

    def _output_shapes(self) -> Iterator[Shape | None]:
        yield from self.encoder._output_shapes()
        shape: Shape | None = ("N", "T")
        for layer in self.layers[len(self.encoder.layers) :]:
            shape = layer.output_shape(shape)
            yield shape

    # -- parameters

    def build(self, input_size: SupportsIndex | None = None) -> Self:
        """Create the parameters of all layers for sources of `input_size` features (not needed before an Embedding).

        Raises
        ------
        TypeError, ValueError
            If `input_size` is not a positive integer, or a layer was built for another size.
        """
        self.encoder.build(input_size)
        size: Any = None
        for layer in self.layers[len(self.encoder.layers) :]:
            layer.build(size)
            size = layer.output_size(size)
        return self

    # -- the work

    def _examples(
        self, x: Any, y: Any, options: Mapping[str, Any], like: Any = None, whole: bool = True
    ) -> tuple[Pair, Targets]:
        pair, labels = pairs.read(self, x, y, options, like)
        weights = {name: options.get(name) for name in ("sample_weight", "class_weight")}
        return pair, self._targets(labels, pair, self._output_shape(pair), whole=whole, **weights)

    def _output_shape(self, batch: Pair) -> Shape:
        return pairs.output_shape(self, batch)

    def _targets(self, y: Any, batch: Pair, shape: Shape, **options: Any) -> Targets:
        return targets(self.decoder.layers, self.loss, self.metrics, y, batch.target, shape, name="target", **options)

    def _rows_of(self, batch: Pair, targets: Targets, rows: IntArray) -> tuple[Pair, Targets]:
        pair = self._converted(batch.take(rows))
        return pair, targets.take(rows, slice(pair.target.data.shape[1]))

    def _converted(self, batch: Pair) -> Pair:
        return Pair(self.encoder._converted(batch.source), batch.target)

    def _build_for(self, batch: Pair) -> None:
        data = batch.source.data
        self.build(data.shape[-1] if data.ndim == 3 else None)

    def _begun(self, batch: Batch) -> decoding.Begun:
        """The decoder after the encoder has read these sources."""
        flow, after = self.encoder._converted(batch), []
        for layer in self.encoder.layers:
            flow, state, _, _ = layer.forward_batch(flow)
            after.append(state)
        states: list[Any] = self._handover.states(after)
        if self.attention is None:
            return decoding.Begun(states, None)
        states.insert(self.layers.index(self.attention) - len(self.encoder.layers), None)
        return decoding.Begun(states, self.attention.prepared(self.attention.remember(flow)))

    def _forward(
        self,
        batch: Any,
        states: States | None = None,
        training: bool = False,
        key: Key = None,
        end: int | None = None,
        first: int = 0,
        recompute: Recompute = None,
    ) -> tuple[Batch, States, list[Any], float]:
        """As `Updatable._forward`; the tape of an encoder's layer comes with its state."""
        flow = encoded = batch.source
        tapes: list[Any] = []
        after: list[Any] = []
        begun: dict[int, Any] = {}
        total = 0.0
        layer: Any
        for i, layer in enumerate(self.layers[:end]):
            if i == len(self.encoder.layers):
                encoded, flow = flow, batch.target
                begun = self._begun_states(after)
            if isinstance(layer, Attention):
                layer.build(flow.data.shape[-1], encoded.data.shape[-1])
                flow, tape = layer.attend_batch(flow, layer.remember(encoded))
                tapes.append(tape if training and i >= first else None)
                after.append(None)
                continue
            wanted = training and (i >= first or layer.draws)
            options = {"recompute": recompute} if wanted and layer.recomputes else {}
            flow, state, penalty, tape = layer.forward_batch(
                flow, begun.get(i), self._layer_key(key, i, layer), wanted, **options
            )
            total += penalty
            after.append(state)
            tapes.append((tape, state) if i < len(self.encoder.layers) else tape)
        return flow, [None] * len(after), tapes, total

    def _begun_states(self, after: States) -> dict[int, Any]:
        """dict layer index -> state that a GRU of the decoder starts from."""
        places = (i for i, layer in enumerate(self.layers) if i >= len(after) and layer is not self.attention)
        return dict(zip(places, self._handover.states(after), strict=True))

    def _backward(self, d_out: Array, tapes: list[Any], at_logits: bool) -> dict[Parameter, Array]:
        trained = [i for i, layer in enumerate(self.layers) if layer.trainable and layer._built_parameters()]
        first, last, border = self._first_trained(), len(self.layers) - 1, len(self.encoder.layers)
        gradients: dict[Parameter, Array] = {}
        d: Any = d_out
        d_encoded: Any = None
        d_states: list[Any] = [None] * len(self.layers)
        layer: Any
        for i in range(last, first - 1, -1):
            layer, tape = self.layers[i], tapes[i]
            wanted = {} if i in trained or not layer._built_parameters() else {"need_grads": False}
            if i == border - 1:
                own = [d for j, d in enumerate(d_states) if j >= border and self.layers[j] is not self.attention]
                d_states[:border] = self._handover.gradients(own, [state for _, state in tapes[:border]])
                d = np.zeros(tape[0].output_shape, layer.dtype) if d_encoded is None else d_encoded
            if i < border:
                tape = tape[0]
            if isinstance(layer, Attention):
                d, d_encoded, grads = layer.attend_backward(d, tape, **wanted)
            elif at_logits and i == last:
                d, grads = layer.backward_logits(d, tape, i > first, **wanted)
            else:
                need_dx = i > first and i != border
                d, d_states[i], grads = layer.backward_batch(d, d_states[i], tape, need_dx=need_dx, **wanted)
            if i in trained:
                gradients.update({(i, name): gradient for name, gradient in layer.add_penalties(grads).items()})
        return gradients


# -- what fits together


def _check_decoder(layers: Layers) -> int:
    """Return the index of the last GRU; the ValueError says what a decoder's layers should be."""
    grus = [i for i, layer in enumerate(layers) if isinstance(layer, GRU)]
    first, last = layers[0], layers[-1]
    if not isinstance(first, Embedding):
        raise ValueError(f"decoder: expected an Embedding as its first layer, which reads ids, got {title(layers, 0)}")
    if not grus:
        raise ValueError("decoder: expected at least one GRU, got none")
    if not isinstance(last, Dense) or last.activation not in ("softmax", "linear"):
        raise ValueError(
            f"decoder: expected a Dense with softmax as its last layer (or a linear one, of logits), got {last!r}"
        )
    for i, layer in enumerate(layers):
        if layer._has_step_state or layer.refuses_steps() is not None or isinstance(layer, Masking):
            raise ValueError(
                f"decoder: expected GRUs, and layers that work on each step by itself, got {title(layers, i)}"
            )
    for i in grus:
        for option in ("bidirectional", "reverse", "go_backwards", "stateful"):
            if getattr(layers[i], option):
                who = title(layers, i)
                raise ValueError(f"decoder: expected GRUs that run forward in time, got {option}=True in {who}")
        if layers[i].learn_initial_state:
            raise ValueError(
                "decoder: expected GRUs whose state comes from the encoder, got learn_initial_state=True in "
                f"{title(layers, i)}"
            )
        if not layers[i].return_sequences:
            raise ValueError(
                f"decoder: expected an output at each step, got return_sequences=False in {title(layers, i)}"
            )
    if last.units > first.input_dim:
        raise ValueError(
            f"decoder: expected an Embedding of at least {last.units} ids, as many as {title(layers, len(layers) - 1)} "
            f"may say, got input_dim={first.input_dim}"
        )
    return grus[-1]


def _check_encoder(layers: Layers, attention: bool) -> None:
    grus = [i for i, layer in enumerate(layers) if isinstance(layer, GRU)]
    if not grus:
        raise ValueError("encoder: expected at least one GRU, whose state is handed over, got none")
    for i in grus:
        if layers[i].stateful:
            who = title(layers, i)
            raise ValueError(f"encoder: expected GRUs without a state of their own, got stateful=True in {who}")
    if not attention and grus[-1] != len(layers) - 1:
        raise ValueError(
            "encoder: expected a GRU as its last layer, because without attention only states are handed over, got "
            f"{title(layers, len(layers) - 1)}"
        )
    if attention and not layers[grus[-1]].return_sequences:
        raise ValueError(
            f"encoder: expected an output at each step, which attention reads, got return_sequences=False in "
            f"{title(layers, grus[-1])}"
        )


def _attention(attention: Any, encoder: Layers, last: Any) -> Attention | None:
    """Return the layer that an option means, made for the outputs of the encoder."""
    if attention is None:
        return None
    size: Any = None
    for layer in encoder:
        size = layer.output_size(size)
    if isinstance(attention, str):
        attention = Attention(check_name(attention, "attention", SCORES), memory_size=size, dtype=last.dtype)
    if not isinstance(attention, Attention):
        raise TypeError(f"attention: expected None, a name or an Attention, got {type(attention).__name__}")
    if attention.memory_size is None:
        attention._memory_size = size
    if attention.memory_size != size:
        raise ValueError(
            f"attention: expected memory_size={size}, the outputs of the encoder, got {attention.memory_size}"
        )
    try:
        attention.check_size(last.units)
    except ValueError as error:
        raise ValueError(f"attention: {error}") from None
    return attention
