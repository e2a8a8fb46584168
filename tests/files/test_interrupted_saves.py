"""Ctrl-C during `save`, wherever it comes: there is the old file or the new one, and nothing beside it."""

import _thread
import os
import signal
import sys
import time

import children
import pytest

import cgru

OURS = ("cgru/files.py", "cgru/safetensors.py", "cgru/writing.py", "contextlib.py")


class Interrupt:
    """A trace function that raises KeyboardInterrupt before the n-th instruction of these files."""

    def __init__(self, n, again=None):
        self.left, self.again, self.came = n, again, 0

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.replace(os.sep, "/").endswith(OURS):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                self.came += 1
                raise KeyboardInterrupt
        return self


def interrupted(n, call):
    """Whether `call` was interrupted; False where it has fewer instructions than n."""
    before = sys.gettrace()
    interrupt = Interrupt(n)
    sys.settrace(interrupt)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return interrupt.came > 0


def test_an_interrupt_before_any_instruction(tmp_path):
    path = tmp_path / "model"
    old, new = cgru.Dropout(0.25), cgru.Dropout(0.75)
    cgru.save(old, path)
    seen, n = set(), 1
    while interrupted(n, lambda: cgru.save(new, path)):
        assert os.listdir(tmp_path) == ["model"], f"instruction {n}"
        seen.add(cgru.load(path).rate)
        if seen == {0.25, 0.75} and cgru.load(path).rate == 0.75:
            cgru.save(old, path)
        n += 1
    assert n > 200 and seen == {0.25, 0.75}
    assert os.listdir(tmp_path) == ["model"]


def test_an_error_while_ctrl_c_comes(tmp_path, monkeypatch):
    """A full disk, and Ctrl-C while the temporary file is being removed."""
    unlink = os.unlink

    def full(descriptor):
        raise OSError("disk full")

    def interrupted_unlink(name):
        unlink(name)
        _thread.interrupt_main()

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(os, "unlink", interrupted_unlink)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises((KeyboardInterrupt, OSError)):
            cgru.save(cgru.Dropout(0.5), tmp_path / "model")
            time.sleep(1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert os.listdir(tmp_path) == []


def test_without_threads(tmp_path, monkeypatch):
    def none(*arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", none)
    cgru.save(cgru.Dropout(0.5), tmp_path / "model")
    assert cgru.load(tmp_path / "model").rate == 0.5 and os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a process")
def test_signals_that_come_at_any_moment(tmp_path):
    """The child sets its handler itself: who started it may have SIGINT ignored. It is interrupted in `save` alone."""
    code = """
import os, random, signal, sys, threading, time, cgru

def interrupt(number, frame):
    while frame is not None:
        if frame.f_code.co_name == "save":
            raise KeyboardInterrupt
        frame = frame.f_back

def send():
    while True:
        time.sleep(random.random() / 500)
        os.kill(os.getpid(), signal.SIGINT)

path, came = sys.argv[1], 0
signal.signal(signal.SIGINT, interrupt)
layer = cgru.GRU(64, input_size=32, seed=0)
threading.Thread(target=send, daemon=True).start()
while came < 100:
    try:
        cgru.save(layer, path)
    except KeyboardInterrupt:
        came += 1
        if set(os.listdir(os.path.dirname(path))) - {"model"}:
            os._exit(3)
os._exit(0)
"""
    assert children.python("-c", code, tmp_path / "model").returncode == 0
