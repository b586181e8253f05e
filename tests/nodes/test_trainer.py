"""The trainer among real nodes: a simulator, an agent and a recorder over ROS, with crashes in between."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from dreamer_ros.nodes.trainer import RosRobot, RosRobots
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.training.metrics import read_metrics
from dreamer_ros.training.run_directory import latest_policy
from dreamer_ros.wire.codecs import Step
from tests.learners import TINY
from tests.policy import tiny

OVERRIDES = [
    *TINY,
    'env.image_size=32',
    'schedule.replay_ratio=16',
    'schedule.prefill=60',
    'schedule.log_every=10',
    'schedule.publish_every=10',
    'schedule.checkpoint_every=2',
]
REPEAT, EPISODE = 4, 160  # 40 agent steps per episode
PATIENCE = 120.0  # seconds; only a failing test waits that long


class Nodes:
    """Starts nodes of the package as processes and ends them all."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.running = {}

    def start(self, name: str, executable: str, namespace: str = '/', **parameters):
        """Start `python -m dreamer_ros.nodes.<executable>`, its output in <folder>/<name>.log."""
        arguments = ['--ros-args']
        for rule in (f'__ns:={namespace}', f'__node:={executable}', 'policy:=/policy'):
            arguments += ['-r', rule]
        for key, value in parameters.items():
            # JSON is YAML, and quotes what YAML would take for a number
            arguments += ['-p', f'{key}:={json.dumps(value)}']
        log = open(self._folder / f'{name}.log', 'a')
        self.running[name] = subprocess.Popen(
            [sys.executable, '-m', f'dreamer_ros.nodes.{executable}', *arguments],
            stdout=log,
            stderr=log,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            cwd=Path(__file__).parents[2],
        )
        log.close()
        return self.running[name]

    def log(self, name: str) -> str:
        """What a node has printed."""
        return (self._folder / f'{name}.log').read_text()

    def close(self):
        """End all nodes."""
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def nodes(tmp_path, ros_domain):
    nodes = Nodes(tmp_path)
    yield nodes
    nodes.close()
    for log in sorted(tmp_path.glob('*.log')):
        print(f'--- {log.name}\n{log.read_text()[-3000:]}')


@pytest.fixture
def listener(ros_domain):
    """A node that collects what the trainer says."""
    context = Context()
    rclpy.init(context=context, domain_id=ros_domain)
    node = Node('listener', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    node.heard = {'policy': [], 'dream': [], 'diagnostics': []}
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    node.create_subscription(String, '/policy', node.heard['policy'].append, latched)
    node.create_subscription(Image, '/dream', node.heard['dream'].append, 10)
    node.create_subscription(DiagnosticArray, '/diagnostics', node.heard['diagnostics'].append, 100)
    node.spin = lambda: executor.spin_once(timeout_sec=0.05)
    yield node
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def wait_for(condition, listener):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        listener.spin()
    raise AssertionError('timed out')


def service(listener, kind, name):
    """A function that calls the service, which exists already."""
    client = listener.create_client(kind, name)
    assert client.wait_for_service(PATIENCE), name

    def call(**request):
        answer = client.call_async(kind.Request(**request))
        wait_for(answer.done, listener)
        assert answer.result().success
        return answer.result().message

    return call


def start_robot(nodes, run):
    nodes.start(
        'simulator',
        'simulator',
        '/sim0',
        task='cartpole_balance',
        image_size=[32, 32],
        action_repeat=REPEAT,
        episode_length=EPISODE,
        wait_for_learner=True,
        wait_for_subscribers=3,
    )
    nodes.start('agent', 'agent', '/sim0', evaluate_every=2)
    nodes.start('recorder', 'recorder', '/sim0', folder=str(run / 'episodes'), robot='sim0')


def start_trainer(nodes, run, name='trainer', **parameters):
    return nodes.start(
        name,
        'trainer',
        logdir=str(run),
        preset='cpu',
        **{'steps': 1600, 'threads': 1, 'overrides': OVERRIDES, **parameters},
    )


def updates_of(run):
    return max((line['updates'] for line in read_metrics(run)), default=0)


def test_a_whole_run_whose_trainer_crashes_and_is_stopped(nodes, listener, tmp_path):
    run = tmp_path / 'run'
    first = start_trainer(nodes, run)
    wait_for(lambda: 'waiting for /sim0/spec' in nodes.log('trainer'), listener)
    start_robot(nodes, run)
    pause = service(listener, SetBool, '/sim0/simulator/pause')
    checkpoint = service(listener, Trigger, '/trainer/checkpoint')
    # let it learn a while, then hold the robot: on a fast machine the run would end before it is looked at
    wait_for(lambda: updates_of(run) >= 20 and listener.heard['dream'], listener)
    pause(data=True)
    assert first.poll() is None
    assert Path(checkpoint(), 'trainer.json').exists()
    image = listener.heard['dream'][0]
    assert (image.height, image.width, image.encoding) == (32, 96, 'rgb8')

    # another trainer in the same ROS domain is refused
    other = start_trainer(nodes, run, 'other')
    assert wait_for(lambda: other.poll() is not None, listener) and other.returncode == 2
    assert 'topic /policy: expected no other trainer' in nodes.log('other')

    # killed, restarted: the others were not touched, the robot stands still in between and goes on
    first.kill()
    first.wait()
    pause(data=False)
    learnt = updates_of(run)
    second = start_trainer(nodes, run)
    wait_for(lambda: updates_of(run) >= learnt + 20, listener)

    # stopped: all is saved
    second.send_signal(signal.SIGTERM)
    assert wait_for(lambda: second.poll() is not None, listener) and second.returncode == 0
    checkpoint = run / 'checkpoints' / (run / 'checkpoints' / 'latest').read_text().strip()
    state = json.loads((checkpoint / 'trainer.json').read_text())['state']
    assert int(checkpoint.name) >= learnt + 20 and state['stored'] > 0
    assert PolicyRunner(latest_policy(run)).metadata['updates'] == str(int(checkpoint.name))
    assert (run / 'curve.png').exists() and (run / 'dream.mp4').exists()

    third = start_trainer(nodes, run)
    assert wait_for(lambda: third.poll() is not None, listener) and third.returncode == 0
    assert nodes.log('trainer').count('resuming at') == 2

    # the ratio is exact over all sessions: (1600 / 4 - 60) steps × 16 / (4 × 8)
    newest = sorted(p.name for p in (run / 'checkpoints').iterdir() if p.is_dir())[-1]
    assert int(newest) == (1600 // REPEAT - 60) * 16 // 32 == 170
    assert 'error' not in nodes.log('trainer') and 'Traceback' not in nodes.log('trainer')

    # policies travelled: the agent explored and evaluated with them
    manifests = [Manifest.from_json(message.data) for message in listener.heard['policy']]
    versions = [manifest.version for manifest in manifests]
    assert versions == sorted(set(versions)) and len(versions) >= 5
    assert PolicyRunner(latest_policy(run)).version == versions[-1]
    lines = read_metrics(run)
    assert {'return_random', 'return_explore', 'return_evaluate'} <= {key for line in lines for key in line}
    bags = [
        yaml.safe_load((bag / 'metadata.yaml').read_text())['rosbag2_bagfile_information']['custom_data']
        for bag in sorted((run / 'episodes').glob('[!.]*'))
    ]  # not the one being recorded
    assert any(int(bag.get('policy_version') or 0) > 1 for bag in bags)
    # the budget is kept; only steps of the episode that a session ends in are unknown to the next one
    assert 400 <= max(line['agent_steps'] for line in lines) <= 400 + 2 * EPISODE // REPEAT
    # while it learnt, the robot never ran further ahead than the slack, a headstart of one grant included
    learning = [line for line in lines if line['updates'] and 'model_loss' in line]
    assert all(line['agent_steps'] - 60 - 2 * line['updates'] <= 64 for line in learning)
    for name in ('curve.png', 'evaluation.mp4', 'dream.mp4'):
        assert (run / name).stat().st_size, name
    statuses = [
        status
        for array in listener.heard['diagnostics']
        for status in array.status
        if status.name == 'trainer: learning'
    ]
    assert len(statuses) >= max(2, lines[-1]['time'] // 2), 'about one a second while it trains'
    keys = {value.key for value in statuses[-1].values}
    assert {'env steps', 'updates', 'replay steps', 'updates/s'} <= keys


def test_bad_parameters_are_one_sentence(nodes, tmp_path):
    cases = {
        'preset': ({'preset': 'dreamerv9'}, "unknown preset 'dreamerv9'"),
        'override': ({'overrides': ['rssm.depth=3']}, 'unknown key rssm.depth'),
        'robots': ({'robots': ['sim0', 'sim0']}, 'robots: expected different names'),
        'unknown': ({'stepps': 3}, 'unknown key stepps; did you mean steps'),
    }
    run = tmp_path / 'run'
    started = {
        name: nodes.start(name, 'trainer', **{'logdir': str(run), 'preset': 'cpu', **parameters})
        for name, (parameters, _) in cases.items()
    }
    for name, (_, sentence) in cases.items():
        assert started[name].wait(PATIENCE) == 2
        [error] = [line for line in nodes.log(name).splitlines() if line.startswith('error:')]
        assert sentence in error
    assert not run.exists()


@pytest.fixture
def robots(ros_domain):
    """The trainer's robots, of which there is one."""
    rclpy.init()
    try:
        node = Node('trainer')
        yield RosRobots(node, ('sim0',))
        node.destroy_node()
    finally:
        rclpy.try_shutdown()


@pytest.fixture
def robot(robots, monkeypatch):
    """The one, with a function that has it hear steps and a list of the paces that it was given."""
    [robot] = robots._robots.values()
    robot.spec = dataclasses.replace(tiny.spec(), control_period=1e-8)  # 10 ns
    robot.step = lambda stamp, first=False, last=False: robot.note(Step(stamp, 0.0, first, last, False))
    robot.paces = []
    monkeypatch.setattr(RosRobot, '_publish_pace', lambda robot: robot.paces.append(robot._granted))
    return robot


def test_a_new_session_counts_though_its_clock_begins_before_the_last_bag(robot):
    step = robot.step
    robot.forget(9000)  # a bag of the session before, which ran faster than the wall's clock
    step(100, first=True)
    step(110)
    step(110)  # asked again
    robot.forget(9500)  # another old bag, loaded late
    step(120, last=True)
    assert list(robot.live) == [110, 120] and robot.ended == 2
    robot.forget(120)
    assert not robot.live and robot.ended == 0
    step(130, first=True)
    step(130, first=True)
    step(140)
    assert list(robot.live) == [140]


def test_steps_that_come_while_others_are_granted_count(robots, robot):
    """Many come at once when the trainer has stood still. Its learner may have looked just before."""
    robot.step(100, first=True)
    robots.grant(10)
    for stamp in range(110, 180, 10):
        robot.step(stamp)
    robots.grant(10)  # live steps, of which there are seven
    robots.grant(12)
    assert robot.paces == [200, 220]


def test_steps_that_were_lost_or_came_late_count_once(robot):
    """The trainer stood still meanwhile. A robot goes no further than its pace, so what it has skipped is known."""
    step, paces = robot.step, robot.paces
    step(100, first=True)
    step(110)
    robot.grant(10)
    assert paces == [210]
    step(150)  # 120 to 140 are lost
    assert list(robot.live) == [110, 120, 130, 140, 150]
    # A bag brings steps that no message has told of, and the robot stands there at least.
    robot.forget(180)
    assert not robot.live
    robot.grant(5)
    assert paces == [210, 230]
    # Messages of these steps come after all.
    step(160, last=True)
    step(170, first=True)
    step(180)
    assert not robot.live
    step(190)
    assert list(robot.live) == [190]
    robot.ask_again()
    assert len(paces) == 2
    robot.heard -= 2.0
    robot.ask_again()  # not heard of for a second: the pace may have been lost
    assert paces[2:] == [230]
