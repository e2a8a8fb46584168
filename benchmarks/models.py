"""Whole models, a step of training at a call: forward, the loss, backward and Adam. Two modes of a `Case`.

"recordings": which of nine speakers is it? The Japanese Vowels recordings go in batches of N through the GRU; its final
state and a linear layer give the logits of a cross-entropy. `padded`: the state is picked from the outputs of the
padded batch.

"words": which word comes next? N rows of T ids go through an embedding of D features, the GRU of H units and, at every
step, a linear layer with an output for each of the words; cross-entropy.
"""

import itertools

import numpy as np

from cgru.cli import case as cases
from cgru.cli import contestants
from cgru.cli.case import weight_names
from cgru.cli.contestants import cells

MODES = ("recordings", "words")
SPEAKERS, WORDS = 9, 5000
RATE = 1e-3  # Adam's


def draw(case, seed=0):
    """As cgru.cli.case.draw; for a model also labels, head (H, K), head_bias (K,), and the embeddings (K, D)."""
    arrays = cases.draw(case, seed)
    if case.mode not in MODES:
        return arrays
    rng = np.random.default_rng(seed)

    def uniform(*shape):
        return (rng.uniform(-1, 1, shape) / case.H**0.5).astype(case.dtype)

    if case.mode == "words":
        arrays |= {name: rng.integers(0, WORDS, (case.N, case.T)) for name in ("x", "labels")}
        arrays["embeddings"] = uniform(WORDS, case.D)
    else:
        arrays |= _recordings(case, rng)
    outputs = WORDS if case.mode == "words" else SPEAKERS
    return arrays | {"head": uniform(case.H * len(case.directions), outputs), "head_bias": uniform(outputs)}


def _recordings(case, rng):
    from cgru.datasets import load_japanese_vowels
    from cgru.sequences import pad

    data = load_japanese_vowels()
    order = rng.permutation(len(data.x_train))
    x, lengths = pad([data.x_train[i] for i in order])
    return {"x": x.astype(case.dtype), "lengths": lengths.astype(np.int32), "labels": data.y_train[order]}


def products(case):
    """The products of a step of mode "words", as a list of (how often, case of one product)."""
    rows, D, H = case.N * case.T, case.D, case.H
    once = [*_passes(rows, D, 3 * H), *_passes(rows, H, WORDS), _passes(rows, H, 3 * H)[2]]
    counted = [(1, size) for size in once] + [(case.T, size) for size in _passes(case.N, H, 3 * H)[:2]]
    return [(count, cases.Case(m, 1, k, n, "gemm")) for count, (m, k, n) in counted]


def _passes(rows, K, columns):
    """Sizes (m, k, n) of (rows x K)(K x columns), and of the gradients of its two factors."""
    return [(rows, K, columns), (rows, columns, K), (K, rows, columns)]


class Cgru(contestants.Cgru):
    """A cgru.Sequential."""

    modes = (*contestants.Cgru.modes, "words")

    def words(self, case, arrays):
        cgru, N, words = self.cgru, case.N, len(arrays["embeddings"])
        layers = [
            cgru.Embedding(words, case.D),
            cgru.GRU(case.H, return_sequences=True, reset_after=case.reset_after),
            cgru.Dense(words, activation="softmax"),
        ]
        model = cgru.Sequential(layers).build()
        gru = [arrays[name] for name in weight_names(case)]
        model.set_weights([arrays["embeddings"], *gru, arrays["head"], arrays["head_bias"]])
        model.compile(cgru.optimizers.Adam(RATE), "sparse_categorical_crossentropy")
        x, labels = arrays["x"], arrays["labels"]

        def run():  # an epoch of one batch
            return model.fit(x, labels, batch_size=N, shuffle=False, verbose=0).history["loss"][0]

        return run, lambda loss: {"loss": np.asarray(loss, case.dtype)}


class Numpy(contestants.Numpy):
    """The losses of the first batch alone, for comparison."""

    modes = (*contestants.Numpy.modes, *MODES)

    @classmethod
    def refuses(cls, case):
        return "training of models" if case.mode in MODES else super().refuses(case)

    def recordings(self, case, arrays):
        N, H, weights = case.N, case.H, cells(case, arrays)
        x, lengths, labels = (arrays[name][:N] for name in ("x", "lengths", "labels"))

        def run():
            y, _ = self._forward(case, x, lengths, weights, np.zeros((N, H), case.dtype))
            state = y[np.arange(N), lengths - 1, :H]
            if case.bidirectional:
                state = np.concatenate([state, y[:, 0, H:]], axis=1)
            return _cross_entropy(state @ arrays["head"] + arrays["head_bias"], labels)

        return run, lambda loss: {"loss": loss}

    def words(self, case, arrays):
        h0 = np.zeros((case.N, case.H), case.dtype)

        def run():
            y, _ = self._forward(case, arrays["embeddings"][arrays["x"]], None, cells(case, arrays), h0)
            logits = y.reshape(-1, case.H) @ arrays["head"] + arrays["head_bias"]
            return _cross_entropy(logits, arrays["labels"].ravel())

        return run, lambda loss: {"loss": loss}


def _cross_entropy(logits, labels):
    return (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]).mean()


class Torch(contestants.Torch):
    """Modules of torch.nn and PyTorch's Adam, whose fused form is the fastest."""

    modes = (*contestants.Torch.modes, *MODES)

    def _head(self, arrays):
        torch, head = self.torch, self.torch.nn.Linear(*arrays["head"].shape)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(arrays["head"].T))
            head.bias.copy_(torch.from_numpy(arrays["head_bias"]))
        return head

    def _step(self, modules, loss_of):
        """One step of training these modules."""
        parameters = [parameter for module in modules for parameter in module.parameters()]
        optimizer = self.torch.optim.Adam(parameters, RATE, fused=True)

        def run():
            loss = loss_of()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return run, lambda loss: {"loss": loss.numpy()}

    def recordings(self, case, arrays):
        torch, rnn = self.torch, self.torch.nn.utils.rnn
        gru, head = self._module(case, arrays), self._head(arrays)
        x, lengths, labels = (torch.from_numpy(arrays[name]) for name in ("x", "lengths", "labels"))
        lengths = lengths.long()
        batches = itertools.cycle(slice(i, i + case.N) for i in range(0, len(x) - case.N + 1, case.N))

        def state(rows):
            if case.padded:
                return gru(x[rows])[0][torch.arange(case.N), lengths[rows] - 1]
            packed = rnn.pack_padded_sequence(x[rows], lengths[rows], batch_first=True, enforce_sorted=False)
            return torch.cat([*gru(packed)[1][-len(case.directions) :]], dim=-1)

        def loss():
            rows = next(batches)
            return torch.nn.functional.cross_entropy(head(state(rows)), labels[rows])

        return self._step((gru, head), loss)

    def words(self, case, arrays):
        torch, gru, head = self.torch, self._module(case, arrays), self._head(arrays)
        embedding = torch.nn.Embedding.from_pretrained(torch.from_numpy(arrays["embeddings"]), freeze=False)
        x, labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["labels"]).ravel()

        def loss():
            return torch.nn.functional.cross_entropy(head(gru(embedding(x))[0]).flatten(0, 1), labels)

        return self._step((embedding, gru, head), loss)
