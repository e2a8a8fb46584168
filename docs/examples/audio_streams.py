"""Is somebody speaking? A thousand live streams through one model
===================================================================

A conference server hears many users at once. From each a frame of 40 band energies comes every 10 ms, and the server
has to say at once whether that user is speaking: with a model that goes on from where the user's stream was, for users
who join and leave all the time. `cgru.Streams` keeps their states, each under a key, and takes one step of all of them
in one call.

The sound is made here, so that the answer is known: a background of changing level and colour, clicks, humming tones,
and speech with formants that move and syllables that swell four times a second. A GRU of 64 units learns to tell speech
from the rest; beside it stands the usual threshold on the energy above the quietest of the last seconds.

Then the server is simulated. Users join, stay for seconds, and leave: most of them say so, some just fall silent, and
are dropped for being idle. Every call is timed. The same model, exported, takes the same steps in ONNX Runtime where
that is installed, in turns with ours, with its states in an array that is indexed by the users' places; and a few steps
are taken as one would without either, a call a user.

::

    python docs/examples/audio_streams.py            1000 users for 10 s of sound, on two threads; half a minute
    python docs/examples/audio_streams.py --quick    200 users for one second
    python docs/examples/audio_streams.py --users 1000 --ticks 3000 --threads 2 --json audio_streams.json
    python docs/examples/audio_streams.py --live     a call every 5 ms, between which caches and cores cool down

Ours and theirs take turns of 20 ticks: nobody's threads are kept awake by the other's. Other work on the machine shows
in the upper percentiles first.
"""

import time

import numpy as np
import reporting

import cgru

SEED, BANDS, HOP = 0, 40, 0.01  # seconds from frame to frame
SILENT_LEAVERS = 0.1  # of the users who leave say nothing
TURN = 20  # ticks that one of two servers works before the other does
SIZES = {False: {"recordings": 160, "frames": 400, "epochs": 12}, True: {"recordings": 32, "frames": 200, "epochs": 4}}

# %%
# The sound
# ---------
# A frame is the logarithm of the energy in 40 bands. Background, speech, clicks and tones add up as energies do.


def smooth_walk(rng, frames, start, spread, seconds):
    """A value for each frame that wanders around `start` by about `spread`, and changes in about so many seconds."""
    knots = start + spread * rng.standard_normal(int(frames * HOP / seconds) + 3)
    return np.interp(np.arange(frames) * HOP / seconds, np.arange(len(knots)), knots)


def recording(rng, frames):
    """Return (frames (T, 40) float32, speech (T,) of 0 and 1)."""
    band, time_of = np.arange(BANDS), np.arange(frames) * HOP
    speech, speaking, end = np.zeros(frames, int), bool(rng.random() < 0.4), 0
    while end < frames:
        begin, end = end, end + int(rng.uniform(0.3, 1.5) / HOP)
        speech[begin:end], speaking = speaking, not speaking
    level = smooth_walk(rng, frames, rng.uniform(-2, 1), 0.5, 2.0)
    background = np.exp(level[:, None] - rng.uniform(0, 0.06) * band)
    loudness = level + rng.uniform(0.5, 2.5)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(3, 5) * time_of + rng.uniform(0, 6))
    voice = np.zeros((frames, BANDS))
    for centre, width in ((7, 2.0), (16, 2.5), (26, 3.0)):  # formants
        at = smooth_walk(rng, frames, centre, 2.0, 0.15)[:, None]
        voice += np.exp(-0.5 * ((band - at) / width) ** 2)
    voice *= (speech * syllables * np.exp(loudness))[:, None]
    other = np.zeros((frames, BANDS))
    for _ in range(rng.poisson(frames * HOP)):  # clicks
        at = rng.integers(frames)
        other[at : at + rng.integers(1, 4)] += np.exp(level[at] + rng.uniform(1, 3))
    for _ in range(rng.poisson(frames * HOP / 3)):  # tones that come and go
        at = rng.integers(frames)
        other[at : at + rng.integers(20, 100), rng.integers(BANDS)] += np.exp(level[at] + 3)
    noise = rng.gamma(4.0, 0.25, (frames, BANDS))
    return np.log((background + voice + other) * noise + 1e-6).astype(np.float32), speech


def recordings(seed, count, frames):
    """Return `count` recordings, as arrays (N, T, 40) and (N, T)."""
    made = [recording(np.random.default_rng((seed, i)), frames) for i in range(count)]
    return np.stack([x for x, _ in made]), np.stack([y for _, y in made])


# %%
# Two detectors
# -------------
# What is compared is the share of the frames that are told rightly. The threshold is chosen on what the model learns
# from; both are scored on recordings that neither has seen.


def loudness(x, seconds=1.5):
    """The mean over the bands, less its least value in the last seconds: (N, T)."""
    energy, back = x.mean(axis=-1), int(seconds / HOP)
    padded = np.pad(energy, ((0, 0), (back - 1, 0)), constant_values=np.inf)
    return energy - np.lib.stride_tricks.sliding_window_view(padded, back, axis=1).min(axis=-1)


def best_threshold(values, speech):
    """The threshold above which most frames are speech, and most others are not."""
    tried = np.quantile(values, np.linspace(0.01, 0.99, 99))
    return tried[np.argmax([((values > t) == speech).mean() for t in tried])]


def detector(sizes, verbose=2):
    """Return a model that has learnt to tell speech: (N, T, 40) to the probabilities (N, T, 2)."""
    x, y = recordings(SEED, sizes["recordings"], sizes["frames"])
    layers = [cgru.GRU(64, return_sequences=True), cgru.Dense(2, activation="softmax")]
    model = cgru.Sequential(layers, seed=SEED)
    model.compile(cgru.optimizers.Adam(5e-3, clipnorm=1.0), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=sizes["epochs"], batch_size=16, verbose=verbose)
    return model, best_threshold(loudness(x), y)


# %%
# The users
# ---------
# They come until the house is full, and whoever leaves makes room for another.


class Users:
    """Who is there, and what each sends: user u plays recording u modulo their number, from its beginning."""

    def __init__(self, rng, pool, count, ticks):
        self.rng, self.pool, self.count, self.next = rng, pool, count, 0
        self.begun, self.ends = {}, {}
        self.ramp = max(1, ticks // 4)

    def tick(self, now):
        """Return (those who left, those of them who said so, the keys of those who are there, their frames)."""
        left = [key for key, end in self.ends.items() if end <= now]
        for key in left:
            del self.begun[key], self.ends[key]
        said = [key for key in left if self.rng.random() >= SILENT_LEAVERS]
        while len(self.begun) < min(self.count, self.count * (now + 1) / self.ramp):
            key, self.next = f"user {self.next}", self.next + 1
            stay = int(self.rng.integers(self.pool.shape[1] // 4, self.pool.shape[1] + 1))
            self.begun[key], self.ends[key] = now, now + stay
        keys = list(self.begun)
        number = np.array([int(key[5:]) for key in keys])
        return left, said, keys, self.pool[number % len(self.pool), now - np.fromiter(self.begun.values(), int)]


class OnnxServer:
    """The same model in ONNX Runtime; states in an array, whose places the users take and give back."""

    def __init__(self, model, count, threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        exported = cgru.convert.to_onnx(model, initial_state=True).SerializeToString()
        self.session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
        self.states = np.zeros((count, model.layers[0].units), np.float32)
        self.places, self.free = {}, list(range(count))

    def step(self, keys, x):
        for key in keys:
            if key not in self.places:
                self.places[key] = self.free.pop()
                self.states[self.places[key]] = 0
        places = [self.places[key] for key in keys]
        y, h = self.session.run(["y", "h"], {"x": x[:, None], "initial_h": self.states[places]})
        self.states[places] = h
        return y[:, 0]

    def drop(self, keys):
        self.free += [self.places.pop(key) for key in keys if key in self.places]


def peer(model, count, threads):
    """Return (ONNX Runtime with the model, its name), or (None, "") after a line that says what misses."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        print(f"without ONNX Runtime: {error.name} is not installed (pip install onnx onnxruntime)")
        return None, ""
    return OnnxServer(model, count, threads), f"ONNX Runtime {onnxruntime.__version__}"


# %%
# The server
# ----------
# Each tick is one step of all who are there. What each server does for users who come and go is in its time. Ours has
# to find out by itself about those who fell silent.


def serve(streams, other, users, ticks, live=False):
    """Return (users at each tick, seconds of each step {name: (ticks,)}, outputs {key: [(2,) a frame]}, difference)."""
    counts, seconds, outputs, off = [], {"cgru": [], "other": []}, {}, 0.0
    for begin in range(0, ticks, TURN):
        turn = [users.tick(now) for now in range(begin, min(begin + TURN, ticks))]
        ours = timed(streams, [(said, keys, x) for _, said, keys, x in turn], seconds["cgru"], live)
        theirs = []
        if other is not None:
            theirs = timed(other, [(left, keys, x) for left, _, keys, x in turn], seconds["other"], live)
        for (_, _, keys, _), step in zip(turn, ours, strict=True):
            counts.append(len(keys))
            for key, y in zip(keys, step, strict=True):
                outputs.setdefault(key, []).append(y)
        for y, z in zip(ours, theirs, strict=False):
            off = max(off, float(np.abs(y - z).max()))
    return np.array(counts), {k: np.array(v) for k, v in seconds.items()}, outputs, off


def timed(server, turn, seconds, live):
    """Return the outputs of each tick of a turn, and append to `seconds` what each took."""
    outputs = []
    for gone, keys, x in turn:
        if live:
            time.sleep(HOP / 2)
        begin = time.perf_counter()
        server.drop(gone)
        outputs.append(server.step(keys, x))
        seconds.append(time.perf_counter() - begin)
    return outputs


def call_a_user(model, x, calls=20):
    """Seconds of a step of all rows of x, each by a call of its own with a state tuple of its own: the median."""
    states, taken = [None] * len(x), []
    for _ in range(calls):
        begin = time.perf_counter()
        for i in range(len(x)):
            _, states[i] = model.step(x[i : i + 1], states[i])
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken))


def same_as_whole(model, pool, outputs, some=50):
    """How many of some users have other bits than the model gives for all that they sent."""
    wrong = 0
    for key in list(outputs)[:: max(1, len(outputs) // some)]:
        sent = pool[int(key[5:]) % len(pool), : len(outputs[key])]
        wrong += bool((np.stack(outputs[key]) != model(sent[None])[0]).any())
    return wrong


def percentiles(seconds):
    """The 50th, 95th and 99th percentile in milliseconds."""
    return [float(p) for p in np.percentile(1e3 * seconds, [50, 95, 99])]


# %%
# Pictures
# --------


def draw_user(plt, x, y, p):
    """One recording: what comes in, what is true, and what the model says as it comes."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 4.5), sharex=True, layout="constrained")
    seconds = len(x) * HOP
    image = top.imshow(x.T, origin="lower", aspect="auto", extent=(0, seconds, 0, BANDS), cmap="magma")
    figure.colorbar(image, ax=top, label="log energy")
    top.set_ylabel("band")
    bottom.fill_between(np.arange(len(y)) * HOP, y, step="post", alpha=0.25, label="speech")
    bottom.plot(np.arange(len(p)) * HOP, p, label="probability by the model", color="C1")
    bottom.set(xlabel="time (s)", ylim=(-0.02, 1.3), yticks=(0, 0.5, 1))
    bottom.legend(loc="upper right", ncols=2)
    return figure


def draw_latency(plt, counts, seconds, names):
    """The users over time, what each step took, and how that is distributed in the full house."""
    figure = plt.figure(figsize=(9, 4.8), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(3, 2), height_ratios=(1, 2.4))
    top, left = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    right = figure.add_subplot(grid[:, 1])
    top.plot(counts, color="C7")
    top.set(ylabel="users", xlim=(0, len(counts)), xticklabels=[])
    full = counts == counts.max()
    for i, (key, name) in enumerate(names.items()):
        taken = 1e3 * seconds[key]
        left.plot(taken, ".", markersize=2, color=f"C{i}", label=name)
        at = percentiles(seconds[key][full])
        label = f"{name}\n" + ", ".join(f"p{p} {v:.2f}" for p, v in zip((50, 95, 99), at, strict=True)) + " ms"
        right.plot(np.sort(taken[full]), np.linspace(0, 100, full.sum()), color=f"C{i}", label=label)
        right.plot(at, (50, 95, 99), "o", color=f"C{i}")
    left.set(xlabel="tick (10 ms of sound each)", ylabel="time of a step (ms)", yscale="log", xlim=(0, len(counts)))
    left.legend(loc="lower right", markerscale=5)
    right.set(xlabel="time of a step (ms)", ylabel=f"percent of the steps with {counts.max()} users", xscale="log")
    right.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), fontsize=9, frameon=False)
    right.grid(alpha=0.3)
    return figure


# %%
# The run
# -------


def reset_threads(threads):
    """Use so many threads, or two where there are as many; return the number."""
    if threads is None:
        threads = min(2, cgru.get_num_threads())
    cgru.set_num_threads(threads)
    return threads


if __name__ == "__main__":
    more = [
        (("--users",), {"type": int, "help": "how many are there in the full house (default: 1000; quick: 200)"}),
        (("--ticks",), {"type": int, "help": "steps of 10 ms (default: 1000; quick: 120)"}),
        (("--threads",), {"type": int, "help": "of both (default: 2)"}),
        (("--live",), {"action": "store_true", "help": "wait between calls as live sound does"}),
    ]
    options = reporting.options(__doc__, more=more)
    sizes, threads = SIZES[options.quick], reset_threads(options.threads)
    count = options.users or (200 if options.quick else 1000)
    ticks = options.ticks or (120 if options.quick else 1000)
    settings = sizes | {"users": count, "ticks": ticks, "threads": threads, "units": 64, "seed": SEED}
    settings |= {"live": options.live}
    report = reporting.Report("audio_streams", settings)
    model, threshold = detector(sizes)

# %%
# How well it hears:

if __name__ == "__main__":
    pool, truth = recordings(SEED + 1, 50, sizes["frames"])
    probability = model.predict(pool)[..., 1]
    by_energy = 100 * float(((loudness(pool) > threshold) == truth).mean())
    by_model = 100 * float(((probability > 0.5) == truth).mean())
    report.add("frames told rightly", by_model, by_energy, "energy threshold", "%")

# %%
# And how long a step takes:

if __name__ == "__main__":
    streams = cgru.Streams(model, max_streams=2 * count, idle=30, when_full="replace")
    other, other_name = peer(model, 2 * count, threads)
    print(f"{ticks} ticks, {count} users, {threads} threads ...", flush=True)
    users = Users(np.random.default_rng(SEED), pool, count, ticks)
    counts, seconds, outputs, off = serve(streams, other, users, ticks, options.live)
    full = counts == counts.max()
    ours = percentiles(seconds["cgru"][full])
    theirs = percentiles(seconds["other"][full]) if other else [None] * 3
    for percent, here, there in zip((50, 95, 99), ours, theirs, strict=True):
        report.add(f"a step of {counts.max()} users, p{percent}", here, there, other_name, "ms", digits=3)
    alone = 1e3 * call_a_user(model, pool[np.arange(count) % len(pool), 0], 3 if options.quick else 20)
    report.add("the same, a call a user", alone, unit="ms", digits=3)
    wrong = same_as_whole(model, pool, outputs)
    report.add("users with other bits than their whole sequence", wrong, 0, "exact", digits=0)
    if other:
        report.add("largest difference of a probability", off, 0, other_name, digits=7)
    for name, taken in seconds.items():
        for now, second in enumerate(taken):
            report.curve(name, tick=now, users=int(counts[now]), ms=round(1e3 * float(second), 4))
    report.print()
    report.save(options.json)

# %%

if __name__ == "__main__" and (plt := reporting.plotting()) is not None:
    names = {"cgru": "cgru.Streams"} | ({"other": other_name} if other else {})
    reporting.picture(draw_latency(plt, counts, seconds, names), options.pictures, "audio_streams_latency")
    best = int(np.argmax(truth.std(axis=1)))
    figure = draw_user(plt, pool[best], truth[best], probability[best])
    reporting.picture(figure, options.pictures, "audio_streams_user")
