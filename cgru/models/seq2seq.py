"""Seq2Seq: an encoder that reads a sequence, and a decoder that goes on from its state and says another one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru import masks
from cgru.checks import check_bool, check_finite, check_int, check_number
from cgru.models import decoding, pairs
from cgru.models.coupled import EncoderDecoder
from cgru.models.history import History
from cgru.models.pairs import Pair
from cgru.models.progress import Verbose
from cgru.sequences import unpad
from cgru.typing import AllReduce, Array, ArrayOrList, BatchSource, ClassWeight, Recompute, Validation


class Seq2Seq(EncoderDecoder):
    """An encoder-decoder: the encoder reads a sequence, and the decoder, which starts from its state and reads what was
    said so far, says what comes next.

    Parameters
    ----------
    encoder : Sequential
        With a GRU of one direction or two. Its last layer is a GRU; with attention, which reads its outputs, any layer
        with an output at each step.
    decoder : Sequential
        An Embedding, one or more GRUs with return_sequences=True, and at the end a Dense with softmax (or a linear one,
        whose outputs are then logits). Its GRUs have the sizes of the states that they get.
    attention : {None, "dot", "general", "additive"} or cgru.layers.Attention
        Whether the layers behind the decoder's last GRU see, beside its outputs, a mean of the encoder's outputs that
        answer them: the first Dense then has that many more inputs.
    start, end : int
        The id that the decoder reads first, and the one that it is to say last. They are in no target, and in nothing
        that is generated.
    seed : int, optional
        Seed of the initial parameters and of dropout, for layers whose Sequential has none, and of the order of the
        examples in `fit`.

    Attributes
    ----------
    encoder, decoder : Sequential
    attention : Attention or None
    layers : tuple of Layer
        Those of the encoder, those of the decoder, and among these the attention, behind the last GRU.
    history : History or None
        That of the last `fit`.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type, or encoder, decoder and attention do not fit together: the message says
        which layer is to have what.

    Notes
    -----
    State: each layer of the decoder's GRUs starts from the final state of one of the encoder's, the last from the last.
    Of a bidirectional one that is what its `merge_mode` makes of both directions: with "concat" the decoder has twice
    its units.

    Source: whatever the encoder takes, as `Sequential` does, with `lengths` or `mask`, or a list of arrays. Target:
    integers (N, T), with `target_lengths`, or a list of N arrays (T_i,), without start and end, which the model adds:
    the decoder reads start and target, and learns to say target and end. Keras' form works as well, ``fit([source,
    decoder_inputs], labels)``, where both are as long and shifted already. What lies outside lengths is never read.

    Weights of steps, in `sample_weight`, are those of the target and the end, (N, T + 1).

    Examples
    --------
    Sequences are turned round:

    >>> import numpy as np, cgru
    >>> rng = np.random.default_rng(0)
    >>> source = [rng.integers(3, 6, n) for n in rng.integers(1, 4, 200)]
    >>> encoder = cgru.Sequential([cgru.Embedding(6, 8), cgru.GRU(32)])
    >>> decoder = cgru.Sequential([
    ...     cgru.Embedding(6, 8), cgru.GRU(32, return_sequences=True), cgru.Dense(6, activation="softmax"),
    ... ])
    >>> model = cgru.Seq2Seq(encoder, decoder, seed=0)
    >>> model.compile(cgru.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> history = model.fit(source, [ids[::-1] for ids in source], epochs=20, verbose=0)
    >>> model.generate([[3, 4, 5], [5, 3]], max_length=5)
    [array([5, 4, 3]), array([3, 5])]
    """

    # -- training

    def fit(
        self,
        source: ArrayLike | BatchSource,
        target: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        epochs: SupportsIndex = 1,
        batch_size: SupportsIndex = 32,
        shuffle: bool = True,
        validation_data: Validation | BatchSource | None = None,
        verbose: Verbose = 1,
        *,
        target_lengths: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight | None = None,
        validation_split: float = 0.0,
        callbacks: Sequence[Any] | None = None,
        initial_epoch: SupportsIndex = 0,
        chunk: SupportsIndex | None = None,
        resume: bool = False,
        resets: None = None,
        all_reduce: AllReduce | None = None,
        recompute: Recompute = None,
    ) -> History:
        """Train on sources and targets (see the class), or on the batches that an iterable brings.

        Parameters
        ----------
        source, target, lengths, mask, target_lengths
            As described for the class. With `target` None, `source` brings batches: an iterable of (source, target) or
            (source, target, dict(lengths=..., mask=..., target_lengths=..., sample_weight=...)).
        validation_data : tuple or iterable, optional
            In the same forms.
        sample_weight : array_like of shape (N,), or of the steps (N, T + 1) or a list of N arrays (T_i + 1,); optional
            What each example, or each step of its target and the end, weighs in the loss.
        chunk, resets : None
            Sequences are not cut here: the decoder needs the whole source.
        class_weight : dict id -> weight, optional
            What the ids of targets, and the end, weigh in the loss.
        epochs, batch_size, shuffle, verbose, validation_split, callbacks, initial_epoch, resume, all_reduce, recompute
            As in `Sequential.fit`.

        Returns
        -------
        History
            Also kept in `history`. Figures are those of teacher forcing: each step reads the target before it.

        Raises
        ------
        RuntimeError, TypeError, ValueError, FloatingPointError, KeyboardInterrupt
            As `Sequential.fit`.
        """
        if chunk is not None:
            raise ValueError(f"chunk: expected None, because the decoder needs the whole source, got {chunk!r}")
        given = _given(lengths, mask, target_lengths, sample_weight, resets) | {"class_weight": class_weight}
        return self._fit(
            source, target, given, epochs, batch_size, shuffle, validation_data=validation_data, verbose=verbose,
            validation_split=validation_split, callbacks=callbacks, initial_epoch=initial_epoch, chunk=None,
            resume=resume, all_reduce=all_reduce, recompute=recompute,
        )  # fmt: skip

    def train_on_batch(
        self,
        source: ArrayLike,
        target: ArrayLike,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight | None = None,
        *,
        target_lengths: ArrayLike | None = None,
        resets: None = None,
        recompute: Recompute = None,
    ) -> dict[str, float]:
        """Make one update with these examples, and return a dict of the loss and the metrics before it.

        Raises
        ------
        RuntimeError, TypeError, ValueError, FloatingPointError
            As `fit`.
        """
        given = _given(lengths, mask, target_lengths, sample_weight, resets) | {"class_weight": class_weight}
        return self._train_on_batch(source, target, given, recompute)

    def evaluate(
        self,
        source: ArrayLike | BatchSource,
        target: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        batch_size: SupportsIndex = 32,
        sample_weight: ArrayLike | None = None,
        *,
        target_lengths: ArrayLike | None = None,
        resets: None = None,
    ) -> dict[str, float]:
        """Return a dict with the mean loss and the metrics, with teacher forcing; dropout does not act.

        Raises
        ------
        RuntimeError
            If `compile` was not called.
        TypeError, ValueError
            If an argument does not fit.
        """
        given = _given(lengths, mask, target_lengths, sample_weight, resets)
        return self._evaluate_all(source, target, given, batch_size)

    def test_on_batch(
        self,
        source: ArrayLike,
        target: ArrayLike,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        target_lengths: ArrayLike | None = None,
        resets: None = None,
    ) -> dict[str, float]:
        """Return what `evaluate` does, from one pass over all examples."""
        given = _given(lengths, mask, target_lengths, sample_weight, resets)
        return self._evaluate_all(source, target, given, np.iinfo(np.intp).max)

    # -- inference

    def predict(
        self,
        source: ArrayLike,
        target: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        batch_size: SupportsIndex = 32,
        *,
        target_lengths: ArrayLike | None = None,
    ) -> ArrayOrList:
        """Return the outputs of the decoder with teacher forcing, the probabilities of what is said after each step.

        Returns
        -------
        ndarray or list
            (N, T + 1, K), zero at steps that do not count: of the T ids of the target and of the end; for a list of
            targets a list of arrays (T_i + 1, K). With Keras' inputs, `target` None, (N, T, K).

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.
        """
        batch_size = check_int(batch_size, "batch_size", 1)
        pair = self._pair(source, target, _given(lengths, mask, target_lengths, None))
        outputs: Any = np.zeros(self._output_shape(pair), self.layers[-1].dtype)
        for rows in self._chunks(pair, batch_size):
            part = self._forward(pair.take(rows))[0].data
            outputs[rows, : part.shape[1]] = part
        ragged = target_lengths is None and pair.target.lengths is not None
        return unpad(outputs, pair.target.lengths) if ragged else outputs

    def attention_weights(
        self,
        source: ArrayLike,
        target: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        target_lengths: ArrayLike | None = None,
    ) -> Array:
        """Return which steps of the source each step of the decoder attends to, with teacher forcing.

        Returns
        -------
        ndarray of shape (N, T + 1, S)
            Adds up to 1 over the steps of the source; zero where either does not count. What an encoder with
            go_backwards reads last stands first.

        Raises
        ------
        TypeError, ValueError
            If the model has no attention, or an argument does not fit.
        """
        if self.attention is None:
            raise ValueError("attention: expected a model with attention, got None")
        pair = self._pair(source, target, _given(lengths, mask, target_lengths, None))
        begun, flow = self._begun(pair.source), pair.target
        assert begun.memory is not None
        border, inner = len(self.encoder.layers), self.layers.index(self.attention)
        for layer, state in zip(self.layers[border:inner], begun.states, strict=False):
            flow = layer.forward_batch(flow, state)[0]
        return self.attention.weights_of(self.attention.attend_batch(flow, begun.memory.memory)[1])

    def generate(
        self,
        source: ArrayLike,
        max_length: SupportsIndex = 100,
        beam: SupportsIndex = 1,
        temperature: float | None = None,
        top_k: SupportsIndex | None = None,
        top_p: float | None = None,
        seed: SupportsIndex | None = None,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        length_penalty: float = 0.0,
        return_scores: bool = False,
        batch_size: SupportsIndex = 64,
    ) -> Any:
        """Return what the decoder says to each source.

        Without further arguments it says what is most probable at each step, greedily.

        Parameters
        ----------
        source, lengths, mask
            As in `fit`.
        max_length : int
            So many ids are said at most; the end, where it comes before, counts as one.
        beam : int
            Beam search: so many hypotheses are followed at once, and the most probable whole one is returned. One that
            ends leaves the beam, which is then one smaller. 1 is greedy.
        temperature : float, optional
            Draws instead, from the probabilities to the power of 1 / temperature; 1 if `top_k`, `top_p` or `seed` is
            given.
        top_k : int, optional
            Draws from the so many most probable ids.
        top_p : float, optional
            Draws from the most probable ids that together have at least this probability; more than 0, at most 1.
        seed : int, optional
            Of what is drawn, which follows from it, the row of the source and the step alone. None is another one at
            each call.
        length_penalty : float
            Hypotheses are compared by the sum of the logarithms of their probabilities, divided by their number of ids,
            the end included, to the power of this: 0 compares the sums, 1 the means.
        return_scores : bool
            Whether the scores are returned as well: what hypotheses are compared by, of the probabilities of the model.
        batch_size : int
            So many sources are decoded at once; the result does not depend on it.

        Returns
        -------
        list of ndarray of int, or (list, ndarray of shape (N,)) with `return_scores`
            The ids that are said to each source, without start and end. The start is never said.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type or out of range, or the model has no parameters yet.
        FloatingPointError
            If the outputs of the decoder are not finite.
        """
        max_length, beam = check_int(max_length, "max_length", 1), check_int(beam, "beam", 1)
        batch_size = check_int(batch_size, "batch_size", 1)
        return_scores = check_bool(return_scores, "return_scores")
        penalty = check_finite(length_penalty, "length_penalty", 0)
        if penalty * math.log(max_length) > 700:  # about where exp ends
            raise ValueError(
                f"length_penalty: expected max_length**length_penalty to be finite, with {max_length} got {penalty}"
            )
        drawn = _drawing(temperature, top_k, top_p, seed)
        if drawn is not None and beam > 1:
            raise ValueError(f"beam: expected 1 beside temperature, top_k, top_p or seed, which draw, got {beam}")
        if not self.built:
            raise ValueError("generate: expected a model with parameters, got none: fit, build or load it first")
        batch: Any = None  # of no source at all
        if not isinstance(source, (list, tuple)) or len(source):
            batch = pairs.source_of(self, source, {"lengths": lengths, "mask": mask})
        count = 0 if batch is None else len(batch.data)
        said: list[Any] = [None] * count
        scores = np.zeros(count)
        for rows in [] if batch is None else self._chunks(batch, batch_size):
            policy: decoding.Policy = decoding.Greedy()
            if drawn is not None:
                policy = decoding.Sampling(*drawn, rows)
            elif beam > 1:
                policy = decoding.Beam(beam, len(rows), self.end)
            begun = self._begun(batch.take(rows))
            found, scores[rows] = decoding.decode(self, begun, rows, max_length, policy, penalty)
            for row, ids in zip(rows, found, strict=True):
                said[row] = ids
        return (said, scores) if return_scores else said

    def _pair(self, source: Any, target: Any, given: Mapping[str, Any]) -> Pair:
        """What encoder and decoder read, with teacher forcing."""
        pair = pairs.read(self, source, target, given)[0]
        self._build_for(pair)
        return pair


def _given(lengths: Any, mask: Any, target_lengths: Any, sample_weight: Any, resets: Any = None) -> dict[str, Any]:
    if resets is not None:
        raise ValueError("resets: expected None, because the decoder needs the whole source, got resets within it")
    return {"lengths": lengths, "mask": mask, "target_lengths": target_lengths, "sample_weight": sample_weight}


def _drawing(temperature: Any, top_k: Any, top_p: Any, seed: Any) -> tuple[float, int | None, float | None, int] | None:
    """Return (temperature, top_k, top_p, seed) checked, or None if nothing is to be drawn."""
    if temperature is top_k is top_p is seed is None:
        return None
    warm = 1.0 if temperature is None else check_number(temperature, "temperature")
    if not 0 < warm < np.inf:
        raise ValueError(f"temperature: expected a finite number above 0, got {temperature!r}")
    if top_k is not None:
        top_k = check_int(top_k, "top_k", 1)
    if top_p is not None and not 0 < check_number(top_p, "top_p") <= 1:
        raise ValueError(f"top_p: expected a number above 0 and at most 1, got {top_p!r}")
    return warm, top_k, top_p, masks.seed_of(None if seed is None else check_int(seed, "seed"))
