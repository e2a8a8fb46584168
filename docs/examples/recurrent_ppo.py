"""A recurrent agent: PPO on CartPole without velocities
=======================================================

A pole stands on a cart that is pushed to the left or to the right, and must not fall. An agent that sees where both are
and how fast they move learns that in a minute. Here it sees positions alone, so it has to remember: a GRU reads what it
saw, and two linear layers say what to do and what it is worth. The learning rule is PPO (J. Schulman et al. 2017,
arXiv:1707.06347). Discount, trace, clipping, passes over what was collected and the number of steps are those of the RL
Zoo of Stable-Baselines3 for this task, which publishes a mean return of 500 for the LSTM of sb3-contrib; the rest was
chosen with seeds 0 to 2.

Eight carts collect 128 steps each, and in those rows one episode follows the other. The state must not leak from one
into the next, and PyTorch has no word for that: sb3-contrib, and most others, call the recurrent layer step by step and
multiply its state by 0 where an episode begins (sb3-contrib's issue #113 is about the time this takes).
`cgru.torch.GRU` takes the beginnings as they are, ``gru(x, h, resets=starts)``, in one call.

Three things come out. How long the agent balances the pole, beside the same agent without a memory: its state is reset
at every step, which is one line here. What an update takes, beside the loop over `torch.nn.GRU` and beside
`torch.nn.GRU` over the episodes, cut apart and padded. And that all three have the same gradients.

    python docs/examples/recurrent_ppo.py            100 000 steps with and without memory, and the times; three minutes
    python docs/examples/recurrent_ppo.py --quick    few steps, on equations of our own
    python docs/examples/recurrent_ppo.py --seed 3 --json recurrent_ppo.json

It needs PyTorch. The carts are gymnasium's CartPole-v1 where that is installed (``pip install gymnasium``), else the
same equations written out below; what was used is printed. An episode ends after 500 steps, so 500 is the best there
is, and gymnasium calls 475 solved.
"""

import itertools
import statistics
import time

import numpy as np
import reporting

import cgru
from cgru.cli.timing import interleave

try:
    import torch
    from torch.nn.utils.rnn import pad_sequence
except ImportError:
    raise SystemExit('recurrent_ppo.py needs PyTorch: pip install "cgru[torch]"') from None

import cgru.torch

LONGEST, SOLVED, SCALE = 500, 475.0, np.array([2.4, 0.2095], np.float32)  # steps; mean return; where an episode fails
CARTS, STEPS, UNITS, EPOCHS, ROWS = 8, 128, 64, 20, 2  # rows of an update
GAMMA, TRACE, CLIP, RATE, VALUE, LARGEST = 0.98, 0.8, 0.2, 3e-3, 0.5, 0.5

# %%
# The task
# --------
# What the carts do is that of A. Barto, R. Sutton and C. Anderson (1983), in the form of gymnasium: an angle of the
# pole beyond 12 degrees, or a position beyond 2.4, is a failure. Both classes show positions and angles alone, and put
# a new cart in the place of one whose episode has ended.


class Equations:
    """Carts by the equations, all of them at once."""

    name = "equations of our own"

    def __init__(self, count, seed):
        self.rng = np.random.default_rng(seed)
        self.state, self.age = self.rng.uniform(-0.05, 0.05, (count, 4)), np.zeros(count, int)

    def observe(self):
        """Return what is seen of the carts, (count, 2)."""
        return self.state[:, [0, 2]].astype(np.float32) / SCALE

    def step(self, actions):
        """Push to the left (0) or right (1); return (which failed, whose time is up, what was seen then)."""
        _, speed, angle, turning = self.state.T
        force = np.where(actions == 1, 10.0, -10.0)
        sine, cosine = np.sin(angle), np.cos(angle)
        push = (force + 0.05 * turning**2 * sine) / 1.1
        spin = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        change = np.stack([speed, push - 0.05 * spin * cosine / 1.1, turning, spin], axis=1)
        self.state = self.state + 0.02 * change
        self.age += 1
        failed = (np.abs(self.state[:, 0]) > 2.4) | (np.abs(self.state[:, 2]) > np.deg2rad(12))
        late = (self.age >= LONGEST) & ~failed
        seen, over = self.observe(), failed | late
        self.state[over] = self.rng.uniform(-0.05, 0.05, (over.sum(), 4))
        self.age[over] = 0
        return failed, late, seen


class Gymnasium:
    """The same interface to gymnasium's CartPole-v1."""

    name = "gymnasium's CartPole-v1"

    def __init__(self, count, seed):
        import gymnasium

        self.carts = [gymnasium.make("CartPole-v1") for _ in range(count)]
        self.seen = np.array([cart.reset(seed=seed * 10_000 + i)[0] for i, cart in enumerate(self.carts)])

    def observe(self):
        return self.seen[:, [0, 2]] / SCALE

    def step(self, actions):
        results = [cart.step(action) for cart, action in zip(self.carts, actions.tolist(), strict=True)]
        failed, late = (np.array([result[k] for result in results]) for k in (2, 3))
        self.seen = np.array([result[0] for result in results])
        seen = self.observe()
        for i in np.flatnonzero(failed | late):
            self.seen[i] = self.carts[i].reset()[0]
        return failed, late & ~failed, seen


def find_carts(quick):
    """Return gymnasium's carts where there are some, else ours."""
    try:
        import gymnasium  # noqa: F401
    except ImportError:
        return Equations
    return Equations if quick else Gymnasium


# %%
# The agent
# ---------
# Three ways to let a GRU run over rows (T, N, F) in which `starts` (T, N) says where an episode begins. The first is
# one call. The second is what is usually written. The third is the best that PyTorch offers.


def in_one_call(gru, x, h, starts):
    """`cgru.torch.GRU`."""
    return gru(x, h, resets=starts)


def step_by_step(gru, x, h, starts):
    """`torch.nn.GRU`, as sb3-contrib calls its LSTM."""
    outputs = []
    for x_t, start in zip(x, starts, strict=True):
        y_t, h = gru(x_t[None], (1.0 - start.to(x.dtype))[None, :, None] * h)
        outputs.append(y_t)
    return torch.cat(outputs), h


def cut_apart(gru, x, h, starts):
    """`torch.nn.GRU` over the episodes as rows, padded to the longest."""
    T, N, _ = x.shape
    cut = starts.clone()
    cut[0] = True
    first = torch.nonzero(cut.T.reshape(-1)).ravel()  # of each episode, among all steps, row after row
    lengths = torch.diff(first, append=torch.tensor([T * N])).tolist()
    owners = first // T
    begins = (first % T == 0) & ~starts[0][owners]
    h = torch.where(begins[:, None], h[0, owners], 0.0)[None]
    episodes = pad_sequence(x.transpose(0, 1).reshape(T * N, -1).split(lengths))
    y, _ = gru(episodes, h)
    inside = torch.arange(y.shape[0])[:, None] < torch.tensor(lengths)
    y = y.transpose(0, 1)[inside.T].reshape(N, T, -1).transpose(0, 1)
    return y, y[-1:]


WAYS = {
    "in one call": (cgru.torch.GRU, in_one_call),
    "step by step": (torch.nn.GRU, step_by_step),
    "cut apart": (torch.nn.GRU, cut_apart),
}


class Agent(torch.nn.Module):
    """What to do, and what it is worth, from what was seen."""

    def __init__(self, units, way="in one call", memory=True):
        super().__init__()
        kind, self.run = WAYS[way]
        self.gru, self.memory = kind(2, units), memory
        self.actor, self.critic = torch.nn.Linear(units, 2), torch.nn.Linear(units, 1)
        with torch.no_grad():
            self.actor.weight.mul_(0.01)  # nearly even odds at first

    def forward(self, x, h, starts):
        """Return (logits (T, N, 2), values (T, N), state) for x (T, N, 2)."""
        y, h = self.run(self.gru, x, h, starts if self.memory else torch.ones_like(starts))
        return self.actor(y), self.critic(y)[..., 0], h


class Roller:
    """Carts, an agent, and where both stand."""

    def __init__(self, carts, agent, seed):
        self.carts, self.agent = carts, agent
        self.generator = torch.Generator().manual_seed(seed)
        seen = carts.observe()
        self.h = torch.zeros(1, len(seen), agent.gru.hidden_size)
        self.starts, self.lengths = torch.ones(len(seen), dtype=torch.bool), np.zeros(len(seen), int)
        self.returns = []  # of the episodes that have ended

    @torch.no_grad()
    def collect(self, steps):
        """Return what an update needs of so many steps, a dict of arrays (T, N, ...), and the state before them."""
        names = ("x", "starts", "actions", "chances", "values", "ended", "after")
        kept, before = {name: [] for name in names}, self.h
        for _ in range(steps):
            x = torch.from_numpy(self.carts.observe())
            logits, values, self.h = self.agent(x[None], self.h, self.starts[None])
            chances = torch.log_softmax(logits[0], dim=1)
            actions = torch.multinomial(chances.exp(), 1, generator=self.generator)[:, 0]
            failed, late, seen = self.carts.step(actions.numpy())
            ended, after = failed | late, torch.zeros(len(x))  # what follows an end that is a failure is worth nothing
            if late.any():
                rest = self.agent(torch.from_numpy(seen)[None], self.h, torch.zeros_like(self.starts)[None])[1][0]
                after = torch.where(torch.from_numpy(late), rest, after)
            chosen = chances.gather(1, actions[:, None])[:, 0]
            values = (x, self.starts, actions, chosen, values[0], torch.from_numpy(ended), after)
            for name, value in zip(names, values, strict=True):
                kept[name].append(value)
            self.lengths += 1
            self.returns += self.lengths[ended].tolist()
            self.lengths[ended] = 0
            self.starts = torch.from_numpy(ended)
        rollout = {name: torch.stack(values) for name, values in kept.items()}
        x = torch.from_numpy(self.carts.observe())
        rest = self.agent(x[None], self.h, self.starts[None])[1][0]
        rollout["advantages"] = advantages_of(rollout, rest)
        return rollout, before


def advantages_of(rollout, rest):
    """Generalised advantages (J. Schulman et al. 2016, arXiv:1506.02438), (T, N). A step is worth
    1 - GAMMA, so that the worth of all that may follow is 1."""
    values, ended, after = rollout["values"], rollout["ended"], rollout["after"]
    following = torch.where(ended, after, torch.cat([values[1:], rest[None]]))
    surprise = 1 - GAMMA + GAMMA * following - values
    found, trace = torch.empty_like(values), torch.zeros_like(rest)
    for t in reversed(range(len(values))):
        trace = surprise[t] + GAMMA * TRACE * torch.where(ended[t], 0.0, trace)
        found[t] = trace
    return found


def loss_of(agent, rollout, h, clip=CLIP):
    """PPO's loss of whole rows: of the choices, clipped, and of the values."""
    logits, values, _ = agent(rollout["x"], h, rollout["starts"])
    chances = torch.log_softmax(logits, dim=2).gather(2, rollout["actions"][..., None])[..., 0]
    ratio = torch.exp(chances - rollout["chances"])
    advantages = rollout["advantages"]
    targets = advantages + rollout["values"]
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return VALUE * torch.nn.functional.mse_loss(values, targets) - gain.mean()


def update(agent, optimizer, rollout, h, clip=CLIP):
    """One step of the optimizer."""
    optimizer.zero_grad()
    loss_of(agent, rollout, h, clip).backward()
    torch.nn.utils.clip_grad_norm_(agent.parameters(), LARGEST)
    optimizer.step()


def train(agent, carts, steps, seed, report, name):
    """Train for so many steps of all carts together; return the returns of the episodes, as they ended."""
    roller, optimizer = Roller(carts, agent, seed), torch.optim.Adam(agent.parameters(), RATE, eps=1e-5)
    rounds, begun = max(1, steps // (CARTS * STEPS)), time.perf_counter()
    for count in range(rounds):
        left = 1 - count / rounds  # rate and clipping fall to zero
        for group in optimizer.param_groups:
            group["lr"] = RATE * left
        rollout, h = roller.collect(STEPS)
        for _ in range(EPOCHS):
            for rows in torch.randperm(CARTS, generator=roller.generator).split(ROWS):
                part = {name: values[:, rows] for name, values in rollout.items()}
                update(agent, optimizer, part, h[:, rows], CLIP * left)
        lately = float(np.mean(roller.returns[-50:])) if roller.returns else 0.0
        done = (count + 1) * CARTS * STEPS
        report.curve(name, steps=done, mean_return=lately, seconds=round(time.perf_counter() - begun, 2))
        if (count + 1) % max(1, rounds // 10) == 0:
            print(f"{name}: {done:7,} steps, {lately:5.1f} lately, {time.perf_counter() - begun:.0f} s", flush=True)
    return roller.returns


@torch.no_grad()
def evaluate(agent, carts, count):
    """Return the returns of one episode of each of the `count` carts, always taking the likelier action."""
    h, starts = torch.zeros(1, count, agent.gru.hidden_size), torch.ones(1, count, dtype=torch.bool)
    returns, running = np.zeros(count, int), np.ones(count, bool)
    while running.any():
        logits, _, h = agent(torch.from_numpy(carts.observe())[None], h, starts)
        failed, late, _ = carts.step(logits[0].argmax(dim=1).numpy())
        returns += running
        running &= ~(failed | late)
        starts = torch.zeros_like(starts)
    return returns


# %%
# What an update takes
# --------------------


def made_up(steps, carts, episode, seed=0):
    """A rollout whose episodes last about so many steps, and the state before it."""
    rng = torch.Generator().manual_seed(seed)
    starts = torch.rand(steps, carts, generator=rng) < 1 / episode
    rollout = {"x": torch.randn(steps, carts, 2, generator=rng), "starts": starts}
    rollout["actions"] = torch.randint(2, (steps, carts), generator=rng)
    rollout["chances"] = torch.full((steps, carts), -0.7)
    rollout["values"], rollout["advantages"] = torch.randn(2, steps, carts, generator=rng)
    return rollout, starts


def agents_alike(units):
    """An agent of each way, all with the same weights."""
    torch.manual_seed(0)
    agents = {way: Agent(units, way) for way in WAYS}
    for agent in agents.values():
        agent.load_state_dict(agents["in one call"].state_dict())
    return agents


def gradients_apart(units, steps, carts, episode):
    """The largest difference between gradients of the ways, over the largest gradient."""
    rollout, _ = made_up(steps, carts, episode)
    h, found = torch.randn(1, carts, units, generator=torch.Generator().manual_seed(1)), []
    for agent in agents_alike(units).values():
        loss_of(agent, rollout, h).backward()
        found.append(torch.cat([p.grad.ravel() for p in agent.parameters()]))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in itertools.combinations(found, 2))


def times(units, steps, carts, episode, rounds):
    """Milliseconds of an update by each way, in turns: the median."""
    rollout, _ = made_up(steps, carts, episode)
    h, calls = torch.zeros(1, carts, units), []
    for agent in agents_alike(units).values():
        optimizer = torch.optim.Adam(agent.parameters(), 1e-4)
        calls.append(lambda agent=agent, optimizer=optimizer: update(agent, optimizer, rollout, h))
        calls[-1]()  # what is made at the first call
    return dict(zip(WAYS, (statistics.median(ns) / 1e6 for ns in interleave(calls, rounds)), strict=True))


# %%
# Pictures
# --------


def draw(plt, curves, taken):
    """How the agents learn, and what their updates take."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, points in curves.items():
        left.plot([p["steps"] / 1000 for p in points], [p["mean_return"] for p in points], label=name)
    left.axhline(SOLVED, color="0.6", linewidth=1, linestyle="--", label="solved")
    left.set(xlabel="steps of all carts (thousands)", ylabel="steps an episode lasts, the last 50", ylim=(0, 520))
    left.legend(loc="lower right", bbox_to_anchor=(1, 0.15))
    places = np.arange(len(taken))
    for i, way in enumerate(WAYS):
        bars = right.bar(places + 0.27 * (i - 1), [case[way] for case in taken.values()], 0.25, label=way)
        right.bar_label(bars, fmt="{:,.0f}", fontsize=8)
    right.set(ylabel="time of an update (ms)", yscale="log", xticks=places, xticklabels=list(taken))
    right.minorticks_off()
    right.yaxis.set_major_formatter("{x:g}")
    right.margins(y=0.3)
    right.legend(loc="upper left", ncols=3, fontsize=8)
    return figure


# %%
# The run
# -------

if __name__ == "__main__":
    more = [
        (("--seed",), {"type": int, "default": 0, "help": "of weights, carts and choices"}),
        (("--steps",), {"type": int, "help": "of all carts together (default: 100000; quick: 6000)"}),
        (("--threads",), {"type": int, "default": 1, "help": "of cgru and PyTorch"}),
    ]
    options = reporting.options(__doc__, more=more)
    cgru.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    steps = options.steps or (6_000 if options.quick else 100_000)
    carts = find_carts(options.quick)
    print(f"The carts are {carts.name}.")
    settings = {"steps": steps, "seed": options.seed, "threads": options.threads, "carts": carts.name}
    report = reporting.Report("recurrent_ppo", settings | {"PyTorch": torch.__version__})

# %%
# How long they balance the pole:

if __name__ == "__main__":
    for name, memory in (("with memory", True), ("without memory", False)):
        torch.manual_seed(options.seed)
        agent = Agent(UNITS, memory=memory)
        train(agent, carts(CARTS, options.seed), steps, options.seed, report, name)
        returns = evaluate(agent, carts(100, options.seed + 1), 100)
        known = (500.0, "sb3-contrib, LSTM") if memory else (None, "")
        report.add(f"mean return of 100 episodes, {name}", float(returns.mean()), *known, digits=1)
        report.add(f"episodes of 500 steps, {name}", int((returns == LONGEST).sum()), digits=0)

# %%
# And what an update takes. Episodes here last 50 steps on average, as they do early in training; sizes are those of
# this example, and of sb3-contrib's defaults (256 units).

if __name__ == "__main__":
    cases = [(64, 128)] if options.quick else [(64, 128), (64, 1024), (256, 128), (256, 1024)]
    taken = {}
    for units, length in cases:
        case = times(units, length, CARTS, 50, 5 if options.quick else 15)
        taken[f"{units} units\n8 x {length}"] = case
        ours = case["in one call"]
        for way in ("step by step", "cut apart"):
            who = f"torch.nn.GRU {way}: {case[way] / ours:.1f} times"
            report.add(f"update, {units} units, {CARTS} x {length} steps", ours, case[way], who, "ms", digits=1)
    report.add("largest relative difference of gradients", gradients_apart(64, 128, CARTS, 20), 0, "exact", digits=7)
    report.print()
    report.save(options.json)

# %%
# The pictures:

if __name__ == "__main__":
    plt = reporting.plotting()
    if plt is not None:
        reporting.picture(draw(plt, report.curves, taken), options.pictures, "recurrent_ppo")
