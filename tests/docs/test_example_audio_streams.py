"""docs/examples/audio_streams.py: the code of it, on small sizes."""

import examples
import numpy as np
import pytest

import cgru


@pytest.fixture(scope="module")
def audio():
    return examples.load("audio_streams")


def test_speech_is_louder_and_other_sounds_come_by_themselves(audio):
    x, y = audio.recordings(0, 12, 150)
    assert x.shape == (12, 150, 40) and x.dtype == np.float32 and np.isfinite(x).all()
    assert set(np.unique(y)) == {0, 1} and 0.2 < y.mean() < 0.8
    formants, between = x[..., [7, 16, 26]].mean(axis=-1), x[..., [0, 36, 39]].mean(axis=-1)
    assert (formants - between)[y == 1].mean() > (formants - between)[y == 0].mean() + 0.5
    np.testing.assert_array_equal(audio.recordings(0, 2, 150)[0], x[:2])
    assert (audio.recordings(1, 2, 150)[0] != x[:2]).any()


def test_the_threshold_is_the_one_with_fewest_mistakes(audio):
    values = np.array([[0.0, 0.1, 0.2, 5.0, 5.1, 5.2]])
    assert 0.2 <= audio.best_threshold(values, np.array([[0, 0, 0, 1, 1, 1]])) < 5.0
    energy = np.array([3.0, 1, 2, 4, 4, 4])[None, :, None] * np.ones(40)
    np.testing.assert_allclose(audio.loudness(energy, seconds=0.03), [[0, 0, 1, 3, 2, 0]])


def test_users_send_their_recordings_from_the_beginning(audio):
    pool = np.arange(3 * 40).reshape(3, 40, 1)
    users = audio.Users(np.random.default_rng(0), pool, 5, 8)
    sent, there, left_at = {}, set(), {}
    for now in range(200):
        left, said, keys, x = users.tick(now)
        assert set(said) <= set(left) <= there and not set(left) & set(keys)
        there = set(keys)
        assert len(keys) <= 5 and (now < 2 or len(keys) == 5)
        left_at |= dict.fromkeys(left, now)
        for key, frame in zip(keys, x, strict=True):
            sent.setdefault(key, []).append(frame)
    assert len(left_at) > 20 and not set(left_at) & there
    for key, frames in sent.items():
        np.testing.assert_array_equal(frames, pool[int(key[5:]) % 3, : len(frames)])
        assert 10 <= len(frames) <= 40 or key in there


def test_the_server_gives_each_user_the_bits_of_the_whole(audio, monkeypatch):
    slept = []
    monkeypatch.setattr(audio.time, "sleep", slept.append)
    model = cgru.Sequential([cgru.GRU(5, return_sequences=True), cgru.Dense(2, activation="softmax")], seed=0)
    pool = audio.recordings(0, 3, 60)[0]
    model.build(40)
    streams = cgru.Streams(model, max_streams=12, when_full="replace")
    twin = cgru.Streams(model, max_streams=12, when_full="replace")
    users = audio.Users(np.random.default_rng(0), pool, 6, 77)
    counts, seconds, outputs, off = audio.serve(streams, twin, users, 77, live=True)
    assert counts.max() == 6 and off == 0 and len(seconds["cgru"]) == len(seconds["other"]) == 77
    assert slept == [0.005] * 154
    assert audio.same_as_whole(model, pool, outputs) == 0
    outputs["user 0"][3] = outputs["user 0"][3] + 1
    assert audio.same_as_whole(model, pool, outputs) == 1
    assert audio.call_a_user(model, pool[:, 0], 1) > 0
    assert audio.percentiles(np.array([0.001, 0.002, 0.003]))[0] == 2


def test_onnx_runtime_takes_the_same_steps(audio):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = cgru.Sequential([cgru.GRU(5, return_sequences=True), cgru.Dense(2, activation="softmax")], seed=0)
    x = audio.recordings(0, 3, 20)[0]
    y = model(x)
    server, streams = audio.OnnxServer(model, 3, 1), cgru.Streams(model)
    for t in range(20):
        keys = ["a", "b", "c"]
        np.testing.assert_allclose(server.step(keys, x[:, t]), y[:, t], atol=1e-5)
        streams.step(keys, x[:, t])
    server.drop(["b", "nobody"])
    np.testing.assert_allclose(server.step(["d"], x[1:2, 0]), y[1:2, 0], atol=1e-5)
