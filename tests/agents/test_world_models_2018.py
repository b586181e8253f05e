"""World Models as a whole: the paper's sizes, what M learns from, dreams, policy, evolution."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dreamer_ros.agents.system import make_agent
from dreamer_ros.agents.world_models_2018 import Controller, DreamStart
from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.nets.mdn_rnn import LSTMState
from dreamer_ros.training.learner import Learner
from tests.agents.small import ACTIONS, batch, robot, touched

SMALL = (
    'env.image_size=32',
    'conv.depth=2',
    'mlp.units=9',
    'vae.latent=3',
    'memory.units=6',
    'memory.mixtures=4',
    'memory.done=true',
    'controller.population=6',
    'controller.rollouts=3',
    'controller.horizon=5',
    'controller.every=1',
)


def config(*overrides):
    return load_preset('world_models_cpu', (*SMALL, 'controller.begin=0', *overrides))


def agent(*overrides, seed=0):
    torch.manual_seed(seed)
    made = make_agent(config(*overrides), robot())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        made.controller.set(torch.randn(made.controller.size))
    return made


def samples(seed=0, **changes):
    data = batch(4, 8, seed)
    arrays = {key: value.numpy() for key, value in data._asdict().items() if not key.startswith('previous')}
    return {**arrays, 'action': data.previous_action.numpy(), 'is_human': data.previous_human.numpy(), **changes}


def test_parameter_counts_of_the_paper():
    """CarRacing's table: VAE 4,348,547; MDN-RNN 422,368; controller 867, at three actions."""
    made = make_agent(load_preset('world_models'), robot(3, (64, 64)))
    assert sum(p.numel() for p in made.vae.parameters()) == 4_348_547
    assert sum(p.numel() for p in made.memory.parameters()) == 422_368
    assert made.controller.size == 867


def test_gradients_of_m_stop_at_the_codes(seed):
    made = agent(seed=seed)
    data = batch(3, 6, seed)
    z = made.vae.encode(data.image.flatten(0, 1)).mean.unflatten(0, (3, 6))
    loss, _ = made.loss(data)
    loss.backward()
    expected = touched(made)
    groups = made.parameter_groups()
    assert {id(p) for group in groups.values() for p in group} == {id(p) for p in made.parameters()}
    assert expected == {name for name, _ in made.named_parameters()}
    # V's gradient is the same whatever M makes of the codes
    first = {name: p.grad.clone() for name, p in made.vae.named_parameters()}
    again = agent(seed=seed)
    torch.manual_seed(seed + 1)
    again.memory_loss(z.detach(), data)[0].backward()
    assert not touched(again.vae) and first


def test_memory_loss_is_the_papers(seed):
    """Mean over steps with a past and over dimensions of −ln Σ π N, plus ½(r̂ − r)² and weighted BCE."""
    made, data = agent('loss.reward_scale=2.0', seed=seed), batch(3, 6, seed)
    z = torch.randn(3, 6, 3)
    with torch.no_grad():
        loss, _ = made.memory_loss(z, data)
        nll, reward, done, count = 0.0, 0.0, 0.0, 0
        for b in range(3):
            state = made.memory.initial(1)
            for t in range(1, 6):
                state = made.memory.step(state, z[b, t - 1][None], data.previous_action[b, t][None])
                if data.is_first[b, t]:
                    state = made.memory.initial(1)
                    continue
                count += 1
                mixture = made.memory.predict(state.h)
                share, std = mixture.logits[0].softmax(0), mixture.log_std[0].exp()
                error = (z[b, t] - mixture.mean[0]) / std
                density = torch.exp(-0.5 * error**2) / std / (2 * np.pi) ** 0.5
                nll -= float((share * density).sum(0).log().mean())
                predicted = made.reward(torch.cat([z[b, t][None], state.h], -1))
                reward += 0.5 * float(predicted - data.reward[b, t]) ** 2
                p = float(torch.sigmoid(made.done(state.h)))
                done -= 10 * np.log(p) if data.is_terminal[b, t] else np.log(1 - p)
    assert float(loss) == pytest.approx((nll + 2.0 * reward + done) / count, rel=1e-4)


def test_dreams_follow_the_models_step_by_step(seed):
    made = agent(seed=seed)
    torch.manual_seed(seed)
    controllers = torch.randn(4, made.controller.size)
    start = DreamStart(torch.randn(3, 3), LSTMState(torch.randn(3, 6), torch.randn(3, 6)))
    noise = made.dream_noise(3, 7)
    returns = made.dream(controllers, start, 1.3, noise)
    assert returns.shape == (4, 3)
    with torch.no_grad():
        for p in range(4):
            made.controller.set(controllers[p])
            for r in range(3):
                z, state = start.z[r][None], LSTMState(start.state.h[r][None], start.state.c[r][None])
                total = 0.0
                for choice, normal in noise:
                    action = made.controller(torch.cat([z, state.h], -1))
                    state = made.memory.step(state, z, action)
                    z = made.memory.predict(state.h).sample(1.3, choice[r], normal[r])
                    total += float(made.reward(torch.cat([z, state.h], -1)))
                    if torch.sigmoid(made.done(state.h)) >= 0.5:
                        break
                assert float(returns[p, r]) == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize('discrete', [False, True])
def test_candidates_act_as_the_controller_they_become(discrete, seed):
    torch.manual_seed(seed)
    controller = Controller(5, 3, discrete)
    candidates, feature = torch.randn(4, controller.size), torch.randn(4, 6, 5)
    together = controller.act(feature, candidates)
    for own, x, expected in zip(candidates, feature, together):
        controller.set(own)
        action = controller(x)
        torch.testing.assert_close(action, expected)
        raw = torch.stack([own[a * 6 : a * 6 + 5] @ x.T + own[a * 6 + 5] for a in range(3)], 1)
        if discrete:
            assert torch.equal(action, F.one_hot(raw.argmax(-1), 3).float())
        else:
            torch.testing.assert_close(action, torch.tanh(raw))


def test_a_choice_is_one_also_before_evolution():
    actions = Controller(5, 3, discrete=True)(torch.zeros(2, 5))
    assert torch.equal(actions, torch.tensor([[1.0, 0.0, 0.0]] * 2))


def test_policy_reproduces_the_states_of_training(seed):
    """Act step by step, store as a recorder would, and filter the stored sequence as the learner does."""
    made = agent('controller.exploration_noise=0.5', seed=seed)
    policy, data = made.policy(), batch(3, 8, seed)
    is_first = data.is_first.clone()
    is_first[:, 0] = is_first[2, 5] = True
    noise = torch.randn(3, 8, policy.noise_size)
    state, actions, states = torch.randn(3, policy.state_size), [], []
    with torch.no_grad():
        for t in range(8):
            action, after = policy(data.image[:, t], is_first[:, t], state, noise[:, t])
            states.append(state * (~is_first[:, t, None]))
            actions.append(action)
            state = after
        actions, states = torch.stack(actions, 1), torch.stack(states, 1)
        code = made.vae.encode(data.image.flatten(0, 1))
        z = code.sample(noise[..., :3].flatten(0, 1)).unflatten(0, (3, 8))
        previous = torch.cat([torch.zeros(3, 1, ACTIONS), actions[:, :-1]], 1)
        trained = made.memory.filter(z, previous, is_first)
        torch.testing.assert_close(states, torch.cat([trained.h, trained.c], -1))
        expected = made.controller(torch.cat([z, trained.h], -1)) + 0.5 * noise[..., 3:]
    torch.testing.assert_close(actions, expected.clamp(-1, 1))
    assert actions.abs().max() <= 1.0 and actions.std() > 0.1


def test_zero_noise_is_deterministic_and_on_the_mean(seed):
    made = agent('controller.exploration_noise=0.5', seed=seed)
    policy, data = made.policy(), batch(2, 1, seed)
    with torch.no_grad():
        first, state = torch.ones(2, dtype=torch.bool), torch.randn(2, policy.state_size)
        action, _ = policy(data.image[:, 0], first, state, torch.zeros(2, policy.noise_size))
        z = made.vae.encode(data.image[:, 0]).mean
        torch.testing.assert_close(action, made.controller(torch.cat([z, torch.zeros(2, 6)], -1)))


def test_evolution_improves_the_dream_it_is_scored_in(seed, monkeypatch):
    """With M as it is, and a reward that actions can change, the return of dreams rises over generations."""
    made = agent('controller.population=16', 'controller.horizon=12', 'controller.decay=0', seed=seed)
    data = batch(4, 8, seed)
    made.done = None
    with torch.no_grad():
        made.memory.cell.input.weight[:, 3:] += 2.0 * torch.randn(24, ACTIONS)
    monkeypatch.setattr(made, 'predict_reward', lambda z, h: h[..., 0])
    torch.manual_seed(seed)
    start, noise = made.starts(data, 32), made.dream_noise(32, 12)

    def score():
        return float(made.dream(made.evolution.mean.float()[None], start, 1.0, noise).mean())

    before = score()
    for _ in range(60):
        metrics = made.evolve(data, 1.0)
    assert score() > before + 1.0
    assert torch.equal(made.controller.weight[0], made.evolution.mean.float()[:9])
    assert float(metrics['best_dream_fitness']) >= float(metrics['dream_fitness'])


def test_dreams_begin_as_episodes_do_and_at_replayed_states(seed):
    made, data = agent('controller.first=0.5', seed=seed), batch(3, 6, seed)
    with torch.no_grad():
        made.vae.code.bias[3:] -= 1000.0  # no noise in codes
        before = made.starts(data, 8)
        assert before.state.h.any(1).all()  # no first image was seen yet
        made.after_update(data)
        start = made.starts(data, 8)
        first = made.vae.encode(data.image[data.is_first]).mean
        last = made.vae.encode(data.image[:, -1]).mean
        states = made.memory.filter(made.sample_codes(data.image), data.previous_action, data.is_first)
    assert int(made.firsts) == len(first) == 2
    for row in range(8):
        expected = first if row < 4 else last
        known = (start.z[row] - expected).abs().amax(1)
        assert known.min() < 1e-6
        h = torch.zeros(6) if row < 4 else states.h[known.argmin(), -1]
        torch.testing.assert_close(start.state.h[row], h)


def test_only_the_newest_first_images_are_kept(seed):
    made, data = agent(seed=seed), batch(3, 6, seed)
    data = data._replace(is_first=torch.ones_like(data.is_first))
    for _ in range(4):  # 72 images
        data = data._replace(image=torch.randint_like(data.image, 256))
        made._keep_first_images(data)
    assert int(made.firsts) == 72
    assert torch.equal(made.first_images[:8], data.image.flatten(0, 1)[10:])


def test_learner_evolves_every_few_updates(seed):
    trained = Learner(config('controller.every=3'), robot(), 'cpu', seed)
    evolved = ['dream_fitness' in trained.update(samples(k)) for k in range(7)]
    assert evolved == [False, False, True, False, False, True, False]
    assert int(trained.agent.evolution.generation) == 2
    never = Learner(config('controller.every=0'), robot(), 'cpu', seed)
    never.update(samples())
    assert not never.agent.controller.weight.any()


def test_v_rests_and_c_begins_when_told(seed):
    trained = Learner(config('vae.updates=2', 'controller.begin=3', 'controller.every=1'), robot(), 'cpu', seed)
    v, m, evolved = [], [], []
    for k in range(5):
        metrics = trained.update(samples(k))
        v.append(torch.nn.utils.parameters_to_vector(trained.agent.vae.parameters()).detach())
        m.append(torch.nn.utils.parameters_to_vector(trained.agent.memory.parameters()).detach())
        evolved.append('dream_fitness' in metrics)
        assert ('vae_loss' in metrics) == ('vae_grad_norm' in metrics) == (k < 2)
    assert [torch.equal(a, b) for a, b in zip(v, v[1:])] == [False, True, True, True]
    assert not any(torch.equal(a, b) for a, b in zip(m, m[1:]))
    assert evolved == [False, False, False, True, True]


@pytest.mark.parametrize('overrides', [[], ['vae.updates=1']])
def test_resume_continues_bit_for_bit(tmp_path, seed, overrides):
    first, second = (Learner(config('controller.every=2', *overrides), robot(), 'cpu', s) for s in (seed, seed + 1))
    for k in range(3):
        first.update(samples(k))
    first.save(tmp_path / 'checkpoint')
    second.load(tmp_path / 'checkpoint')
    for k in range(3, 6):
        random = torch.get_rng_state()
        expected = first.update(samples(k))
        torch.set_rng_state(random)
        actual = second.update(samples(k))
        assert expected.keys() == actual.keys()
        assert all(torch.equal(expected[key], actual[key]) for key in expected)
    for (name, a), b in zip(first.agent.state_dict().items(), second.agent.state_dict().values()):
        assert torch.equal(a, b), name
    assert int(second.agent.evolution.generation) == 3


@pytest.mark.parametrize('extreme', ['black', 'huge_reward', 'constant_reward', 'one_step_episodes'])
@pytest.mark.parametrize('target', ['image', 'thumbnail'])
def test_extreme_data_gives_finite_updates(extreme, target, seed):
    trained, data = Learner(config(f'vae.target={target}'), robot(), 'cpu', seed), samples(seed)
    if extreme == 'black':
        data['image'] = np.zeros_like(data['image'])
    elif extreme == 'one_step_episodes':
        data.update({key: np.ones_like(data[key]) for key in ('is_first', 'is_last', 'is_terminal')})
    else:
        data['reward'] = np.full_like(data['reward'], 1e6 if extreme == 'huge_reward' else 1.0)
    for _ in range(5):
        metrics = trained.update(data)
    assert all(torch.isfinite(value).all() for value in metrics.values()), metrics
    assert all(torch.isfinite(value).all() for value in trained.agent.state_dict().values())


def test_dream_video_agrees_on_the_context(seed):
    trained, data = Learner(config(), robot(), 'cpu', seed), samples(seed)
    video = trained.dream(data)
    assert video.shape == (4, 8, 32, 96, 3) and video.dtype == np.uint8
    assert np.array_equal(video[:, :, :, :32], data['image'])
    assert np.array_equal(video[:, :5, :, 32:64], video[:, :5, :, 64:])
    assert not np.array_equal(video[:, 5:, :, 32:64], video[:, 5:, :, 64:])


@pytest.mark.parametrize(
    'override, names',
    [
        ('env.inputs=both', 'env.inputs: .*both'),
        ('env.inputs=vector', 'env.inputs: .*vector'),
        ('conv.kind=pool', 'conv.kind: .*pool'),
        ('schedule.overlap=true', 'schedule.overlap: .*True'),
    ],
)
def test_settings_that_do_not_fit_are_refused(override, names):
    with pytest.raises(InputError, match=f'world_models.* {names}'):
        config(*override.split())
