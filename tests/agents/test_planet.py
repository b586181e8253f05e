"""PlaNet: the policy is filter, planner and exploration; overshooting, 5-bit images and the loss are the paper's."""

import dataclasses

import numpy as np
import pytest
import torch

from dreamer_ros.agents.planet import cross_entropy_method
from dreamer_ros.agents.system import make_agent
from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.nets.encoders import unit_image
from dreamer_ros.nets.rssm import State
from tests.agents.small import ACTIONS, batch, robot

PLANNER = {'horizon': 3, 'candidates': 12, 'iterations': 2, 'elites': 4}
SMALL = (
    'env.image_size=32',
    'conv.kind=stride',
    'conv.depth=2',
    'rssm.deter=8',
    'rssm.hidden=7',
    'rssm.stoch=3',
    'mlp.units=9',
    *(f'planner.{key}={value}' for key, value in PLANNER.items()),
)


def agent(*overrides, seed=0):
    torch.manual_seed(seed)
    made = make_agent(load_preset('planet', (*SMALL, *overrides)), robot())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def test_a_step_is_filter_then_plan_then_exploration(seed):
    """Against one candidate at a time, through the parts that training uses."""
    made = agent(seed=seed)
    policy, rssm, data = made.policy(), made.model.rssm, batch(1, 1)
    state = torch.randn(1, policy.state_size)
    noise = torch.randn(1, policy.noise_size)
    with torch.no_grad():
        action, after = policy(data.image[:, 0], torch.tensor([False]), state, noise)

        deter, stoch, previous = state.split([8, 3, ACTIONS], -1)
        embed = made.model.encoder(data.image[:, 0])
        deter = rssm.cell(deter, stoch, rssm.cell.project_action(previous))
        mean, std = rssm.posterior(deter, rssm.posterior_embed(embed)).chunk(2, -1)
        stoch = mean + std * noise[:, :3]
        sizes = (PLANNER[key] for key in ('iterations', 'candidates', 'horizon'))
        drawn = noise[0, 3:-ACTIONS].view(*sizes, ACTIONS + 3)

        def score(sequences, iteration):
            returns = []
            for sequence, latent in zip(sequences[0], drawn[iteration, ..., ACTIONS:]):
                at, total = State(deter, stoch), 0.0
                for one, latent_noise in zip(sequence, latent):
                    at = rssm.imagine_step(at, one[None], latent_noise[None])
                    total = total + made.model.predict_reward(at.feature)
                returns.append(total)
            return torch.stack(returns, 1)

        plan = cross_entropy_method(score, drawn[:, None, ..., :ACTIONS], PLANNER['elites'])
        expected = (plan[:, 0] + 0.3 * noise[:, -ACTIONS:]).clamp(-1, 1)
    torch.testing.assert_close(action, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after, torch.cat([deter, stoch, action], -1), rtol=1e-4, atol=1e-5)


def test_evaluation_noise_is_the_planners(seed):
    """It covers all that the plan hangs on, and neither the filter's sample nor the exploration."""
    policy, data = agent(seed=seed).policy(), batch(1, 1)
    start, stop = policy.evaluation_noise
    assert (start, policy.noise_size - stop) == (3, ACTIONS)
    assert stop - start == 2 * 12 * 3 * (ACTIONS + 3)
    state, is_first = torch.zeros(1, policy.state_size), torch.tensor([True])
    noise = torch.zeros(2, 1, policy.noise_size)
    noise[:, :, start:stop].normal_()
    with torch.no_grad():
        (first, one), (second, two) = (policy(data.image[:, 0], is_first, state, x) for x in noise)
        silent, _ = policy(data.image[:, 0], is_first, state, torch.zeros(1, policy.noise_size))
    assert not torch.equal(first, second)
    assert torch.equal(one[:, :-ACTIONS], two[:, :-ACTIONS])  # one belief, two searches
    assert torch.equal(silent, torch.zeros(1, ACTIONS))


def test_is_first_forgets_the_state(seed):
    policy, data = agent(seed=seed).policy(), batch(1, 1)
    noise = torch.randn(1, policy.noise_size)
    with torch.no_grad():
        results = [
            policy(data.image[:, 0], torch.tensor([first]), torch.randn(1, policy.state_size), noise)[1]
            for first in (True, True, False)
        ]
    torch.testing.assert_close(results[0], results[1])
    assert not torch.allclose(results[0], results[2])


def kl(left, right):
    (m1, s1), (m2, s2) = (x.double().chunk(2, -1) for x in (left, right))
    return (torch.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5).sum(-1)


@pytest.mark.parametrize('distance', [1, 3, 9])
def test_overshooting_is_its_definition(distance, seed, monkeypatch):
    """Every start rolled on its own, one step at a time; noise that tells neither start nor distance apart."""
    free = 0.1
    made = agent(f'loss.overshooting={distance}', f'loss.free_nats={free}', seed=seed)
    data = batch(3, 6)
    rssm = made.model.rssm
    monkeypatch.setattr(rssm.latent, 'noise', lambda *shape, device=None: torch.full((*shape, 3), 0.3))
    with torch.no_grad():
        states, posterior, _ = rssm.observe(made.model.embed(data), data.previous_action, data.is_first)
        got = made.model.overshooting_loss(states, posterior, data)
        by_distance = []
        for d in range(1, min(distance, 5) + 1):
            terms = []
            for b in range(3):
                for t in range(6 - d):
                    if data.is_first[b, t + 1 : t + d + 1].any():
                        continue
                    at = State(states.deter[b : b + 1, t], states.stoch[b : b + 1, t])
                    for k in range(t + 1, t + d + 1):
                        at = rssm.imagine_step(at, data.previous_action[b : b + 1, k], rssm.latent.noise(1))
                    terms.append(max(0.0, kl(posterior[b, t + d], rssm.prior(at.deter)[0]).item() - free))
            by_distance.append(np.mean(terms))
    assert data.is_first[:, 1:].any()
    assert got.item() == pytest.approx(np.mean(by_distance), rel=1e-4)
    assert got.item() > 0


def test_overshooting_trains_the_prior_towards_a_fixed_posterior(seed):
    made, data = agent('loss.overshooting=4', 'loss.free_nats=0', seed=seed), batch(2, 6)
    rssm = made.model.rssm
    states, posterior, _ = rssm.observe(made.model.embed(data), data.previous_action, data.is_first)
    posterior.retain_grad()
    fixed = State(*(x.detach() for x in states))
    made.model.overshooting_loss(fixed, posterior, data).backward()
    assert posterior.grad is None
    assert all(p.grad is not None and p.grad.any() for p in rssm.prior_out.parameters())


def test_the_loss_counts_overshooting_and_what_exceeds_the_free_nats(seed):
    data = batch(3, 6)
    totals = {}
    for distance in (0, 3):
        made = agent(f'loss.overshooting={distance}', 'loss.free_nats=0.2', seed=seed)
        torch.manual_seed(seed)
        total, _, metrics = made.model.loss(data)
        totals[distance] = total.item()
    assert totals[3] == pytest.approx(totals[0] + metrics['overshooting_loss'].item(), rel=1e-5)
    excess = made.model.free_nats(torch.tensor([[0.1, 0.5], [0.2, 1.2]]))
    assert excess.item() == pytest.approx((0.3 + 1.0) / 4)


def test_five_bits():
    image = torch.tensor([0, 7, 8, 255], dtype=torch.uint8)
    assert unit_image(image, 5, 0.0).tolist() == [0.0, 0.0, 1 / 32, 31 / 32]
    assert unit_image(image, 5).tolist() == [0.5 / 32, 0.5 / 32, 1.5 / 32, 31.5 / 32]
    noisy = unit_image(image.expand(1000, 4), 5, torch.rand(1000, 4))
    within = noisy * 32 - (image // 8).float()
    assert 0.0 <= within.min() < 0.1 and 0.9 < within.max() <= 1.0  # a level is never left
    assert torch.equal(unit_image(noisy), noisy)
    torch.testing.assert_close(unit_image(image), image / 255.0)


def test_the_encoder_sees_five_bits_and_the_loss_draws_noise(seed, monkeypatch):
    made, data = agent(seed=seed), batch(2, 4)
    coarse = data._replace(image=data.image // 8 * 8)
    assert torch.equal(made.model.embed(data), made.model.embed(coarse))
    targets, error = [], made.model.image_error

    def watched(deter, stoch, image):
        targets.append(image)
        return error(deter, stoch, image)

    monkeypatch.setattr(made.model, 'image_error', watched)
    made.loss(data)
    made.loss(data)
    assert not torch.equal(*targets)
    for target in targets:
        within = target * 32 - (data.image // 8).float().flatten(0, 1)
        assert 0.0 <= within.min() < 0.1 and 0.9 < within.max() <= 1.0


def test_it_can_be_inspected_like_every_model(seed):
    made, data = agent(seed=seed), batch(2, 6)
    seen = made.inspect(data, context=4)
    assert seen.value is None
    reconstruction, prediction = made.inspect(data, 4)[:2]
    assert reconstruction.shape == prediction.shape == data.image.shape and reconstruction.dtype == torch.uint8
    assert torch.equal(reconstruction[:, :4], prediction[:, :4])


def test_hyperparameters_of_the_paper():
    config = load_preset('planet')
    rssm, loss, planner, optimizer = config.rssm, config.loss, config.planner, config.optimizer
    assert (rssm.deter, rssm.stoch, rssm.classes, rssm.min_std, config.conv.bits) == (200, 30, 0, 0.1, 5)
    assert (loss.reward_scale, loss.free_nats, loss.kl_free, loss.overshooting) == (10.0, 3.0, 'planet', 0)
    assert (planner.horizon, planner.candidates, planner.iterations, planner.elites) == (12, 1000, 10, 100)
    assert (optimizer.kind, optimizer.model_lr, optimizer.eps, optimizer.clip) == ('adam', 1e-3, 1e-4, 1000.0)
    assert (config.schedule.batch, config.schedule.length) == (50, 50)
    repeats = {
        'cartpole_swingup': 8,
        'cheetah_run': 4,
        'cup_catch': 4,
        'reacher_easy': 4,
        'finger_spin': 2,
        'walker_walk': 2,
    }
    assert {task: config.action_repeat_for(task) for task in repeats} == repeats


def test_discrete_actions_are_refused():
    with pytest.raises(InputError, match='planet: expected a robot with continuous actions'):
        make_agent(load_preset('planet', SMALL), dataclasses.replace(robot(), discrete=True))
