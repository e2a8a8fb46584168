"""The pieces of the recurrent agent: the carts, advantages, and the ways to run a GRU over episodes."""

import warnings

import examples
import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch says when it is imported is not ours
    torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def example():
    return examples.load("recurrent_ppo")


def test_the_carts_are_gymnasiums(example):
    gymnasium = pytest.importorskip("gymnasium")
    ours, rng = example.Equations(3, 0), np.random.default_rng(0)
    theirs = [gymnasium.make("CartPole-v1").unwrapped for _ in range(3)]
    for cart, state in zip(theirs, ours.state, strict=True):
        cart.reset()
        cart.state = state.copy()
    running = np.ones(3, bool)
    for _ in range(60):
        actions = rng.integers(0, 2, 3)
        failed, late, seen = ours.step(actions)
        for i in np.flatnonzero(running):
            state, _, over, *_ = theirs[i].step(int(actions[i]))
            np.testing.assert_allclose(seen[i], state[[0, 2]] / example.SCALE, rtol=1e-5, atol=1e-6)
            assert over == failed[i]
        running &= ~(failed | late)
    assert not running.any()
    carts = example.Gymnasium(2, 0)
    assert carts.observe().shape == (2, 2) and carts.observe().dtype == np.float32
    failed, late, seen = carts.step(np.array([0, 1]))
    assert not (failed | late).any() and (seen == carts.observe()).all()


def test_a_cart_that_is_balanced_ends_after_500_steps_and_a_fallen_one_starts_again(example):
    carts = example.Equations(2, 1)
    for step in range(1, 501):
        _, speed, angle, turning = carts.state.T
        wise = angle + 0.3 * turning + 0.02 * speed > 0
        failed, late, _ = carts.step(np.where([True, False], wise, 0))
        assert failed[0] == 0 and late[0] == (step == 500)
        if failed[1]:
            assert carts.age[1] == 0 and np.abs(carts.state[1]).max() <= 0.05
            assert 7 <= step
    assert carts.age[0] == 0


def test_advantages(example):
    """By hand: of a row that goes on, of one that fails, and of one whose time is up."""
    values = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    ended = torch.tensor([[False, True, True], [False, False, False]])
    after = torch.tensor([[0.0, 0.0, 7.0], [0.0, 0.0, 0.0]])
    rollout = {"values": values, "ended": ended, "after": after}
    found = example.advantages_of(rollout, torch.tensor([3.0, 3.0, 3.0]))
    gamma, trace = example.GAMMA, example.GAMMA * example.TRACE
    one = 1 - gamma  # what a step is worth
    last = one + gamma * 3 - 2
    expected = torch.tensor([[one + gamma * 2 - 1 + trace * last, one - 1, one + gamma * 7 - 1], [last] * 3])
    torch.testing.assert_close(found, expected)


def test_the_ways_have_the_same_outputs_and_gradients(example):
    rollout, starts = example.made_up(20, 3, 5)
    starts[0, 0] = True
    h = torch.randn(1, 3, 8)
    outputs = [agent(rollout["x"], h, starts) for agent in example.agents_alike(8).values()]
    for logits, values, _ in outputs[1:]:
        torch.testing.assert_close(logits, outputs[0][0])
        torch.testing.assert_close(values, outputs[0][1])
    torch.testing.assert_close(outputs[1][2], outputs[0][2])
    assert example.gradients_apart(8, 20, 3, 5) < 1e-5
    taken = example.times(8, 5, 2, 3, 1)
    assert set(taken) == set(example.WAYS) and min(taken.values()) > 0


def test_without_memory_each_step_stands_alone(example):
    agent = example.Agent(8, memory=False)
    x, h, starts = torch.randn(4, 2, 2), torch.zeros(1, 2, 8), torch.zeros(4, 2, dtype=torch.bool)
    whole = agent(x, h, starts)[0]
    for t in range(4):
        torch.testing.assert_close(agent(x[t : t + 1], torch.randn(1, 2, 8), starts[:1])[0], whole[t : t + 1])


def test_a_rollout_goes_on_where_the_last_one_ended(example):
    """What is computed anew for the whole row, as an update does, is what the carts were driven by."""
    torch.manual_seed(0)
    agent = example.Agent(8)
    roller = example.Roller(example.Equations(4, 0), agent, 0)
    for _ in range(2):
        rollout, h = roller.collect(40)
        with torch.no_grad():
            logits, values, after = agent(rollout["x"], h, rollout["starts"])
        chosen = torch.log_softmax(logits, 2).gather(2, rollout["actions"][..., None])[..., 0]
        torch.testing.assert_close(chosen, rollout["chances"])
        torch.testing.assert_close(values, rollout["values"])
        torch.testing.assert_close(after, roller.h)
    assert rollout["starts"].any() and len(roller.returns) > 4
    optimizer = torch.optim.Adam(agent.parameters(), 1e-3)
    before = float(example.loss_of(agent, rollout, h).detach())
    for _ in range(5):
        example.update(agent, optimizer, rollout, h)
    assert float(example.loss_of(agent, rollout, h).detach()) < before
    returns = example.evaluate(agent, example.Equations(5, 0), 5)
    assert returns.shape == (5,) and (returns >= 7).all()
