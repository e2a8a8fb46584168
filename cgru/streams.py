"""Many streams through one model: each has a key, and its state waits in a slot for the next step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, KeysView, Mapping, Sequence, Set
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from cgru.checks import check_int, check_name, check_number, model_text, shape_text
from cgru.layers import GRU, Embedding, Layer, Masking
from cgru.locks import Locked
from cgru.models import Sequential, examples, stepping
from cgru.sequences import Batch, as_numeric, pad
from cgru.slots import Claim, Slots, Words, check_found_again
from cgru.snapshots import check_signature, key_array, like, listed, signature
from cgru.typing import AnyArray, Array, Shape


class _Field(NamedTuple):
    """Where the words of a slot hold one array of one layer's state."""

    layer: int  # index in the model
    part: int | None  # which one of several arrays; None where it is the only one
    words: slice
    dtype: np.dtype[Any]
    shape: Shape  # of one stream

    @property
    def name(self) -> str:
        return f"layer{self.layer}" if self.part is None else f"layer{self.layer}.{self.part}"

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def of(self, rows: Words) -> AnyArray:
        """A view of the field in `rows` (K, words): (K, size)."""
        return rows[:, self.words].view(self.dtype)[:, : self.size]


class Streams(Locked):
    """Concurrent streams through one model, each of which goes on from where it was.

    Parameters
    ----------
    model : Sequential or GRU
        One that runs forward in time (`Sequential.step` says which do). Its parameters may change in between.
    max_streams : int
        How many streams there may be at once: the memory for so many states is set aside.
    idle : float, optional
        Seconds. A stream that took no step for longer is dropped, and starts anew when its key comes back. None:
        streams stay until `drop`.
    when_full : {"refuse", "replace"}
        What happens when a key comes for which there is no slot, not even that of an idle stream: "refuse" raises, and
        nothing is done; with "replace" the streams that took no step for longest are dropped for it, when the calls
        that use them have ended.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong type or out of range, or the model cannot run step by step, or is stateful: here
        the streams keep the states.

    Notes
    -----
    Every stream gives, to the bit, what the model gives for its whole sequence (with the native backend): in any
    company, in any order, cut anywhere, on any number of threads.

    A call that raises has moved no stream. Numbers that are not finite are refused, because a state would keep them for
    good.

    Any number of threads may share one object. Calls about the same stream come one after the other, others run at the
    same time. A copy or pickle holds the streams as they are, and a copy of the model.

    Examples
    --------
    >>> import numpy as np, cgru
    >>> model = cgru.Sequential([cgru.GRU(4), cgru.Dense(2, activation="softmax")], seed=0)
    >>> streams, x = cgru.Streams(model), np.ones((3, 5), np.float32)
    >>> streams.step(["ann", "bob", "cyd"], x).shape
    (3, 2)
    >>> y = streams.step(["cyd"], x[:1])  # the second step of one of them
    >>> bool((y == model(np.ones((1, 2, 5)))).all()), sorted(streams)
    (True, ['ann', 'bob', 'cyd'])
    """

    def __init__(
        self,
        model: Sequential | GRU,
        *,
        max_streams: SupportsIndex = 1024,
        idle: float | None = None,
        when_full: Literal["refuse", "replace"] = "refuse",
    ) -> None:
        if not isinstance(model, (Sequential, GRU)):
            raise TypeError(f"model: expected a Sequential or a GRU, got {model_text(model)}")
        super().__init__()
        self._model = model if isinstance(model, Sequential) else Sequential([model])
        stepping.check(self._model.layers)
        for i, layer in enumerate(self._model.layers):
            if getattr(layer, "stateful", False):
                raise ValueError(
                    f"model: expected stateful=False, as the streams keep the states, got stateful=True in "
                    f"{examples.title(self._model.layers, i)}: with_options(stateful=False) makes such a layer"
                )
        self.model = model
        count = check_int(max_streams, "max_streams", 1)
        if idle is not None and not check_number(idle, "idle") > 0:
            raise ValueError(f"idle: expected seconds above 0, or None, got {idle!r}")
        check_name(when_full, "when_full", ("refuse", "replace"))
        self._slots = Slots(count, None if idle is None else float(idle), when_full == "replace")
        self._fields: list[_Field] | None = None  # None: sizes are not known yet
        self._every_step = False  # whether the model has an output at each step
        self._features: int | None = None
        if self._model.built:
            self._prepare(None)

    # -- what one asks

    def __len__(self) -> int:
        return len(self._slots.of_key)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._slots.of_key

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._slots.everything()[0])

    def __repr__(self) -> str:
        return f"<Streams: {len(self)} of at most {self._slots.count}>"

    # -- steps

    def step(self, keys: Sequence[Hashable], x: ArrayLike) -> Array:
        """Take one time step in each of K streams; a key that is new begins a stream.

        Parameters
        ----------
        keys : list, tuple or array of K hashable keys
            Each once.
        x : array_like of shape (K, D), or ids (K,) before an Embedding
            Row i is for keys[i].

        Returns
        -------
        ndarray of shape (K, F)
            What the model gives for each stream up to here: of a model with an output at each step, the last one.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit, holds a key twice or a number that is not finite.
        RuntimeError
            If there are more streams than `max_streams`.
        """
        if isinstance(keys, Set) and not isinstance(keys, KeysView):
            raise TypeError(f"keys: expected a list of keys in the order of the rows of x, got a {type(keys).__name__}")
        names, held = listed(keys)
        data = as_numeric(x, None, "x")
        if data.ndim == 0 or len(data) != len(names):
            raise ValueError(f"x: expected {len(names)} rows, one for each key, got shape {shape_text(data.shape)}")
        data = self._checked(data, "x", names)
        self._prepare(data)

        def advance(rows: Words) -> Array:
            return self._step(data, rows)

        return self._run(Claim(names, held), advance)

    def feed(self, chunks: Mapping[Hashable, ArrayLike]) -> dict[Hashable, Array]:
        """Take several time steps in each of some streams; a key that is new begins a stream.

        Parameters
        ----------
        chunks : dict of key -> array_like of shape (T_i, D), or ids (T_i,) before an Embedding
            The next steps of each stream, as many as it has: one at least, unless the model has an output at each step.

        Returns
        -------
        dict of key -> ndarray
            Of a model with an output at each step, (T_i, F); else (F,), the output for the stream up to here.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `step`.

        Examples
        --------
        >>> import numpy as np, cgru
        >>> layer = cgru.GRU(4, return_sequences=True, seed=0)
        >>> x, streams = np.random.default_rng(0).standard_normal((7, 3)), cgru.Streams(layer)
        >>> first, rest = streams.feed({"a": x[:2]}), streams.feed({"b": x, "a": x[2:]})
        >>> bool((np.concatenate([first["a"], rest["a"]]) == layer(x[None])[0]).all())
        True
        >>> bool((rest["b"] == layer(x[None])[0]).all())
        True
        """
        if not isinstance(chunks, Mapping):
            raise TypeError(f"chunks: expected a dict of key -> steps, got {type(chunks).__name__}")
        if not chunks:
            return {}
        names = list(chunks)
        parts: list[AnyArray] = []
        for key in names:
            name = f"chunks[{key!r}]"
            parts.append(self._checked(as_numeric(chunks[key], None, name), name, like=parts[0] if parts else None))
        self._prepare(parts[0])
        for key, part in zip(names, parts, strict=True):
            if not len(part) and not self._every_step:
                raise ValueError(f"chunks[{key!r}]: expected at least one step, got shape {shape_text(part.shape)}")
        data, lengths = pad(parts, name="chunks")

        def advance(rows: Words) -> Array:
            return self._advance(Batch(data, lengths), rows)

        outputs = self._run(Claim(names, set(names)), advance)
        return {
            key: y[:n].copy() if self._every_step else y.copy()
            for key, y, n in zip(names, outputs, lengths, strict=True)
        }

    def drop(self, keys: Iterable[Hashable]) -> int:
        """Forget these streams: a key that comes back begins anew. Return how many of them there were.

        Parameters
        ----------
        keys : list, tuple or array of keys
            Those that no stream has are passed over.

        Raises
        ------
        TypeError, ValueError
            If `keys` is no list of hashable keys, or holds one twice.
        """
        return self._slots.drop(listed(keys)[1])

    # -- snapshots

    def snapshot(self) -> dict[str, AnyArray]:
        """Return all streams as they are, for `restore`: a dict of arrays, for pickles and for ``numpy.savez``.

        Returns
        -------
        dict of str -> ndarray
            "keys" (K,): of integers or of text if all keys are such, else of objects, which files hold as pickles
            alone; "ages" (K,): the seconds since their last steps; "layer0" and so on: the states of the layers that
            have one, a row a stream; and "model", a text that tells the model and its weights from others.

        Raises
        ------
        RuntimeError
            If the model is not built.
        """
        fields = self._built()
        names, ages, rows = self._slots.everything()
        states = {field.name: field.of(rows).reshape(len(rows), *field.shape).copy() for field in fields}
        return {"keys": key_array(names), "ages": ages, **states, "model": np.array(signature(self._model))}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Take the streams of a snapshot in place of all that there are; on an error they stay.

        Parameters
        ----------
        snapshot : mapping of str -> ndarray
            What `snapshot` returned, or ``numpy.load`` of the file that it was written to.

        Raises
        ------
        TypeError, ValueError
            If it is no snapshot, of another model or of other weights, or has more than `max_streams` streams. What
            `cgru.quantize` makes of a model, of any kind, is the same model here: a snapshot goes over and back.
        RuntimeError
            If the model is not built.
        """
        fields = self._built()
        if not isinstance(snapshot, Mapping):
            raise TypeError(f"snapshot: expected what snapshot() returned, got {type(snapshot).__name__}")
        expected = ["keys", "ages", "model", *(field.name for field in fields)]
        if "model" in snapshot:
            check_signature(snapshot["model"], signature(self._model))
        if set(snapshot) != set(expected):
            got = ", ".join(map(str, snapshot)) or "nothing"
            raise ValueError(f"snapshot: expected {', '.join(expected)}, got {got}")
        names, _ = listed(np.asarray(snapshot["keys"]), "snapshot['keys']")
        check_found_again(names)
        count = len(names)
        if count > self._slots.count:
            raise ValueError(f"snapshot: expected at most max_streams={self._slots.count} streams, got {count}")
        ages = like(snapshot["ages"], "ages", (count,), np.dtype(np.float64))
        if not ((ages >= 0) & (ages < np.inf)).all():
            raise ValueError(f"snapshot['ages']: expected seconds of at least 0, got {ages.tolist()}")
        rows = np.zeros((count, self._slots.words.shape[1]), np.uint64)
        for field in fields:
            state = like(snapshot[field.name], field.name, (count, *field.shape), field.dtype)
            field.of(rows)[...] = state.reshape(count, field.size)
        self._slots.become(names, ages, rows)

    # -- the model

    def _prepare(self, x: AnyArray | None) -> None:
        """Lay out the slots, once the sizes are known: from data x of some rows, or of the model's own input size."""
        if self._fields is not None:
            return
        layers = self._model.layers
        if x is None:
            if isinstance(layers[0], Embedding):
                x = np.zeros(0, np.intp)
            else:  # layers without a size before the first one with it have the same features
                size = next((layer.input_size for layer in layers if layer.input_size is not None), None)
                if size is None:
                    return
                x = np.zeros((0, size), np.float32)
        with self._lock:
            if self._fields is not None:
                return
            try:
                _, state = self._model.step(x[:0])  # nobody's step: what the states look like
            except (TypeError, ValueError) as error:
                raise type(error)(str(error).replace("x_t", "x")) from None
            fields, end = [], 0
            for i, entry in zip(self._with_states(), state, strict=True):
                parts: Any = entry if isinstance(entry, tuple) else (entry,)
                for p, array in enumerate(parts):
                    dtype, shape = np.dtype(np.int64), ()
                    if isinstance(array, np.ndarray):  # else a number of steps, here that of each stream
                        dtype, shape = array.dtype, _of_one(layers[i], array)
                    words = -(-int(np.prod(shape)) * dtype.itemsize // 8)
                    part = p if len(parts) > 1 else None
                    fields.append(_Field(i, part, slice(end, end + words), dtype, shape))
                    end += words
            self._slots.words = np.zeros((self._slots.count, end), np.uint64)
            self._features = x.shape[1] if x.ndim == 2 else None
            given = (1, 1, *x.shape[1:])
            self._every_step = len(examples.output_shape(layers, given, "x", "")) == 3
            self._fields = fields

    def _with_states(self) -> list[int]:
        return [i for i, layer in enumerate(self._model.layers) if isinstance(layer, GRU) or layer._has_step_state]

    def _built(self) -> list[_Field]:
        if self._fields is None:
            self._model._check_built()
            self._prepare(None)
        if self._fields is None:
            raise RuntimeError("the number of features is not known yet: take a step first")
        return self._fields

    def _checked(
        self, data: AnyArray, name: str, keys: list[Hashable] | None = None, like: AnyArray | None = None
    ) -> AnyArray:
        """The steps, (K, D) of `keys` or (T, D) of one stream, when they are sure to fit: the model, or `like`, if that
        is not built."""
        first = self._model.layers[0]
        ids = isinstance(first, Embedding)
        if data.ndim != (1 if ids else 2):
            rows = "T" if keys is None else "K"
            expected = f"({rows},) of ids" if ids else f"({rows}, D)"
            raise ValueError(f"{name}: expected shape {expected}, got {shape_text(data.shape)}")
        if not ids:
            data = examples.converted(self._model.layers, Batch(data)).data
            features = self._features if like is None or self._features is not None else like.shape[1]
            if features not in (None, data.shape[1]):
                raise ValueError(f"{name}: expected {features} features, got shape {shape_text(data.shape)}")
            if not np.isfinite(data).all():
                row = int(np.flatnonzero(~np.isfinite(data).all(axis=1))[0])
                where = f"in step {row}" if keys is None else f"for the key {keys[row]!r}"
                raise ValueError(f"{name}: expected finite numbers, got {data[row].tolist()} {where}")
        first.check_values(Batch(data), name)
        return data

    def _step(self, x: AnyArray, rows: Words) -> Array:
        """One step of the streams whose states are `rows`, which become those after it."""
        fields = self._built()
        state: dict[int, Any] = {}
        for field in fields:
            array = np.ascontiguousarray(self._turned(field, field.of(rows).reshape(len(rows), *field.shape)))
            state[field.layer] = array if field.part is None else (*state.get(field.layer, ()), array)
        try:
            y, after = self._model.step(x, tuple(state.values()))
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("x_t", "x")) from None
        new = dict(zip(state, after, strict=True))
        for field in fields:
            entry = new[field.layer] if field.part is None else new[field.layer][field.part]
            field.of(rows)[...] = self._turned(field, entry).reshape(len(rows), field.size)
        return y

    def _turned(self, field: _Field, state: Any) -> AnyArray:
        """A state with the streams first, or as the layer has it."""
        layer = self._model.layers[field.layer]
        return state.swapaxes(0, 1) if isinstance(layer, GRU) and layer.num_layers > 1 else state

    def _advance(self, batch: Batch, rows: Words) -> AnyArray:
        """All steps of a batch; `rows` become the states after them. Returns the outputs, padded, or the last ones."""
        layers, lengths = self._model.layers, batch.lengths
        assert lengths is not None
        simple = not any(isinstance(layer, Masking) or getattr(layer, "mask_zero", False) for layer in layers)
        if simple and all(isinstance(layers[i], GRU) for i in self._with_states()):
            fields = {field.layer: field for field in self._built()}
            states: list[Any] = [None] * len(layers)
            for i, field in fields.items():
                states[i] = self._turned(field, field.of(rows).reshape(len(rows), *field.shape))
            out, after, *_ = self._model._forward(batch, states)
            for i, field in fields.items():
                field.of(rows)[...] = self._turned(field, after[i]).reshape(len(rows), field.size)
            return out.data
        order = np.argsort(-lengths, kind="stable")
        sorted_rows = rows[order]
        data = np.ascontiguousarray(batch.data[order].swapaxes(0, 1))  # (T, K, D)
        none = self._step(np.empty((0, *data.shape[2:]), data.dtype), rows[:0])
        y = np.zeros((len(rows), *data.shape[:1] * self._every_step, none.shape[1]), none.dtype)
        for t in range(len(data)):
            count = int(np.count_nonzero(lengths > t))
            step = self._step(data[t, :count], sorted_rows[:count])
            y[(order[:count], t) if self._every_step else order[:count]] = step
        rows[order] = sorted_rows
        return y

    def _starts(self, count: int) -> Words:
        """The states of streams that begin."""
        rows = np.zeros((count, self._slots.words.shape[1]), np.uint64)
        for field in self._built():
            layer: Any = self._model.layers[field.layer]
            if not isinstance(layer, GRU):
                field.of(rows)[...] = layer._step_start
            elif layer.learn_initial_state:
                first = layer._first_state(count, layer._ready().learned).swapaxes(0, 1)
                field.of(rows)[...] = first.reshape(count, field.size)
        return rows

    def _run(self, claim: Claim, advance: Callable[[Words], Any]) -> Any:
        """Let `advance` turn the states of these streams into those after it; return what it returns."""
        try:
            rows = self._slots.enter(claim)
            if len(claim.new):
                rows[claim.new] = self._starts(len(claim.new))
            y = advance(rows)
            self._slots.write(claim, rows)
            return y
        finally:
            self._slots.leave(claim)


def _of_one(layer: Layer, state: AnyArray) -> Shape:
    """The shape of one stream's part of a state."""
    if isinstance(layer, GRU) and layer.num_layers > 1:
        return (state.shape[0], *state.shape[2:])
    return state.shape[1:]
