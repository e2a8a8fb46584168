"""A thousand fits leave nothing behind."""

import gc
import os
import platform
import sys

import children
import numpy as np
import pytest

import cgru
from cgru import callbacks

X, Y = np.random.default_rng(0).standard_normal((8, 3, 2)).astype("float32"), np.arange(8) % 2


def made():
    model = cgru.Sequential([cgru.GRU(3), cgru.Dropout(0.1), cgru.Dense(2, "softmax")], seed=0)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit(model, **options):
    stopping = callbacks.EarlyStopping("loss", patience=3, restore_best_weights=True)
    model.fit(X, Y, batch_size=8, verbose=0, callbacks=[stopping], **options)


def resident():
    """Bytes of the process in memory, of which the system may take some away; 0 where nothing tells."""
    if not os.path.exists("/proc/self/statm"):
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", ["new models", "chunks and validation", "one batch", "resumed"])
def test_fits_leave_nothing(kind):
    model = made()
    model.fit(X, Y, verbose=0)

    def call(i):
        if kind == "new models":
            fit(made())
        elif kind == "chunks and validation":
            fit(model, chunk=2, validation_data=(X, Y))
        elif kind == "one batch":
            model.train_on_batch(X, Y)
        else:
            fit(model, resume=i > 0, epochs=1 + i // 4)

    # What is kept for later calls comes first, and others in this process may add to it; a leak is in every span.
    blocks, memory = [], []
    for i in range(1000):
        if i >= 400 and i % 200 == 0:
            note_size(blocks, memory)
        call(i)
    note_size(blocks, memory)
    assert np.diff(blocks).min() < 100
    assert np.diff(memory).min() < 700_000


def note_size(blocks, memory):
    """Append how many blocks Python has allocated, and the bytes in memory."""
    gc.collect()
    blocks.append(sys.getallocatedblocks())
    memory.append(resident())


FAULTS = """
import resource
import numpy as np
import cgru

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

x, y = [np.ones((length, 12), np.float32) for length in range(12, 28)] * 4, np.arange(64) % 9
model = cgru.Sequential([cgru.GRU(64, bidirectional=True), cgru.Dense(9, "softmax")], seed=0)
model.compile(loss="sparse_categorical_crossentropy")
model.fit(x, y, epochs=3, verbose=0)
found = []
for _ in range(5):
    before = faults()
    model.fit(x, y, epochs=4, verbose=0)
    found.append((faults() - before) / 8)
print(min(found))  # the system takes pages away and moves them when it likes, but not in each fit
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other limits")
def test_a_step_asks_the_system_for_no_memory():
    """The memory of one batch serves the next: without that, there were 400 page faults a step."""
    assert float(children.printed("-c", FAULTS)) < 40
