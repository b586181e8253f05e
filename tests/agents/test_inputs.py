"""Agents of robots with several cameras, with vector inputs, and with no camera: trained, exported, run."""

import dataclasses

import numpy as np
import pytest
import torch

from dreamer_ros.agents.system import make_agent
from dreamer_ros.errors import InputError
from dreamer_ros.policy.export import Exporter
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.training.learner import Learner
from tests.agents.small import ACTIONS, config, robot, touched

JOINTS = ('hip/position', 'knee/position', 'hip/velocity', 'knee/velocity')
ROBOTS = {
    'two cameras': ('image', robot(cameras=('camera', 'wrist'))),
    'camera and joints': ('both', robot(vector=JOINTS)),
    'joints': ('vector', robot(image_size=(0, 0), cameras=(), vector=JOINTS)),
}
EVERY = [(name, system) for name in ROBOTS for system in ('v1', 'v2', 'v3')]


def settings(name, system, *overrides):
    inputs, spec = ROBOTS[name]
    if not spec.cameras:
        overrides = ('loss.representation=reconstruction', *overrides)
    return config(system, f'env.inputs={inputs}', 'schedule.overlap=false', *overrides), spec


def samples(spec, rng, batch=3, length=7):
    shape = (batch, length)
    is_first = np.zeros(shape, bool)
    is_first[0, 0] = is_first[1, 3] = True
    return dict(
        image=rng.integers(0, 256, (*shape, *spec.image_shape), np.uint8),
        vector=(10.0 ** rng.uniform(-2, 4, (*shape, len(spec.vector)))).astype(np.float32),
        action=rng.uniform(-1, 1, (*shape, ACTIONS)).astype(np.float32),
        reward=rng.normal(size=shape).astype(np.float32),
        is_first=is_first,
        is_last=np.zeros(shape, bool),
        is_terminal=np.zeros(shape, bool),
        is_human=np.zeros(shape, bool),
    )


@pytest.mark.parametrize('name, system', EVERY)
def test_updates_and_the_exported_policy(name, system, tmp_path, rng, seed):
    preset, spec = settings(name, system)
    learner = Learner(preset, spec, 'cpu', seed)
    data = samples(spec, rng)
    losses = [{key: float(value) for key, value in learner.update(data).items()} for _ in range(3)]
    assert all(np.isfinite(list(line.values())).all() for line in losses)
    assert all(
        ('image_loss' in line, 'vector_loss' in line) == (bool(spec.cameras), bool(spec.vector)) for line in losses
    )

    policy = learner.policy
    Exporter(policy, spec).write(tmp_path / 'p.onnx', {'version': 1, 'system': 'dreamer', 'preset': 'test'})
    runner = PolicyRunner(tmp_path / 'p.onnx', spec, seed=seed)
    assert runner.uses_vector == policy.uses_vector == bool(spec.vector)
    state, worst = torch.zeros(1, policy.state_size), 0.0
    for step in range(6):
        image, vector = data['image'][0, step], data['vector'][0, step]
        seen = [image if spec.cameras else None, vector if spec.vector else None]
        action = runner.act(*seen, step == 0, explore=False)
        with torch.no_grad():
            used = [torch.from_numpy(x)[None] for x in seen if x is not None]
            expected, state = policy(*used, torch.tensor([step == 0]), state, torch.zeros(1, policy.noise_size))
        worst = max(worst, float(np.abs(action - expected[0].numpy()).max()))
    assert worst < 1e-4


@pytest.mark.parametrize('name, system', [(name, 'v3') for name in ROBOTS])
def test_the_losses_of_what_is_perceived(name, system, rng, seed):
    """The vector loss by its definition; every encoder and decoder gets a gradient."""
    preset, spec = settings(name, system)
    learner = Learner(preset, spec, 'cpu', seed)
    model, batch = learner.agent.model, learner.to_batch(samples(spec, rng))
    loss, states, metrics = model.loss(batch)
    loss.backward()
    assert len(touched(model.encoder)) > len(list(model.encoder.parameters())) // 2
    if spec.vector:
        predicted = model.vector_decoder(states.feature).detach().double().numpy()
        value = batch.vector.double().numpy()
        target = np.sign(value) * np.log(1 + np.abs(value))
        expected = np.mean(
            [
                0.5 * ((p - t) ** 2).sum()
                for p, t in zip(predicted.reshape(-1, len(JOINTS)), target.reshape(-1, len(JOINTS)))
            ]
        )
        assert float(metrics['vector_loss']) == pytest.approx(expected, rel=1e-5)
        assert touched(model.vector_decoder) and touched(model.encoder.encoders['vector'])
    else:
        assert model.vector_decoder is None


def test_a_world_model_learns_a_vector(rng, seed):
    """The loss of a vector that depends on the last action falls far below that of its mean."""
    preset, spec = settings('joints', 'v3', 'optimizer.model_lr=1e-2', 'optimizer.warmup=0')
    learner = Learner(preset, spec, 'cpu', seed)
    data = samples(spec, rng, 8, 8)
    data['vector'][:, 1:] = 5.0 * np.repeat(data['action'][:, :-1], 2, -1)
    data['vector'][:, 0] = 0.0
    losses = [float(learner.update(data)['vector_loss']) for _ in range(120)]
    squashed = np.sign(data['vector']) * np.log1p(np.abs(data['vector']))
    of_the_mean = 0.5 * squashed.var((0, 1)).sum()
    assert losses[-1] < 0.5 * of_the_mean


def test_a_dream_shows_cameras_side_by_side(rng):
    preset, spec = settings('two cameras', 'v3')
    data = samples(spec, rng)
    dream = Learner(preset, spec, 'cpu').dream(data)
    assert dream.shape == (3, 7, 32, 3 * 2 * 32, 3)
    assert np.array_equal(dream[..., :32, :], data['image'][..., :3])
    assert np.array_equal(dream[..., 32:64, :], data['image'][..., 3:])


def test_a_robot_without_camera_has_no_dream_to_show(rng):
    preset, spec = settings('joints', 'v3')
    with pytest.raises(InputError, match='dream of robot: expected a robot with a camera'):
        Learner(preset, spec, 'cpu').dream(samples(spec, rng))


@pytest.mark.parametrize(
    'overrides, change, expected, got',
    [
        (('env.inputs=image',), dict(vector=JOINTS), 'images of 32x32', 'images of 32x32 and joint states'),
        (('env.inputs=both',), {}, 'images of 32x32 and joint states', 'images of 32x32'),
        (('env.inputs=vector',), {}, 'joint states', 'images of 32x32'),
        (('env.cameras=[0, 1]',), {}, 'images of 32x32 of 2 cameras', 'images of 32x32'),
        (('env.image_size=[32, 48]',), {}, 'images of 32x48', 'images of 32x32'),
    ],
)
def test_a_robot_that_perceives_something_else_is_refused(overrides, change, expected, got):
    with pytest.raises(InputError, match=f' expects {expected}, the robot robot sends {got}$'):
        make_agent(config('v3', *overrides), dataclasses.replace(robot(), **change))
