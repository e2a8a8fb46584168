"""What has the name of a file and is none: devices, FIFOs, folders, sockets, and links to them. Nothing replaces them,
and nobody waits for them."""

import os
import socket
import stat
import threading

import children
import pytest

import cgru

pytestmark = pytest.mark.skipif(os.name != "posix", reason="devices and FIFOs have names on POSIX systems")


def save(path):
    cgru.save(cgru.Dropout(0.5), path)


def made(kind, path):
    """The name of a thing of this kind."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "device":
        return "/dev/null"
    return path


@pytest.fixture(params=["fifo", "folder", "socket", "device"])
def thing(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    return made(request.param, tmp_path / "thing")


def waited(function, path):
    """What the function raises; a thread that is still waiting after a while fails the test."""
    errors = []

    def call():
        try:
            function(path)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(children.PATIENCE)
    assert not thread.is_alive()
    return errors[0] if errors else None


@pytest.mark.parametrize("hops", [0, 1, 2])
@pytest.mark.parametrize("function", [save, cgru.load, cgru.files.load_tensors])
def test_what_is_no_regular_file_is_refused_and_stays(thing, tmp_path, function, hops):
    path = thing
    for hop in range(hops):
        link = tmp_path / f"link{hop}"
        link.symlink_to(path)
        path = link
    before = os.stat(thing)
    error = waited(function, path)
    assert isinstance(error, OSError) and "exists and is no regular file" in str(error) and str(path) in str(error)
    after = os.stat(thing)
    assert (stat.S_IFMT(after.st_mode), after.st_ino) == (stat.S_IFMT(before.st_mode), before.st_ino)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_the_standard_streams():
    """/dev/stdout and /dev/fd/N are links into /proc, which lead to a pipe or a terminal."""
    read, write = os.pipe()
    try:
        for path in (f"/dev/fd/{read}", f"/dev/fd/{write}"):
            if os.path.exists(path):
                assert isinstance(waited(save, path), OSError)
                assert isinstance(waited(cgru.load, path), OSError)
    finally:
        os.close(read)
        os.close(write)


def test_a_file_that_has_lost_its_name(tmp_path):
    path = tmp_path / "gone"
    with open(path, "wb") as file:
        name = f"/proc/self/fd/{file.fileno()}"
        if not os.path.exists(name):
            pytest.skip("there is no /proc")
        path.unlink()
        with pytest.raises(OSError, match="no regular file that can be replaced"):
            save(name)
    assert os.listdir(tmp_path) == []


def test_links_to_files_are_followed(tmp_path):
    target = tmp_path / "target"
    (tmp_path / "one").symlink_to(target)
    (tmp_path / "two").symlink_to(tmp_path / "one")
    for _ in range(2):  # the target is made, then replaced
        save(tmp_path / "two")
        assert cgru.load(target).rate == 0.5
        assert (tmp_path / "one").is_symlink() and (tmp_path / "two").is_symlink()


def test_names_that_no_file_can_have(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    save(tmp_path / "file")
    for path in (loop, f"{tmp_path}/new/", f"{tmp_path}/file/", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        for function in (save, cgru.load, cgru.files.load_tensors):
            with pytest.raises(OSError):
                function(path)
    for function in (save, cgru.load):
        with pytest.raises(ValueError, match="path: expected the name of a file, got one with a null character"):
            function(f"{tmp_path}/a\0b")
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


def test_what_cannot_be_written_is_called_as_it_was_given(tmp_path):
    """Not by the name of the file that is written first and takes its place when it is whole."""
    layer = cgru.GRU(3)
    layer.build(2)
    long = tmp_path / ("x" * 300)
    for path in (tmp_path / "missing" / "m.safetensors", long):
        with pytest.raises(OSError) as caught:
            cgru.save(layer, path)
        assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError):
        cgru.save(layer, tmp_path / "missing" / "m.safetensors")
    assert list(tmp_path.iterdir()) == []
