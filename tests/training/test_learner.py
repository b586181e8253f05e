"""The update step as a whole: it learns, resumes exactly, and refuses what is not its own."""

import json

import numpy as np
import pytest
import torch

from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.learner import Learner, pick_device

SMALL = ('schedule.batch=4', 'schedule.length=8', 'env.image_size=32')
TINY = ('schedule.batch=4', 'schedule.length=8', 'rssm.deter=32', 'mlp.units=16', 'conv.depth=2')
# preset, or preset:variant, and overrides that make it small
SPECIFIC = {
    'cpu': (*SMALL, 'imagination.starts=16'),
    'cpu:overlap': (*SMALL, 'imagination.starts=16', 'schedule.overlap=true'),
    'dreamer': TINY,
    'dreamer:contrastive': (*TINY, 'loss.representation=contrastive', 'loss.continue_head=true'),
    'dreamer:reward': (*TINY, 'loss.representation=reward', 'imagination.estimator=n_step', 'imagination.n_steps=5'),
    'dreamerv2': (*TINY, 'rssm.classes=4', 'critic.slow_every=7'),
    'dreamerv2:discrete': (*TINY, 'rssm.classes=4', 'critic.slow_every=7', 'actor.gradient=mixed'),
    'dreamerv3_1m': (*SMALL, 'rssm.deter=64', 'rssm.hidden=16', 'mlp.units=16'),
    'dreamerv3_1m:discrete': (*SMALL, 'rssm.deter=64', 'rssm.hidden=16', 'mlp.units=16'),
    'planet_cpu': (*SMALL, 'rssm.deter=32', 'loss.overshooting=3'),
    'r2dreamer_cpu': SMALL,
    'world_models_cpu': (*SMALL, 'optimizer.clip_kind=norm', 'optimizer.clip=100'),
}


def learner(name, seed=0, actions=2, overrides=()):
    preset, _, variant = name.partition(':')
    config = load_preset(preset, (*SPECIFIC[name], *overrides))
    limits = (1.0,) * actions
    spec = RobotSpec(
        'test',
        config.env.image_size,
        (),
        tuple(f'a{i}' for i in range(actions)),
        tuple(-x for x in limits),
        limits,
        0.02,
        2,
        discrete=variant == 'discrete',
    )
    return Learner(config, spec, 'cpu', seed)


def samples(trained, seed=0):
    rng = np.random.default_rng(seed)
    batch, length = trained.config.schedule.batch, trained.config.schedule.length
    shape = (batch, length)
    flags = {key: np.zeros(shape, bool) for key in ('is_first', 'is_last', 'is_terminal', 'is_human')}
    flags['is_last'][0, 3] = flags['is_terminal'][0, 3] = flags['is_first'][0, 4] = True
    action = rng.uniform(-1, 1, (*shape, len(trained.spec.action))).astype(np.float32)
    if trained.spec.discrete:
        action = (action == action.max(-1, keepdims=True)).astype(np.float32)
    return dict(
        image=rng.integers(0, 256, (*shape, *trained.config.env.image_size, 3), dtype=np.uint8),
        vector=np.zeros((*shape, 0), np.float32),
        action=action,
        reward=rng.uniform(0, 1, shape).astype(np.float32),
        **flags,
    )


@pytest.mark.parametrize('length', [2, 5, 8])
def test_sequences_of_any_length_are_dreamed(length):
    trained = learner('planet_cpu')
    data = {key: value[:, :length] for key, value in samples(trained).items()}
    assert trained.dream(data).shape == (4, length, 32, 3 * 32, 3)


@pytest.mark.parametrize('preset', sorted(SPECIFIC))
def test_every_parameter_is_trained_and_the_loss_falls(preset):
    trained = learner(preset)
    before = {name: value.clone() for name, value in trained.agent.named_parameters()}
    batch = samples(trained)
    batch['image'][:] = batch['image'][:, :, :1, :1]  # plain colours: random pixels cannot be learned
    trained.optimizer.rates = dict.fromkeys(trained.optimizer.rates, 1e-3)
    trained.optimizer.config = trained.optimizer.config.model_copy(update={'warmup': 0})
    losses = [float(trained.update(batch)['model_loss']) for _ in range(30)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - 0.02 * abs(losses[0])
    still = [name for name, value in trained.agent.named_parameters() if torch.equal(value, before[name])]
    critic = getattr(trained.config, 'critic', None)
    unused_copy = 'behaviour.slow_critic' if critic and critic.slow == 'none' else '\0'
    assert [name for name in still if not name.startswith(unused_copy)] == []


@pytest.mark.parametrize('preset', sorted(SPECIFIC))
def test_resume_continues_bit_for_bit(preset, tmp_path):
    first = learner(preset)
    for seed in range(3):
        first.update(samples(first, seed))
    first.save(tmp_path / 'checkpoint', {'note': 7})
    second = learner(preset, seed=99)
    assert second.load(tmp_path / 'checkpoint') == {'note': 7}
    assert second.updates == 3
    for seed in range(3, 5):
        # one process has one global generator: run them apart from equal states
        state = torch.get_rng_state()
        expected = first.update(samples(first, seed))
        torch.set_rng_state(state)
        actual = second.update(samples(second, seed))
        for key in expected:
            assert torch.equal(expected[key], actual[key]), key
    for (name, a), b in zip(first.agent.state_dict().items(), second.agent.state_dict().values()):
        assert torch.equal(a, b), name


def test_load_restores_the_random_stream(tmp_path):
    trained = learner('cpu')
    trained.save(tmp_path / 'c')
    expected = torch.randn(4)
    learner('cpu', seed=5).load(tmp_path / 'c')
    assert torch.equal(torch.randn(4), expected)


def test_damaged_checkpoint_is_refused_by_name(tmp_path):
    trained = learner('cpu')
    trained.save(tmp_path / 'c')
    file = tmp_path / 'c' / 'learner' / 'tensors.safetensors'
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match='tensors.safetensors is damaged'):
        trained.load(tmp_path / 'c')
    file.write_bytes(data[:100])
    with pytest.raises(InputError, match='damaged'):
        trained.load(tmp_path / 'c')
    (tmp_path / 'c' / 'manifest.json').write_text(json.dumps({}))
    with pytest.raises(InputError, match='cannot be read'):
        trained.load(tmp_path / 'c')


def test_checkpoint_of_another_robot_is_refused(tmp_path):
    learner('cpu', actions=3).save(tmp_path / 'c')
    with pytest.raises(
        InputError, match='expected the network of preset cpu .*, got that of preset cpu .*first difference: '
    ):
        learner('cpu', actions=2).load(tmp_path / 'c')


def test_image_size_of_another_preset_is_refused():
    config = load_preset('cpu', SPECIFIC['cpu'])
    spec = RobotSpec('test', (64, 64), (), ('a',), (-1.0,), (1.0,), 0.02, 2)
    with pytest.raises(InputError, match='32x32.*64x64'):
        Learner(config, spec, 'cpu')


@pytest.mark.parametrize('device', ['cuda:99', 'quantum'])
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(InputError, match=f"device '{device}' is not available here: ") as refusal:
        pick_device(device)
    assert '\n' not in str(refusal.value)


@pytest.mark.parametrize('extreme', ['black', 'huge_reward', 'constant_reward', 'one_step_episodes'])
def test_extreme_data_gives_finite_updates(extreme):
    for preset in sorted(SPECIFIC):
        trained = learner(preset)
        batch = samples(trained)
        if extreme == 'black':
            batch['image'][:] = 0
        elif extreme == 'huge_reward':
            batch['reward'][:] = 1e6
        elif extreme == 'constant_reward':
            batch['reward'][:] = 1.0
        else:
            for key in ('is_first', 'is_last', 'is_terminal'):
                batch[key][:] = True
        for _ in range(3):
            metrics = trained.update(batch)
        assert all(torch.isfinite(value).all() for value in metrics.values()), (preset, metrics)
        assert all(torch.isfinite(p).all() for p in trained.agent.parameters()), preset


@pytest.mark.parametrize('name', ['dreamer:contrastive', 'planet_cpu', 'world_models_cpu'])
def test_a_probe_changes_no_step_of_the_others(name):
    """A thousandfold gradient of the decoder, beyond the clip, leaves everything else as it is bit for bit."""
    taken = []
    for scale in (1.0, 1000.0):
        trained = learner(name)
        group = 'vae' if name == 'world_models_cpu' else 'model'
        decoder, own = trained.agent.probes(), trained.optimizer.inner[group].param_groups[0]['params']
        assert decoder and len(decoder) < len(own)
        hooks = [p.register_hook(lambda gradient, scale=scale: scale * gradient) for p in decoder]
        for number in range(3):
            metrics = trained.update(samples(trained, number))
        for hook in hooks:
            hook.remove()
        ids = set(map(id, decoder))
        taken.append([metrics[f'{group}_grad_norm'], *(p.detach() for p in own if id(p) not in ids)])
    for one, other in zip(*taken):
        assert torch.equal(one, other)


def test_dream_shows_truth_reconstruction_and_prediction():
    trained = learner('cpu')
    batch = samples(trained)
    video = trained.dream(batch)
    assert video.shape == (4, 8, 32, 96, 3) and video.dtype == np.uint8
    assert np.array_equal(video[:, :, :, :32], batch['image'])
    reconstruction, prediction = video[:, :5, :, 32:64], video[:, :5, :, 64:]
    assert np.array_equal(reconstruction, prediction)  # the context is filtered, not predicted
