"""Actor and critic: which gradients flow where, and that they are the right ones."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal as TorchNormal

from dreamer_ros.agents.actor_critic import ReturnRange
from tests.agents.small import ACTIONS, agent, batch, states, touched

EVERY = ('v1', 'v2', 'dreamerv2', 'v3')


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def silence(monkeypatch, behaviour, *names):
    for name in names:

        def nothing(*_, name=name):
            return (torch.zeros(()), {}) if name == 'actor_loss' else torch.zeros(())

        monkeypatch.setattr(behaviour, name, nothing)


@pytest.mark.parametrize('system', EVERY)
def test_actor_loss_trains_only_the_actor(system, monkeypatch):
    made = agent(system, 'critic.replay_scale=0')
    silence(monkeypatch, made.behaviour, 'critic_loss')
    loss, _ = made.behaviour.loss(made.model, states(made), batch())
    loss.backward()
    assert touched(made.model) == set()
    assert touched(made.behaviour) == {f'actor.{name}' for name, _ in made.behaviour.actor.named_parameters()}


@pytest.mark.parametrize('system', EVERY)
def test_critic_loss_trains_only_the_critic(system, monkeypatch):
    made = agent(system, 'critic.replay_scale=0')
    silence(monkeypatch, made.behaviour, 'actor_loss')
    loss, _ = made.behaviour.loss(made.model, states(made), batch())
    loss.backward()
    assert touched(made.model) == set()
    assert touched(made.behaviour) == {f'critic.{name}' for name, _ in made.behaviour.critic.named_parameters()}


@pytest.mark.parametrize('scale', [0.0, 0.3])
def test_only_the_replay_value_loss_reaches_the_model(scale):
    made = agent('v3', f'critic.replay_scale={scale}')
    data = batch()
    _, posterior, _ = made.model.loss(data)
    loss, _ = made.behaviour.loss(made.model, posterior, data)
    loss.backward()
    reached = {name.split('.')[0] for name in touched(made.model)}
    assert reached == ({'encoder', 'rssm'} if scale else set())
    assert all(p.requires_grad for p in made.model.parameters())  # thawed again
    assert not any(p.requires_grad for p in made.behaviour.slow_critic.parameters())


@pytest.mark.parametrize('system', EVERY)
def test_a_dream_follows_the_prior_from_its_start(system, seed):
    made = agent(system, seed=seed)
    model, start = made.model, states(made, 2, 4)
    start = type(start)(*(x.flatten(0, 1) for x in start))
    with torch.no_grad():
        dream = made.behaviour.dream(model, start, made.behaviour.draw(model, len(start.deter), start.deter.device))
    assert dream.feature.shape == (6, 8, model.rssm.feature_size) and dream.action.shape == (5, 8, ACTIONS)
    torch.testing.assert_close(dream.feature[0], start.feature)
    size, latent = model.rssm.deter_size, model.rssm.latent
    for t in range(5):
        deter, stoch = dream.feature[t, :, :size], dream.feature[t, :, size:]
        expected = model.rssm.cell(deter, stoch, model.rssm.cell.project_action(dream.action[t].clamp(-1, 1)))
        torch.testing.assert_close(dream.feature[t + 1, :, :size], expected)
    if system != 'v1':
        samples = dream.feature[1:, :, size:].unflatten(-1, (latent.classes, latent.variables))
        torch.testing.assert_close(samples.sum(-2), torch.ones(5, 8, latent.variables))


def test_actions_of_a_dream_are_samples_of_the_actor(seed):
    """Standardised by the actor's own mean and std they are standard normal."""
    made = agent('v3', seed=seed)
    start = states(made, 8, 6)
    start = type(start)(*(x.flatten(0, 1).repeat(20, 1) for x in start))
    with torch.no_grad():
        noise = made.behaviour.draw(made.model, len(start.deter), start.deter.device)
        dream = made.behaviour.dream(made.model, start, noise)
        mean, std = made.behaviour.distribution.parameters(made.behaviour.actor(dream.feature[:-1]))
    z = ((dream.action - mean) / std).flatten()
    assert abs(z.mean()) < 5 / math.sqrt(len(z)) and abs(z.var() - 1) < 5 * math.sqrt(2 / len(z))


class Recorded(torch.nn.Module):
    """The actor as the gradient sees it: its inputs are constants, the k-th call sees what it saw before."""

    def __init__(self, actor):
        super().__init__()
        self.actor, self.inputs, self.calls = actor, [], None

    def forward(self, feature):
        if self.calls is None:
            self.inputs.append(feature.detach().clone())
            return self.actor(feature)
        self.calls += 1
        return self.actor(self.inputs[self.calls - 1])


@pytest.mark.parametrize('include_start', [False, True])
@pytest.mark.parametrize('distribution', ['tanh_normal', 'normal', 'truncated_normal'])
@pytest.mark.parametrize('estimator', ['lambda', 'reward'])
def test_dynamics_gradient_equals_finite_differences(
    include_start, distribution, estimator, seed, monkeypatch, double_precision
):
    made = agent(
        'v1',
        f'imagination.include_start={include_start}',
        f'actor.distribution={distribution}',
        f'imagination.estimator={estimator}',
        'actor.entropy=0.1',
        'imagination.horizon=4',
        seed=seed,
    )
    behaviour, posterior, data = made.behaviour, states(made, 2, 3), batch(2, 3)
    if distribution == 'normal':  # clipping passes the gradient through: equal to the truth only inside ±1
        with torch.no_grad():
            behaviour.actor[-1].weight.mul_(0.1)
            behaviour.actor[-1].bias.copy_(torch.tensor([0.1, -0.2, -9.0, -9.0]))
    if distribution == 'truncated_normal':  # its gradient holds at fixed quantiles, which move with the parameters
        monkeypatch.setattr(behaviour.distribution, 'quantile', lambda noise, mode: torch.special.ndtr(noise))
    silence(monkeypatch, behaviour, 'critic_loss')
    recorded = Recorded(behaviour.actor)
    behaviour.actor = recorded

    def loss():
        torch.manual_seed(seed)
        return behaviour.loss(made.model, posterior, data)[0]

    loss().backward()
    gradients = {name: p.grad.clone() for name, p in recorded.actor.named_parameters()}
    assert min(g.abs().max() for g in gradients.values()) > 1e-6
    with torch.no_grad():
        for name, parameter in recorded.actor.named_parameters():
            direction = torch.randn_like(parameter)
            ends = []
            for step in (1e-6, -1e-6):
                parameter.add_(step * direction)
                recorded.calls = 0
                ends.append(loss())
                parameter.sub_(step * direction)
            slope = ((ends[0] - ends[1]) / 2e-6).item()
            expected = (gradients[name] * direction).sum().item()
            assert slope == pytest.approx(expected, rel=1e-4, abs=1e-7), name


def test_dynamics_gradient_ascends_the_imagined_return(seed):
    """On a frozen world with the same noise every time, the actor finds actions of more return."""
    made = agent('v1', seed=seed)
    posterior, data = states(made), batch()
    optimizer = torch.optim.Adam(made.behaviour.actor.parameters(), 3e-3)
    history = []
    for _ in range(30):
        torch.manual_seed(seed)
        loss, metrics = made.behaviour.loss(made.model, posterior, data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(metrics['return'].item())
    assert history[-1] > history[0] + 0.05 * abs(history[0])


def reference_targets(made, dream):
    """V3's returns, weights and values, state by state in float64."""
    model, behaviour, imagination = made.model, made.behaviour, made.behaviour.imagination
    with torch.no_grad():
        reward = model.predict_reward(dream.feature).double().numpy()
        going = torch.sigmoid(model.continuation(dream.feature)).squeeze(-1).double().numpy()
        value = behaviour.value_distribution.mean(behaviour.critic(dream.feature)).double().numpy()
    horizon, returns = len(reward) - 1, {}
    returns[horizon] = value[horizon]
    for t in reversed(range(horizon)):
        mixed = (1 - imagination.lambda_) * value[t + 1] + imagination.lambda_ * returns[t + 1]
        returns[t] = reward[t + 1] + going[t + 1] * mixed
    stacked = np.stack([returns[t] for t in range(horizon)])
    weight = np.stack([np.prod(going[: t + 1], 0) for t in range(horizon)])
    return stacked, weight, value[:-1]


def capture_dream(monkeypatch, behaviour):
    dreams, dream = [], behaviour.dream
    monkeypatch.setattr(behaviour, 'dream', lambda *a: dreams.append(dream(*a)) or dreams[-1])
    return dreams


def test_reinforce_gradient_is_the_score_function(seed, monkeypatch):
    made = agent('v3', 'critic.replay_scale=0', 'actor.entropy=0.01', seed=seed)
    behaviour = made.behaviour
    dreams = capture_dream(monkeypatch, behaviour)
    silence(monkeypatch, behaviour, 'critic_loss')
    loss, metrics = behaviour.loss(made.model, states(made), batch())
    loss.backward()
    taken = [p.grad.clone() for p in behaviour.actor.parameters()]

    returns, weight, value = reference_targets(made, dreams[0])
    divisor = metrics['return_range'].item()
    assert dreams[0].action.abs().max() > 1.0  # some actions are beyond what the environment takes
    mean, std = behaviour.actor(dreams[0].feature[:-1]).chunk(2, -1)
    policy = TorchNormal(torch.tanh(mean), 0.9 * torch.sigmoid(std + 2) + 0.1)
    advantage = torch.tensor((returns - value) / divisor, dtype=torch.float32)
    score = policy.log_prob(dreams[0].action).sum(-1) * advantage
    objective = score + 0.01 * policy.entropy().sum(-1)
    expected = -(torch.tensor(weight, dtype=torch.float32) * objective).mean()
    torch.testing.assert_close(loss.detach(), expected.detach(), rtol=1e-3, atol=1e-4)
    for a, b in zip(taken, torch.autograd.grad(expected, list(behaviour.actor.parameters()))):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item())
    assert metrics['return'].item() == pytest.approx(returns.mean(), rel=1e-4, abs=1e-4)


def learn_to_act(made, posterior, data, updates):
    """Train the actor alone."""
    optimizer = torch.optim.Adam(made.behaviour.actor.parameters(), 1e-2)
    for _ in range(updates):
        loss, _ = made.behaviour.loss(made.model, posterior, data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_reinforce_solves_a_bandit(seed, monkeypatch):
    """Reward −(a − ½)² at every state: the mean action goes to ½."""
    made = agent('v3', 'critic.replay_scale=0', 'imagination.horizon=1', 'actor.entropy=0', seed=seed)
    behaviour, posterior, data = made.behaviour, states(made, 8, 8), batch(8, 8)
    dreams = capture_dream(monkeypatch, behaviour)
    monkeypatch.setattr(made.model, 'predict_reward', lambda feature: -10 * (dreams[-1].action - 0.5).square().sum(-1))
    learn_to_act(made, posterior, data, 250)
    with torch.no_grad():
        mean, _ = behaviour.distribution.parameters(behaviour.actor(posterior.feature))
    assert (mean.mean((0, 1)) - 0.5).abs().max() < 0.25


def actor_gradient(system, gradient, seed, discrete=False):
    """Gradients by name, of the same agent and the same random numbers for every kind of gradient."""
    made = agent(
        system,
        f'actor.gradient={gradient}',
        'actor.mix=0.3',
        'actor.entropy=0.1',
        'critic.replay_scale=0',
        seed=seed,
        discrete=discrete,
    )
    behaviour, posterior = made.behaviour, states(made)
    torch.manual_seed(seed)
    behaviour.loss(made.model, posterior, batch())[0].backward()
    assert touched(made.model) == set()
    return {name: p.grad for name, p in behaviour.actor.named_parameters()}


@pytest.mark.parametrize('discrete', [False, True])
@pytest.mark.parametrize('system', ['dreamerv2', 'v3'])
def test_mixed_gradient_is_the_mix_of_both(system, discrete, seed):
    dynamics, reinforce, mixed, auto = (
        actor_gradient(system, gradient, seed, discrete) for gradient in ('dynamics', 'reinforce', 'mixed', 'auto')
    )
    for name in mixed:
        assert not torch.allclose(dynamics[name], reinforce[name], rtol=1e-3)
        scale = max(g[name].abs().max() for g in (dynamics, reinforce))
        torch.testing.assert_close(
            mixed[name], 0.3 * reinforce[name] + 0.7 * dynamics[name], rtol=1e-3, atol=1e-4 * scale.item()
        )
        assert torch.equal(auto[name], (reinforce if discrete else dynamics)[name])


@pytest.mark.parametrize('system', EVERY)
def test_a_dream_of_choices_is_one_hot(system, seed):
    made = agent(system, seed=seed, discrete=True)
    start = states(made, 2, 4)
    start = type(start)(*(x.flatten(0, 1) for x in start))
    dream = made.behaviour.dream(made.model, start, made.behaviour.draw(made.model, 8, start.deter.device))
    assert dream.raw.shape == (5, 8, ACTIONS)
    assert torch.equal(dream.action.detach(), torch.eye(ACTIONS)[dream.action.argmax(-1)])
    assert len(dream.action.argmax(-1).unique()) == ACTIONS


@pytest.mark.parametrize('gradient', ['dynamics', 'reinforce', 'mixed'])
def test_a_bandit_of_choices_is_solved(gradient, seed, monkeypatch):
    """The second choice is rewarded, at every state."""
    made = agent(
        'v3',
        'critic.replay_scale=0',
        'imagination.horizon=1',
        'actor.entropy=0',
        'actor.unimix=0',
        f'actor.gradient={gradient}',
        'actor.mix=0.5',
        seed=seed,
        discrete=True,
    )
    behaviour, posterior, data = made.behaviour, states(made, 8, 8), batch(8, 8)
    dreams = capture_dream(monkeypatch, behaviour)
    monkeypatch.setattr(made.model, 'predict_reward', lambda feature: dreams[-1].action[..., 1])
    learn_to_act(made, posterior, data, 100)
    with torch.no_grad():
        assert behaviour.distribution.parameters(behaviour.actor(posterior.feature)).exp()[..., 1].mean() > 0.9


def test_critic_regresses_on_the_returns_and_its_slow_copy(seed, monkeypatch):
    made = agent('v3', 'critic.replay_scale=0', seed=seed)
    behaviour = made.behaviour
    with torch.no_grad():
        for parameter in behaviour.slow_critic.parameters():
            parameter.mul_(0.5)
    dreams = capture_dream(monkeypatch, behaviour)
    silence(monkeypatch, behaviour, 'actor_loss')
    loss, _ = behaviour.loss(made.model, states(made), batch())
    returns, weight, _ = reference_targets(made, dreams[0])
    feature = dreams[0].feature[:-1]
    distribution = behaviour.value_distribution
    with torch.no_grad():
        raw = behaviour.critic(feature)
        slow = distribution.mean(behaviour.slow_critic(feature))
        both = (
            (distribution.loss(raw, torch.tensor(returns, dtype=torch.float32)) + distribution.loss(raw, slow))
            .double()
            .numpy()
        )
    assert loss.item() == pytest.approx((weight * both).mean(), rel=1e-4)


def test_replay_critic_returns(rng, seed, monkeypatch):
    made = agent('v3', seed=seed)
    behaviour, data = made.behaviour, batch(3, 6)
    boot = torch.tensor(rng.normal(size=(3, 6)), dtype=torch.float32)
    asked = []
    monkeypatch.setattr(behaviour, 'critic_loss', lambda *a: asked.append(a) or torch.zeros(()))
    monkeypatch.setattr(behaviour, 'critic_outputs_by_rows', lambda feature: feature)
    posterior = states(made)
    behaviour.replay_critic_loss(posterior, data, boot.flatten())
    feature, returns, weight = asked[0]
    gamma, lambda_ = behaviour.imagination.discount, behaviour.imagination.lambda_

    def reference(row, t):
        if t == 5:
            return boot[row, 5].item()
        going = 0.0 if data.is_terminal[row, t + 1] else gamma
        after = boot[row, t + 1].item()
        if not data.is_last[row, t + 1]:  # nothing is known beyond a time limit but the bootstrap
            after = (1 - lambda_) * after + lambda_ * reference(row, t + 1)
        return data.reward[row, t + 1].item() + going * after

    for row in range(3):
        for t in range(5):
            if data.is_last[row, t]:
                assert weight[t, row] == 0.0  # what follows belongs to another episode
            else:
                assert weight[t, row] == 1.0
                assert returns[t, row].item() == pytest.approx(reference(row, t), rel=1e-5, abs=1e-5)
            assert torch.equal(feature[t, row], posterior.feature[row, t])
    assert data.is_last.sum() == 2 and data.is_terminal.sum() == 1


@pytest.mark.parametrize('slow', ['none', 'target', 'regularise'])
def test_slow_critic_modes(slow, seed):
    made = agent('v3', f'critic.slow={slow}', 'critic.slow_every=3', 'critic.slow_rate=0.1', seed=seed)
    behaviour = made.behaviour
    fast, copy = ([p.detach() for p in m.parameters()] for m in (behaviour.critic, behaviour.slow_critic))
    expected = [p.clone() for p in copy]
    for update in range(1, 8):
        for p in fast:
            p.add_(torch.randn_like(p))
        behaviour.update_slow_critic()
        if slow == 'regularise':
            expected = [0.9 * e + 0.1 * p for e, p in zip(expected, fast)]
        elif slow == 'target' and update in (3, 6):
            expected = [p.clone() for p in fast]
        for a, b in zip(copy, expected):
            torch.testing.assert_close(a, b)
    feature = torch.randn(4, made.model.rssm.feature_size)
    source = behaviour.slow_critic if slow == 'target' else behaviour.critic
    assert torch.equal(behaviour.value(feature), behaviour.value_distribution.mean(source(feature)))


def test_return_range_is_an_average_of_percentiles(rng):
    tracker, low, high = ReturnRange(), 0.0, 0.0
    for _ in range(300):
        returns = rng.normal(3, 40, (15, 64)).astype(np.float32)
        divisor = tracker(torch.tensor(returns))
        low = 0.99 * low + 0.01 * np.percentile(returns, 5)
        high = 0.99 * high + 0.01 * np.percentile(returns, 95)
        assert divisor.item() == pytest.approx(max(1.0, high - low), rel=0.01)
    assert divisor > 100
    assert set(tracker.state_dict()) == {'low', 'high'}  # belongs in checkpoints


def test_return_range_never_divides_by_less_than_one(rng):
    tracker = ReturnRange()
    for _ in range(50):
        assert tracker(torch.tensor(rng.normal(0, 0.01, (15, 8)))).item() == 1.0


@pytest.mark.parametrize('count', [1, 5])
def test_dreams_from_some_of_the_states(count):
    made = agent('v2', f'imagination.starts={count}')
    dreams, dream = [], made.behaviour.dream
    made.behaviour.dream = lambda *a: dreams.append(dream(*a)) or dreams[-1]
    posterior = states(made)
    made.behaviour.loss(made.model, posterior, batch())
    rows = posterior.feature.flatten(0, 1)
    assert dreams[0].feature.shape[1] == count
    matches = (dreams[0].feature[0].detach()[:, None] == rows[None]).all(-1)
    assert matches.any(1).all() and len(set(matches.float().argmax(1).tolist())) == count


@pytest.mark.parametrize('updates, weight', [(0, 2.0), (30, 0.5), (1000, 0.0)])
def test_imitation_has_the_gradient_of_people_s_log_probability(updates, weight):
    """V3's normal in closed form: d −ln π / dm = (μ − a)/σ² · (1 − μ²), d −ln π / ds = (1/σ − (a − μ)²/σ³) · dσ/ds."""
    fixed = 'actor.normalise_returns=false'
    overrides = (fixed, 'actor.imitation=2', 'actor.imitation_updates=40')
    made, plain, data, seen = agent('v3', *overrides), agent('v3', fixed), batch(), states(agent('v3'))
    for each in (made, plain):
        each.behaviour.slow_updates.fill_(updates)
        torch.manual_seed(1)
        each.behaviour.loss(each.model, seen, data)[0].backward()
    found = made.behaviour.actor[-1].bias.grad - plain.behaviour.actor[-1].bias.grad

    chosen = data.previous_human[:, 1:] & ~data.is_first[:, 1:]
    assert 0 < chosen.sum() < data.previous_human[:, 1:].sum(), 'an action before a reset is not counted'
    with torch.no_grad():
        m, s = made.behaviour.actor(seen.feature[:, :-1][chosen]).chunk(2, -1)
        a, mean, gate = data.previous_action[:, 1:][chosen], torch.tanh(m), torch.sigmoid(s + 2)
        std = 0.9 * gate + 0.1
        by_mean = (mean - a) / std**2 * (1 - mean**2)
        by_std = (1 / std - (a - mean) ** 2 / std**3) * 0.9 * gate * (1 - gate)
    expected = weight * torch.cat([by_mean, by_std], -1).mean(0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    assert touched(made.model) == touched(plain.model)
