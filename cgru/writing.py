"""How files are written: whole or not at all, whatever comes in between."""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import secrets
from collections.abc import Sequence
from typing import Any, BinaryIO

from cgru.reading import require_regular
from cgru.typing import Path

_PIECE = 1 << 24  # bytes that are written at a time; Ctrl-C is looked for in between


def replace_file(path: str, chunks: Sequence[Any]) -> None:
    """Write the chunks to a new file that takes the place of `path` when it is whole and on the disk.

    Parameters
    ----------
    path : str
        Behind links, the target is replaced.
    chunks : list of objects with a buffer

    Raises
    ------
    OSError
        If the file cannot be written; or if `path` is something else than a regular file: a device or a FIFO would be
        gone, and nobody would get the bytes.
    """
    task = _Replacement(_target(path), chunks)
    # Signals interrupt the main thread alone. In another one, what has to be undone is undone for certain.
    try:
        try:
            _thread.start_new_thread(task.run, ())
        except RuntimeError:  # there are no threads, or no more of them
            task.run()
        task.wait()
    except BaseException:
        task.cancel()
        raise


def check_writable(path: Path) -> None:
    """Raise OSError unless a file can be written to `path`: its folder does not exist or may not be written, say."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{path}: there is no folder {folder}")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path}: is a folder")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise PermissionError(f"{path}: may not be written")


class _Replacement:
    """The writing of a file in one thread, which another thread waits for and may cancel.

    Ctrl-C may raise between any two instructions of the thread that waits, and again in what that sets off: so it holds
    no lock that the writer needs, and looks for flags.
    """

    def __init__(self, target: str, chunks: Sequence[Any]) -> None:
        self._target, self._chunks = target, chunks
        self._tickets = [None]  # who takes it decides whether anything is written
        self._is_cancelled = self._is_done = False
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        self._error: BaseException | None = None

    def wait(self) -> None:
        """Return when the file is there, or raise what went wrong."""
        while not self._is_done:
            self._gate.acquire(timeout=1)
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Return when nothing is left of a file that is not whole, however often Ctrl-C comes meanwhile."""
        self._is_cancelled = True
        if self._took_ticket():
            return
        while not self._is_done:
            with contextlib.suppress(KeyboardInterrupt):
                self._gate.acquire(timeout=0.1)

    def _took_ticket(self) -> bool:
        with contextlib.suppress(IndexError):
            self._tickets.pop()
            return True
        return False

    def run(self) -> None:
        try:
            if self._took_ticket():
                self._replace()
        except BaseException as error:
            self._error = error
        finally:
            self._is_done = True
            self._gate.release()

    def _replace(self) -> None:
        folder = os.path.dirname(self._target)
        temporary = os.path.join(folder, f".cgru-{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "xb") as file:
                self._write(file)
            os.replace(temporary, self._target)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            if isinstance(error, OSError) and error.filename == temporary:  # a name that nobody gave
                raise OSError(error.errno, error.strerror, self._target) from None
            raise
        _sync_folder(folder)

    def _write(self, file: BinaryIO) -> None:
        for chunk in self._chunks:
            view = memoryview(chunk)
            data = view.cast("B") if view.nbytes else b""  # what is empty cannot be cast
            for begin in range(0, len(data), _PIECE):
                if self._is_cancelled:
                    raise KeyboardInterrupt
                file.write(data[begin : begin + _PIECE])
        file.flush()
        os.fsync(file.fileno())


def _target(path: str) -> str:
    """The file that `path` means, behind all links."""
    target = os.path.realpath(path)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if not os.path.basename(path):
            raise IsADirectoryError(errno.EISDIR, "expected the name of a file, got that of a folder", path) from None
        return target
    require_regular(status, path)
    # A link into /proc is followed by the system alone, and may lead to what has no name any more.
    if not (os.path.exists(target) and os.path.samestat(status, os.stat(target))):
        raise FileExistsError(errno.EEXIST, "exists and is no regular file that can be replaced", path)
    return target


def _sync_folder(folder: str) -> None:
    """Have the new name on the disk as well, where the system can do that."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # some file systems cannot, and the file is there
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
