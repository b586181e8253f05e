"""World-model loss: every term from its definition, the KL's gradients, parameter counts of the paper."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm

from dreamer_ros.agents.system import make_agent
from dreamer_ros.config import load_preset
from tests.agents.small import agent, batch, config, robot, touched


def test_parameter_counts_of_the_paper():
    groups = make_agent(load_preset('dreamer'), robot(6, (64, 64))).parameter_groups()
    counts = {name: sum(p.numel() for p in parameters) for name, parameters in groups.items()}
    assert counts == {'model': 5_296_820, 'actor': 578_412, 'critic': 413_601}


# RSSM, encoder, decoder, reward, continue, actor and critic at 6 actions, as another implementation of DreamerV3 counts
# them (github.com/NM512/r2dreamer, with the decoder)
V3_COUNTS = {
    'dreamerv3_1m': (376_704, 14_304, 80_595, 57_663, 41_153, 50_316, 66_111),
    'dreamerv3_12m': (5_979_648, 220_416, 1_272_003, 721_407, 656_129, 791_052, 853_503),
    'dreamerv3_25m': (13_442_304, 493_824, 2_857_635, 1_573_503, 1_475_713, 1_776_396, 1_869_951),
    'dreamerv3_200m': (95_483_904, 3_492_864, 20_282_115, 10_749_183, 10_488_833, 12_601_356, 12_850_431),
}


@pytest.mark.parametrize('preset, expected', V3_COUNTS.items())
def test_parameter_counts_of_dreamerv3(preset, expected):
    with torch.device('meta'):
        made = make_agent(load_preset(preset), robot(6, (64, 64)))
    model, behaviour = made.model, made.behaviour
    modules = (
        model.rssm,
        model.encoder,
        model.decoder,
        model.reward,
        model.continuation,
        behaviour.actor,
        behaviour.critic,
    )
    assert tuple(sum(p.numel() for p in module.parameters()) for module in modules) == expected


def test_groups_hold_every_trained_parameter_once():
    made = agent('v3')
    grouped = [p for parameters in made.parameter_groups().values() for p in parameters]
    slow = {id(p) for p in made.behaviour.slow_critic.parameters()}
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in made.parameters()} - slow


def test_v3_heads_start_at_zero(seed):
    torch.manual_seed(seed)
    made = make_agent(config('v3'), robot())
    feature = torch.randn(7, made.model.rssm.feature_size)
    assert (made.model.predict_reward(feature) == 0.0).all()
    assert (made.behaviour.value_distribution.mean(made.behaviour.critic(feature)) == 0.0).all()
    assert (made.behaviour.value_distribution.mean(made.behaviour.slow_critic(feature)) == 0.0).all()


def observed(made, data, seed):
    """Posterior, prior and features that `loss` computes from the same random numbers."""
    torch.manual_seed(seed)
    embed = made.model.encoder(data.image.flatten(0, 1)).unflatten(0, data.image.shape[:2])
    return made.model.rssm.observe(embed, data.previous_action, data.is_first)


def gaussian_kl(left, right):
    (m1, s1), (m2, s2) = (x.double().chunk(2, -1) for x in (left, right))
    return (torch.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5).sum(-1)


def categorical_kl(left, right):
    return (left.double().exp() * (left.double() - right.double())).sum((-1, -2))


@pytest.mark.parametrize('kl_free, free', [('mean', 0.0), ('mean', 1e3), ('step', 0.0), ('step', 2.0), ('step', 1e3)])
@pytest.mark.parametrize('system', ['v1', 'v3'])
def test_loss_is_the_sum_of_its_terms(system, kl_free, free, seed):
    made = agent(
        system,
        f'loss.kl_free={kl_free}',
        f'loss.free_nats={free}',
        'loss.dynamics_scale=0.7',
        'loss.representation_scale=0.2',
        'loss.reward_scale=3',
        'loss.image_scale=0.5',
        'loss.continue_head=true',
        'loss.continue_scale=10',
        seed=seed,
    )
    model, data = made.model, batch()
    states, posterior, prior = observed(made, data, seed)
    torch.manual_seed(seed)
    loss, taken, metrics = model.loss(data)
    torch.testing.assert_close(taken.feature, states.feature)

    with torch.no_grad():
        decoded = model.decoder(states.deter.flatten(0, 1), states.stoch.flatten(0, 1)).double()
        image = data.image.flatten(0, 1).permute(0, 3, 1, 2).double() / 255
        if system == 'v1':
            image_loss = (0.5 * (decoded - (image - 0.5)) ** 2).sum((1, 2, 3)).mean()
            reward_loss = (0.5 * (model.reward(states.feature)[..., 0] - data.reward) ** 2).mean()
            kl = gaussian_kl(posterior, prior)
        else:
            image_loss = ((torch.sigmoid(decoded) - image) ** 2).sum((1, 2, 3)).mean()
            reward_loss = model.reward_distribution.loss(model.reward(states.feature), data.reward).mean()
            kl = categorical_kl(posterior, prior)
        going = torch.sigmoid(model.continuation(states.feature)[..., 0].double())
        # only a terminal state stops, a time limit does not; the target already holds the discount
        target = np.where(data.is_terminal.numpy(), 0.0, made.behaviour.imagination.discount)
        target = torch.tensor(target)
        continue_loss = -(target * going.log() + (1 - target) * (1 - going).log()).mean()
        if kl_free == 'mean':
            kl_loss = max(kl.mean().item(), free)
        else:
            kl_loss = np.maximum(kl.numpy(), free).mean()
    assert data.is_last.sum() > data.is_terminal.sum() > 0
    assert metrics['kl'].item() == pytest.approx(kl.mean().item(), rel=1e-3)
    expected = 0.5 * image_loss + 3 * reward_loss + 10 * continue_loss + (0.7 + 0.2) * kl_loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def kl_only(system, dynamics, representation, *overrides, seed):
    made = agent(
        system,
        f'loss.dynamics_scale={dynamics}',
        f'loss.representation_scale={representation}',
        'loss.image_scale=0',
        'loss.reward_scale=0',
        'loss.continue_head=false',
        'loss.free_nats=0',
        *overrides,
        seed=seed,
    )
    made.zero_grad()
    return made


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize('system', ['v1', 'v2', 'v3'])
def test_kl_balance_trains_prior_and_posterior_apart(system, seed):
    """On single steps (no recurrence) each KL has one side only, and its scale."""
    data = batch(4, 1)
    for scales in ((1.0, 0.0), (0.0, 1.0), (0.8, 0.2)):
        made = kl_only(system, *scales, seed=seed)
        torch.manual_seed(seed)
        made.model.loss(data)[0].backward()
        taken = gradients(made.model.rssm)
        reached = {name.split('_')[0] for name in taken}
        assert ('prior' in reached) == (scales[0] > 0) and ('posterior' in reached) == (scales[1] > 0)
        assert bool(touched(made.model.encoder)) == (scales[1] > 0)
        made.zero_grad()
        _, posterior, prior = observed(made, data, seed)
        (gaussian_kl if system == 'v1' else categorical_kl)(posterior, prior).mean().backward()
        for name, gradient in gradients(made.model.rssm).items():
            if name.startswith(('prior', 'posterior')):
                scale = scales[0] if name.startswith('prior') else scales[1]
                torch.testing.assert_close(
                    taken.get(name, torch.zeros_like(gradient)), scale * gradient, rtol=1e-3, atol=1e-5
                )


def test_equal_scales_have_the_gradient_of_the_plain_kl(seed):
    data = batch()
    made = kl_only('v1', 1.0, 1.0, seed=seed)
    torch.manual_seed(seed)
    made.model.loss(data)[0].backward()
    taken = gradients(made.model.rssm)
    made.zero_grad()
    _, posterior, prior = observed(made, data, seed)
    gaussian_kl(posterior, prior).mean().backward()
    expected = gradients(made.model.rssm)
    assert taken.keys() == expected.keys() and len(taken) > 8
    for name in taken:
        torch.testing.assert_close(taken[name], expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('kl_free', ['mean', 'step'])
def test_kl_under_the_free_nats_gives_no_gradient(kl_free, seed):
    made = kl_only('v3', 1.0, 0.1, f'loss.kl_free={kl_free}', seed=seed)
    made.model.config = made.model.config.model_copy(update={'free_nats': 1e3})
    made.model.loss(batch())[0].backward()
    assert touched(made.model) == set()


def test_free_nats_per_step_spare_only_the_small_steps():
    made = kl_only('v3', 1.0, 0.1, 'loss.kl_free=step', seed=0)
    made.model.config = made.model.config.model_copy(update={'free_nats': 1.0})
    kl = torch.tensor([[0.2, 3.0], [1.5, 0.9]], requires_grad=True)
    clipped = made.model.free_nats(kl)
    clipped.backward()
    assert clipped.item() == pytest.approx((1.0 + 3.0 + 1.5 + 1.0) / 4)
    assert kl.grad.tolist() == [[0.0, 0.25], [0.25, 0.0]]
    made.model.config = made.model.config.model_copy(update={'kl_free': 'mean'})
    assert made.model.free_nats(kl).item() == pytest.approx(1.4)  # 5.6 / 4 is above one nat


@pytest.mark.parametrize('image', ['normal', 'squared'])
def test_decode_inverts_the_loss_scaling(image):
    """A decoder that outputs exactly what the loss wants shows the very pixels."""
    made = agent('v1', f'loss.image={image}')
    pixels = torch.randint(5, 251, (2, 32, 32, 3), dtype=torch.uint8)
    value = pixels.permute(0, 3, 1, 2).float() / 255

    class Perfect(torch.nn.Module):
        def forward(self, deter, stoch):
            return value - 0.5 if image == 'normal' else torch.logit(value)

    made.model.decoder = Perfect()
    shape = made.model.rssm.initial(2)
    assert torch.equal(made.model.decode(shape), pixels)
    loss = made.model.image_loss(type(shape)(*(x[None] for x in shape)), pixels[None])
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_discount_of_a_model_without_continue_head():
    made = agent('v1')
    feature = torch.randn(3, 4, made.model.rssm.feature_size)
    torch.testing.assert_close(made.model.predict_discount(feature), torch.full((3, 4), 0.99))
    assert made.behaviour.imagination.discount == 0.99


def test_continue_head_already_holds_the_discount(seed):
    """Nothing multiplies γ again: its target was γ (1 − terminal)."""
    made = agent('v3', seed=seed)
    feature = torch.randn(3, 4, made.model.rssm.feature_size)
    probability = torch.sigmoid(made.model.continuation(feature))[..., 0]
    assert torch.equal(made.model.predict_discount(feature), probability)


def test_open_loop_prediction_uses_no_image_after_the_context(seed):
    made, data = agent('v2', seed=seed), batch(2, 8)
    data.is_first[:] = False
    torch.manual_seed(seed)
    reconstruction, prediction = made.inspect(data, 3)[:2]
    assert reconstruction.shape == prediction.shape == data.image.shape
    assert torch.equal(reconstruction[:, :3], prediction[:, :3])
    data.image[:, 3:] = 255 - data.image[:, 3:]
    torch.manual_seed(seed)
    changed_reconstruction, changed_prediction = made.inspect(data, 3)[:2]
    assert torch.equal(prediction, changed_prediction)
    assert not torch.equal(reconstruction, changed_reconstruction)
    data.previous_action[:, 4] += 0.5
    torch.manual_seed(seed)
    _, steered = made.inspect(data, 3)[:2]
    assert torch.equal(steered[:, :4], prediction[:, :4]) and not torch.equal(steered[:, 4:], prediction[:, 4:])


def test_free_nats_of_planet_count_only_the_excess(rng):
    made = kl_only('v1', 1.0, 1.0, 'loss.kl_free=planet', seed=0)
    made.model.config = made.model.config.model_copy(update={'free_nats': 3.0})
    kl = torch.tensor(rng.uniform(0, 8, (4, 5)), requires_grad=True)
    excess = made.model.free_nats(kl)
    excess.backward()
    assert excess.item() == pytest.approx(np.mean([max(0.0, x - 3.0) for x in kl.detach().numpy().ravel()]))
    np.testing.assert_allclose(kl.grad, (kl.detach() > 3.0) / 20.0)


@pytest.mark.parametrize('shape', [(3, 4), (12, 5), (4, 33), (11, 32)])
def test_contrastive_loss_is_the_papers(shape, rng, seed, monkeypatch):
    """Embedding by embedding: the states of up to 10 sequences and 30 steps around it, log-densities by scipy."""
    made = agent('v1', 'loss.representation=contrastive', seed=seed)
    model, features = made.model, 4
    feature = rng.normal(size=(*shape, features))
    raw = rng.normal(size=(*shape, 2 * features))
    monkeypatch.setattr(model, 'projector', torch.nn.Identity())
    loss = model.contrastive_loss(torch.tensor(feature), torch.tensor(raw))
    mean, std = raw[..., :features], np.logaddexp(0.0, raw[..., features:]) + 0.1
    terms = []
    for b, t in np.ndindex(*shape):
        rows = {(b + shift) % shape[0] for shift in range(-5, 5)}
        steps = {(t + shift) % shape[1] for shift in range(-15, 15)}
        window = [(row, step) for row in rows for step in steps]
        assert len(window) == min(shape[0], 10) * min(shape[1], 30)
        states = np.stack([feature[place] for place in [(b, t), *window]])
        density = norm(mean[b, t], std[b, t]).logpdf(states).sum(-1)
        terms.append(density[0] - logsumexp(density[1:]))
    assert loss.item() == pytest.approx(-np.mean(terms), rel=1e-6)


def test_contrastive_learning_tells_observations_apart(seed):
    """Eight plain colours: states and embeddings of one find each other."""
    torch.manual_seed(seed)
    made = make_agent(
        config(
            'v1',
            'loss.representation=contrastive',
            'loss.reward_scale=0',
            'loss.dynamics_scale=0',
            'loss.representation_scale=0',
            'conv.depth=4',
        ),
        robot(),
    )
    data = batch(8, 1)
    colours = torch.tensor([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)], dtype=torch.uint8)
    data.image[:] = colours[:, None, None, None]
    optimizer = torch.optim.Adam(made.model.parameters(), 3e-3)
    losses = []
    for _ in range(120):
        loss, _, metrics = made.model.loss(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(metrics['representation_loss'].item())
    # ln 8 is a blind guess
    assert losses[0] > 0.7 * np.log(8) and np.mean(losses[-20:]) < 0.7 * np.log(8)


def test_thumbnail_loss_is_its_definition(rng, seed):
    """Square by square: its mean colour, standardised over the images of the first batch."""
    made = agent('v2', seed=seed)
    feature, image = torch.randn(6, made.model.rssm.feature_size), rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
    loss = made.model.thumbnail_loss(feature, torch.from_numpy(image))
    means = np.array(
        [
            [
                one[4 * row : 4 * row + 4, 4 * column : 4 * column + 4, channel].mean() / 255
                for channel, row, column in np.ndindex(3, 8, 8)
            ]
            for one in image
        ]
    )
    target = (means - means.mean(0)) / (means.std(0) + 0.01)
    with torch.no_grad():
        predicted = made.model.projector(feature).numpy()
    assert loss.item() == pytest.approx(((predicted - target) ** 2).sum(1).mean(), rel=1e-4)


def test_redundancy_loss_is_the_papers(rng, seed):
    """Entry by entry of the correlation matrix; the embedding's scale and offset do not count."""
    made = agent('v3', 'loss.representation=redundancy', seed=seed)
    rows, size, width = 24, made.model.rssm.feature_size, made.model.encoder.output_size
    feature, embed = rng.normal(size=(rows, size)), rng.normal(3.0, 5.0, (rows, width))
    left, right, expected = feature @ made.model.projector.weight.detach().double().numpy().T, embed, 0.0
    for i, j in np.ndindex(width, width):
        pair = [(x - x.mean()) / x.std(ddof=1) for x in (left[:, i], right[:, j])]
        correlation = sum(a * b for a, b in zip(*pair)) / rows
        expected += (correlation - 1) ** 2 if i == j else 5e-4 * correlation**2
    loss = made.model.redundancy_loss(*(torch.tensor(x, dtype=torch.float32) for x in (feature, embed)))
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_redundancy_gradients_reach_the_states_and_no_embedding(seed):
    """The target is fixed: an encoder that could move it would make all images alike."""
    model = agent('v3', 'loss.representation=redundancy', seed=seed).model
    feature, embed = (
        torch.randn(12, size, requires_grad=True) for size in (model.rssm.feature_size, model.encoder.output_size)
    )
    model.redundancy_loss(feature, embed).backward()
    assert feature.grad.any() and embed.grad is None and model.projector.weight.grad.any()


@pytest.mark.parametrize('representation', ['contrastive', 'reward', 'redundancy', 'thumbnail'])
def test_without_reconstruction_the_decoder_only_watches(representation, seed):
    """With every other loss at zero, the image's gradient stays in the decoder."""
    made = kl_only('v1', 0.0, 0.0, f'loss.representation={representation}', seed=seed)
    loss, _, metrics = made.model.loss(batch())
    loss.backward()
    assert {name.split('.')[0] for name in touched(made.model)} == {'decoder'}
    assert loss.item() == pytest.approx(metrics['image_loss'].item())


def test_reward_alone_shapes_the_states(seed):
    made = agent('v1', 'loss.representation=reward', 'loss.dynamics_scale=0', 'loss.representation_scale=0', seed=seed)
    made.model.loss(batch())[0].backward()
    assert {'encoder', 'rssm', 'reward', 'decoder'} == {name.split('.')[0] for name in touched(made.model)}


def test_contrastive_gradients_reach_states_and_embeddings(seed):
    made = kl_only('v1', 0.0, 0.0, 'loss.representation=contrastive', 'loss.image_scale=1', seed=seed)
    made.model.loss(batch())[0].backward()
    assert {'encoder', 'rssm', 'projector', 'decoder'} == {name.split('.')[0] for name in touched(made.model)}


def test_continuation_head_of_the_paper():
    model = make_agent(load_preset('dreamer', ('loss.continue_head=true',)), robot(6, (64, 64))).model
    sizes = [layer.out_features for layer in model.continuation.modules() if isinstance(layer, torch.nn.Linear)]
    assert sizes == [400, 400, 400, 1] and model.config.continue_scale == 10.0
