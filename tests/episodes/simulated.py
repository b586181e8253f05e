"""An episode of a real simulator and a real policy as a bag, made without any process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image, JointState, Joy

from dreamer_ros.episodes.bag_writer import EpisodeWriter
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.simulation import make
from dreamer_ros.simulation.origin import Origin
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.codecs import Mode, Step

TASK, SEED, EPISODE = 'cartpole_swingup', 11, 3
OPTIONS = dict(image_size=(32, 32), action_repeat=2, episode_length=60)
STEPS = 31
START = 1_800_000_000_123_456_789


class Made(NamedTuple):
    """The bag, its policy, and its spec."""

    bag: Path
    policy: Path
    spec: RobotSpec


def simulated_bag(
    folder: Path, name: str = 'episode', actions: dict[int, float] | None = None, seed: int = SEED, task: str = TASK
) -> Made:
    """Play an episode with a small policy and write it as the recorder would.

    Args:
        actions: by step, what to write down instead of the action that was taken.
        seed: to write down instead of the one that was used.
    """
    from dreamer_ros.policy.export import Exporter
    from tests.policy.tiny import tiny_policy

    environment = make(task, seed=SEED, **OPTIONS)
    spec = environment.spec
    policy = folder / 'policy.onnx'
    if not policy.exists():
        Exporter(tiny_policy(spec, seed=1), spec).write(policy, dict(system='tiny', preset='tiny', step=7, version=7))
    runner = PolicyRunner(policy, spec)
    origin = Origin.of(environment, task, seed, 'fast')
    writer = EpisodeWriter(
        folder,
        name,
        [topic.within('sim0') for topic in topics.PER_STEP],
        {'task': spec.name, 'robot': 'sim0', 'spec': spec.to_json(), 'spec_hash': spec.hash},
    )
    observation, stamp, total, length = environment.reset(EPISODE), START, 0.0, 0
    origin = json.dumps({**json.loads(origin.to_json()), 'episode': EPISODE, 'stamp': START})
    while True:
        total, length = total + observation.reward, length + 1
        action = np.zeros(len(spec.action), np.float32)
        if not observation.is_last:
            action = runner.act(observation.image, None, observation.is_first, explore=False)
        written = np.full_like(action, actions[length - 1]) if actions and length - 1 in actions else action
        for topic, message in _messages(environment, observation, written, stamp):
            writer.write(topic.within('sim0').name, serialize_message(message), stamp)
        if observation.is_last:
            break
        observation, stamp = environment.step(action), stamp + round(spec.control_period * 1e9)
    environment.close()
    bag = writer.close(
        {'return': repr(total), 'length': str(length), 'mode': 'evaluate', 'policy_version': '7', 'simulation': origin}
    )
    return Made(bag, policy, spec)


def _messages(environment, observation, action, stamp):
    image, info, joints, step, joy = Image(), CameraInfo(), JointState(), JointState(), Joy()
    codecs.fill_image(image, observation.image, stamp)
    camera = environment.cameras[0]
    codecs.fill_camera_info(info, camera.width, camera.height, camera.K, stamp)
    codecs.fill_joint_state(joints, observation.joint_names, observation.position, observation.velocity, stamp)
    codecs.fill_step(
        step, Step(stamp, observation.reward, observation.is_first, observation.is_last, observation.is_terminal)
    )
    codecs.fill_action(joy, action, stamp, Mode('evaluate', 7))
    return zip(topics.PER_STEP, (image, info, joints, step, joy))
