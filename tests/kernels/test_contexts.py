"""limit_threads and backend: what holds where several are open, in whatever order and thread they close."""

import asyncio
import threading

import pytest

import cgru


@pytest.fixture(autouse=True)
def two_threads(native):
    before = cgru.get_num_threads()
    cgru.set_num_threads(2)
    yield
    assert cgru.get_num_threads() == 2 and cgru.get_backend() == "native"
    cgru.set_num_threads(before)


def elsewhere(function):
    """What a function gives, or the error that it raises, in another thread."""
    found = []

    def run():
        try:
            found.append(function())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


KINDS = {
    "threads": (lambda: cgru.limit_threads(1), cgru.get_num_threads, 2, 1, lambda: cgru.limit_threads(2)),
    "backend": (lambda: cgru.backend("blas"), cgru.get_backend, "native", "blas", lambda: cgru.backend("native")),
}
kinds = pytest.mark.parametrize(("context", "get", "outside", "inside", "other"), KINDS.values(), ids=KINDS)


@kinds
def test_one_within_the_other(context, get, outside, inside, other):
    with context():
        assert get() == inside and elsewhere(get) == outside
        with other():
            assert get() == outside
        assert get() == inside
        with pytest.raises(KeyError), other():
            raise KeyError
        assert get() == inside
    assert get() == outside


@kinds
def test_the_last_one_that_is_open_counts_in_any_order_of_closing(context, get, outside, inside, other):
    first, second = context(), other()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert get() == outside
    second.__exit__(None, None, None)
    assert get() == outside
    first, second = other(), context()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert get() == inside
    second.__exit__(None, None, None)
    assert get() == outside


@kinds
def test_coroutines_of_one_thread_leave_nothing_behind(context, get, outside, inside, other):
    async def first(opened, both, closed):
        with context():
            opened.set()
            await both.wait()
            assert get() == inside
        closed.set()

    async def second(opened, both, closed):
        await opened.wait()
        with context():
            both.set()
            await closed.wait()  # while the second one is open
            assert get() == inside

    async def calls():
        events = [asyncio.Event() for _ in range(3)]
        await asyncio.gather(first(*events), second(*events))

    asyncio.run(calls())
    assert get() == outside


@kinds
def test_one_object_may_be_opened_again(context, get, outside, inside, other):
    one = context()
    for _ in range(2):
        with one:
            with one:
                assert get() == inside
            assert get() == inside
        assert get() == outside
    assert [one(get)(), one(get)(), get()] == [inside, inside, outside]


@kinds
def test_who_opened_it_closes_it(context, get, outside, inside, other):
    one = context()
    with one:
        error = elsewhere(lambda: one.__exit__(None, None, None))
        assert isinstance(error, RuntimeError) and "in the thread that opened it" in str(error)
        assert get() == inside and elsewhere(get) == outside


def test_what_is_wrong_is_said_before_it_is_opened():
    for n in (0, -1):
        with pytest.raises(ValueError, match=r"^n: expected at least 1, got"):
            cgru.limit_threads(n)
    for n in (1.5, "2", True):
        with pytest.raises(TypeError, match=r"^n: expected an integer, got"):
            cgru.limit_threads(n)
    for name in ("mkl", 3, b"blas"):
        with pytest.raises(ValueError, match=r"^backend: expected one of native, blas, got"):
            cgru.backend(name)
