"""The loop that trains a model.

An update is computed aside, with new parameters and a new optimizer state in arrays of their own, and then published by
copies that may be repeated. Ctrl-C can come at any moment: before the copies nothing has changed, and copies that it
interrupts are made again.
"""

import math

import numpy as np

from cgru import losses, metrics, optimizers
from cgru.checks import check_bool, check_int
from cgru.layers import Dense
from cgru.locks import owned
from cgru.models import examples
from cgru.models.model import Model
from cgru.models.progress import figures, progress_of


class History:
    """What `fit` reports.

    Attributes
    ----------
    epochs : list of int
        The finished epochs, counted from 0.
    history : dict
        Name ("loss", "accuracy", "val_loss", ...) -> list with one number for each finished epoch.
    """

    def __init__(self):
        self._results = []  # one dict an epoch: an append is whole or has not happened

    def __repr__(self):
        last = f", the last: {figures(self._results[-1])}" if self._results else ""
        return f"<History of {len(self._results)} epochs{last}>"

    @property
    def epochs(self):
        return list(range(len(self._results)))

    @property
    def history(self):
        names = self._results[0] if self._results else {}
        return {name: [results[name] for results in self._results] for name in names}


class Trainable(Model):
    """A model that can be trained: a subclass implements `build`, `_forward` and `_backward`."""

    def __init__(self, layers, seed=None):
        super().__init__(layers, seed)
        self.history = None
        self.optimizer = self.loss = self.metrics = None
        self._states = None  # the optimizer's: the current one and the spare
        self._proposed = None  # new parameters, computed aside

    def compile(self, optimizer="adam", loss=None, metrics=()):
        """Choose how to train; the optimizer starts afresh.

        Parameters
        ----------
        optimizer : str or Optimizer
            "adam", or one from `cgru.optimizers` with other settings.
        loss : str or Loss
            "sparse_categorical_crossentropy", or one from `cgru.losses`.
        metrics : list of str
            "accuracy".

        Raises
        ------
        TypeError, ValueError
            If a name is unknown, or the loss cannot work on the output of the last layer.
        """
        optimizer, loss = optimizers.get(optimizer), losses.get(loss)
        metrics = _get_metrics(metrics)
        last = self.layers[-1]
        wanted = getattr(loss, "from_logits", None)
        if isinstance(last, Dense) and wanted is not None and wanted != (last.activation not in ("softmax", "sigmoid")):
            what = "logits: a linear last layer" if wanted else "probabilities: a softmax (or sigmoid) last layer"
            raise ValueError(f"loss: {loss.name!r} expected {what}, got activation {last.activation!r}")
        self.optimizer, self.loss, self.metrics = optimizer, loss, metrics
        self._states = None

    def fit(
        self,
        x,
        y,
        lengths=None,
        mask=None,
        epochs=1,
        batch_size=32,
        shuffle=True,
        validation_data=None,
        verbose=1,
    ):
        """Train on examples `x` with labels `y` (see the class).

        Parameters
        ----------
        x, y, lengths, mask
            As described for the class.
        epochs : int
            How often to go through the examples.
        batch_size : int
            Number of examples for an update.
        shuffle : bool
            Whether the order is drawn anew in each epoch, from the model's seed.
        validation_data : tuple, optional
            (x, y) or (x, y, lengths), evaluated after each epoch.
        verbose : {0, 1}
            1: a progress bar if tqdm is installed, else a line an epoch. 0: nothing.

        Returns
        -------
        History
            Also kept in `history`. The figures of an epoch are means over its batches, as they were in training.

        Raises
        ------
        RuntimeError
            If `compile` was not called.
        TypeError, ValueError
            If an argument does not fit, before anything is trained.
        KeyboardInterrupt
            On Ctrl-C. The model is then as the last finished update left it, and `history` holds the finished epochs.
        """
        self._check_compiled()
        epochs, batch_size = check_int(epochs, "epochs"), check_int(batch_size, "batch_size", 1)
        shuffle = check_bool(shuffle, "shuffle")
        if verbose not in (0, 1):
            raise ValueError(f"verbose: expected 0 or 1, got {verbose!r}")
        batch, shape = examples.inputs(self.layers, x, lengths, mask)
        if not len(batch.data):
            raise ValueError("x: expected at least one example, got none")
        labels = examples.labels(y, batch, shape)
        validation = self._validation(validation_data, batch)
        self._build_for(batch)
        self.history = history = History()
        updates = math.ceil(len(labels) / batch_size)
        with progress_of(epochs, updates, verbose) as progress:
            for _ in range(epochs):
                order = self._order.permutation(len(labels)) if shuffle else np.arange(len(labels))
                totals = _Totals(self)
                for start in range(0, len(labels), batch_size):
                    self._update(*examples.rows_of(batch, labels, order[start : start + batch_size]), totals)
                    progress.update()
                results = totals.means()
                if validation is not None:
                    results |= {f"val_{name}": v for name, v in self._evaluate(*validation, batch_size).items()}
                history._results.append(results)
                progress.epoch(results)
        return history

    def evaluate(self, x, y, lengths=None, mask=None, batch_size=32):
        """Return a dict with the mean loss and the metrics on examples `x` with labels `y`; dropout does not act.

        Raises
        ------
        RuntimeError
            If `compile` was not called.
        TypeError, ValueError
            If an argument does not fit.
        """
        self._check_compiled()
        batch_size = check_int(batch_size, "batch_size", 1)
        batch, shape = examples.inputs(self.layers, x, lengths, mask)
        return self._evaluate(batch, examples.labels(y, batch, shape), batch_size)

    # -- the work

    def _check_compiled(self):
        if self.loss is None:
            raise RuntimeError("the model has no loss yet: call compile(optimizer, loss) first")

    def _validation(self, data, like):
        if data is None:
            return None
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            got = f"{len(data)} values" if isinstance(data, (tuple, list)) else type(data).__name__
            raise ValueError(f"validation_data: expected (x, y) or (x, y, lengths), got {got}")
        x, y, lengths = (*data, None)[:3]
        try:
            batch, shape = examples.inputs(self.layers, x, lengths, like=like)
            return batch, examples.labels(y, batch, shape)
        except (TypeError, ValueError) as error:
            raise type(error)(f"validation_data: {error}") from None

    def _build_for(self, batch):
        self.build(batch.data.shape[-1] if batch.data.ndim > 1 else None)

    def _chunks(self, batch, batch_size):
        """Return index arrays that cover the rows, rows of like length together; one, empty, if there are no rows."""
        count = len(batch.data)
        order = np.arange(count)
        if batch.lengths is not None and not any(getattr(layer, "stateful", False) for layer in self.layers):
            order = np.argsort(-batch.lengths, kind="stable")
        return [order[start : start + batch_size] for start in range(0, max(1, count), batch_size)]

    def _evaluate(self, batch, labels, batch_size):
        totals = _Totals(self)
        for rows in self._chunks(batch, batch_size):
            part, part_labels = examples.rows_of(batch, labels, rows)
            outputs, _ = self._forward(part)
            totals.add(outputs, part_labels)
        return totals.means()

    def _update(self, batch, labels, totals):
        """One update from a batch; adds what it saw to `totals`."""
        outputs, tapes = self._forward(batch, training=True)
        at_logits = self._fuses_loss()
        d = self.loss.gradient(outputs.data, labels, outputs.valid, at_logits=at_logits)
        gradients = self._backward(d, tapes, at_logits)
        parameters = {(i, name): self.layers[i].parameters[name] for i, name in gradients}
        current, spare = self._optimizer_states(parameters)
        self.optimizer.propose(parameters, gradients, current, self._proposed, spare)
        self._publish((spare, current))
        totals.add(outputs, labels)

    def _fuses_loss(self):
        """Whether the loss knows its gradient at the input of the last layer's activation."""
        last = self.layers[-1]
        return isinstance(last, Dense) and last.activation == self.loss.fused_activation

    def _optimizer_states(self, parameters):
        if self._states is None or not self._states[0].fits(parameters) or self._proposed.keys() != parameters.keys():
            states = self.optimizer.start(parameters), self.optimizer.start(parameters)
            if self._states is not None:  # other layers are trainable now
                states[0].take_over(self._states[0])
            self._proposed = {key: np.empty_like(array) for key, array in parameters.items()}
            self._states = states
        return self._states

    def _publish(self, states):
        with self._lock:
            try:
                self._copy_proposed(states)
            except KeyboardInterrupt:
                self._copy_proposed(states)
                raise

    def _copy_proposed(self, states):
        for i in {i for i, _ in self._proposed}:
            self.layers[i]._write({name: array for (j, name), array in self._proposed.items() if j == i})
        self._states = states

    def __setstate__(self, state):
        super().__setstate__(state)
        self._proposed = self._proposed and {key: owned(array) for key, array in self._proposed.items()}


class _Totals:
    """Sums of loss and metrics over batches."""

    def __init__(self, model):
        self._measures = {"loss": model.loss, **{metric.name: metric for metric in model.metrics}}
        self._sums = {name: [0.0, 0] for name in self._measures}

    def add(self, outputs, labels):
        for name, measure in self._measures.items():
            total, count = measure.total(outputs.data, labels, outputs.valid)
            self._sums[name][0] += total
            self._sums[name][1] += count

    def means(self):
        return {name: total / count if count else math.nan for name, (total, count) in self._sums.items()}


def _get_metrics(names):
    if not isinstance(names, (list, tuple)):
        raise TypeError(f"metrics: expected a list of names, got {names!r}")
    found = [metrics.get(name) for name in names]
    if len({metric.name for metric in found}) != len(found):
        raise ValueError(f"metrics: expected each name once, got {names!r}")
    return found
