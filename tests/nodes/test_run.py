"""Simulator, agent, recorder and evaluator together at full speed, and after kill -9."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.spec import RobotSpec
from dreamer_ros.viewing.resimulation import resimulate
from dreamer_ros.wire import topics

PERIOD = 80_000_000
SIMULATOR = dict(task='cartpole_swingup', action_repeat=8, episode_length=400)  # 50 actions per episode
TYPES = get_typestore(Stores.ROS2_KILTED)


def bags(folder: Path):
    """Finished bags, oldest first."""
    return sorted(path for path in folder.glob('[!.]*') if path.is_dir())


def stamps_by_topic(bag: Path):
    """Header stamps of every topic in a bag, as an independent reader sees them."""
    stamps = {f'/sim0/{topic.name}': [] for topic in topics.PER_STEP}
    with Reader(bag) as reader:
        for connection, _, data in reader.messages():
            header = TYPES.deserialize_cdr(data, connection.msgtype).header
            stamps[connection.topic].append(header.stamp.sec * 10**9 + header.stamp.nanosec)
    return stamps


def custom_data(bag: Path):
    return yaml.safe_load((bag / 'metadata.yaml').read_text())['rosbag2_bagfile_information']['custom_data']


def test_every_step_is_recorded_once(start, peer, tmp_path):
    """Full speed; an independent subscriber counts; SIGINT saves the open episode; returns agree.

    A second recorder keeps what the evaluator counts and nothing else.
    """
    folder, evaluation = tmp_path / 'bags', tmp_path / 'evaluation'
    simulator = start('simulator', wait_for_subscribers=5, **SIMULATOR)
    agent = start('agent', seed=1)
    recorder = start('recorder', folder=folder)
    keeper = start('recorder', folder=evaluation, episodes=5)
    evaluator = start('evaluator', episodes=5, output=evaluation, video=tmp_path / 'evaluation.mp4')
    peer.until(lambda: evaluator.ended, 'five episodes and their film', 60.0)
    assert evaluator.wait() == 0
    peer.until(lambda: peer.steps[-1].is_first is False and not peer.steps[-1].is_last, 'being inside an episode')
    assert simulator.stop() == 0
    peer.spin(0.3)
    assert recorder.stop() == 0 and keeper.stop() == 0 and agent.stop() == 0

    sent = [step.stamp for step in peer.steps]
    assert len(sent) > 250 and set(np.diff(sent)) == {PERIOD}, 'nobody repeated or lost anything'
    found = bags(folder)
    recorded = []
    for bag in found:
        stamps = stamps_by_topic(bag)
        assert len(stamps) == 5
        [reference] = {tuple(values) for values in stamps.values()}
        assert set(np.diff(reference)) == {PERIOD}
        assert custom_data(bag)['length'] == str(len(reference))
        recorded += reference
    # The last observation of all may have stayed without an action.
    assert recorded in (sent, sent[:-1])
    assert all(len(stamps_by_topic(bag)['/sim0/step']) == 51 for bag in found[:-1])
    assert list(folder.glob('.*')) == []

    origins = [resimulate(bag) for bag in (found[0], found[2])]
    assert all(result.exact and result.steps == 51 for result in origins), [each.report() for each in origins]
    assert [result.origin.episode for result in origins] == [0, 2]
    spec = RobotSpec.from_json(custom_data(found[0])['spec'], found[0].name)
    episodes, problems = read_episodes(found[0], spec)
    assert not problems and len(episodes) == 1 and episodes[0].is_last[-1] and episodes[0].is_first[0]
    [last], problems = read_episodes(found[-1], spec)
    assert not problems and not last.is_last[-1], 'the open episode is saved as it is'
    result = json.loads((evaluation / 'result.json').read_text())
    returns = [episode['return'] for episode in result['episodes']]
    for kept in (found[:5], bags(evaluation)):
        assert [float(custom_data(bag)['return']) for bag in kept] == pytest.approx(returns)
    assert {path.name for path in evaluation.iterdir()} == {bag.name for bag in bags(evaluation)} | {'result.json'}
    assert (tmp_path / 'evaluation.mp4').stat().st_size
    assert {episode['actor'] for episode in result['episodes']} == {'random'}
    assert f'mean return {np.mean(returns):.1f} ± {np.std(returns):.1f} over 5 episodes' in evaluator.output
    assert custom_data(found[0])['mode'] == 'random' and custom_data(found[0])['robot'] == 'sim0'


def test_a_single_observation_leaves_no_bag(start, peer, tmp_path):
    """What a robot shows while it waits for a learner that never comes, as a trainer whose checkpoint is damaged."""
    simulator = start('simulator', wait_for_subscribers=3, wait_for_learner=True, **SIMULATOR)
    start('agent')
    recorder = start('recorder', folder=tmp_path / 'bags')
    peer.until(lambda: peer.steps, 'the first observation')
    peer.until(lambda: list((tmp_path / 'bags').glob('.*.partial')), 'a bag that is being written')
    assert simulator.stop() == 0 and recorder.stop() == 0
    assert len(peer.steps) == 1 and not list((tmp_path / 'bags').iterdir())


def test_real_time_can_be_simulated_again(start, peer, tmp_path, rng):
    """An agent that is always a step late: what the simulator applied is not what the bag's actions answer."""
    start('recorder', folder=tmp_path)
    start('simulator', mode='realtime', wait_for_subscribers=2, **{**SIMULATOR, 'episode_length': 160})
    step, late = peer.next_step(), 0
    for _ in range(22):
        peer.answer(step.stamp - PERIOD if late else step.stamp, rng.uniform(-1, 1, 1))
        step, late = peer.next_step(step), late + 1
    peer.until(lambda: bags(tmp_path), 'the first bag')
    result = resimulate(bags(tmp_path)[0])
    assert result.exact and result.steps == 21, result.report()


def test_kill_and_restart(start, peer, tmp_path):
    """kill -9 of the agent and of the simulator: a new one goes on, and every bag is sound."""
    folder = tmp_path / 'bags'
    simulator = start('simulator', wait_for_subscribers=3, **SIMULATOR)
    agent = start('agent')
    recorder = start('recorder', folder=folder)
    peer.until(lambda: len(peer.steps) > 70, 'a first episode')
    agent.send(signal.SIGKILL)
    agent.wait()
    count = len(peer.steps)
    # Three times the same: not asked again while an answer was on the way.
    peer.until(
        lambda: len(peer.steps) > count + 1 and len({step.stamp for step in peer.steps[-3:]}) == 1,
        'asking again for the action that nobody gives',
    )
    waits_at = peer.steps[-1].stamp
    start('agent')
    peer.until(lambda: peer.steps[-1].stamp > waits_at + 60 * PERIOD, 'going on after the agent')
    stamps = sorted({step.stamp for step in peer.steps})
    assert set(np.diff(stamps)) == {PERIOD}, 'the agent restart lost no step'

    simulator.send(signal.SIGKILL)
    simulator.wait()
    peer.until(lambda: peer.quiet(0.5), 'taking what the simulator has sent')
    last = peer.steps[-1].stamp
    before = len(bags(folder))
    start('simulator', wait_for_subscribers=3, **SIMULATOR)
    peer.until(lambda: len(bags(folder)) >= before + 2, 'the cut episode and one after the simulator')
    peer.until(lambda: peer.steps[-1].is_first is peer.steps[-1].is_last is False, 'being inside another one')
    assert recorder.stop() == 0
    [*whole, _] = sorted(bags(folder), key=lambda bag: bag.name.rpartition('-')[2])  # as they were recorded
    cut = []
    for bag in whole:
        stamps = stamps_by_topic(bag)
        actions = stamps.pop('/sim0/action')
        [reference] = {tuple(values) for values in stamps.values()}
        assert set(np.diff(reference)) <= {PERIOD}
        # Around a kill -9 an answer may have reached the simulator and not the recorder; the last observation of the
        # killed simulator may have reached the recorder and not the agent.
        unanswered = {waits_at - PERIOD, waits_at, last - PERIOD, last}
        assert set(reference) - set(actions) <= unanswered and set(actions) <= set(reference)
        if len(reference) != 51:
            cut.append(reference[-1])
    assert cut in ([], [last], [last - PERIOD]), 'only the episode of the killed simulator is cut'
    # A simulator in lock-step may be ahead of the clock that the next one begins with: its stamps do not tell.
    episodes = [json.loads(custom_data(bag)['simulation'])['episode'] for bag in whole]
    again = episodes.index(0, 1)
    assert episodes == [*range(again), *range(len(episodes) - again)], 'a new simulator begins with an episode'


def test_full_disk(start, peer, tmp_path):
    """The kernel refuses to let the bag grow: one sentence, exit code 2, the earlier bag intact."""
    import resource

    folder = tmp_path / 'bags'
    limit = 3 * 2**20
    # Noise compresses badly: the test is the robot here, small episode first, then one too large.
    recorder = start(
        'recorder', preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)), folder=folder
    )
    robot = Robot(peer)
    robot.play(5)
    peer.until(lambda: bags(folder), 'the first bag')
    robot.play(400, until=lambda: 'error' in recorder.output)
    assert recorder.wait() == 2
    assert recorder.output.splitlines()[-1].startswith('error: episode bag')
    [first] = bags(folder)
    assert all(len(values) == 5 for values in stamps_by_topic(first).values())


class Robot:
    """Publishes episodes of noise on all per-step topics, faster than any simulator."""

    def __init__(self, peer):
        from std_msgs.msg import String

        from dreamer_ros.ros import qos

        self._peer = peer
        self._publishers = {topic: qos.publisher(peer.node, topic) for topic in topics.PER_STEP}
        self._spec = qos.publisher(peer.node, topics.SPEC)
        spec = RobotSpec('noise', (128, 128), (), ('motor',), (-1.0,), (1.0,), PERIOD / 1e9, 1)
        self._spec.publish(String(data=spec.to_json()))
        self._rng = np.random.default_rng(0)
        self._stamp = 10**18
        peer.until(lambda: all(p.get_subscription_count() for t, p in self._publishers.items()), 'the recorder')

    def play(self, length: int, until=lambda: False) -> None:
        from dreamer_ros.wire import codecs

        for k in range(length):
            self._stamp += PERIOD
            for topic in np.random.default_rng(k).permutation(len(topics.PER_STEP)):  # any order between topics
                topic = topics.PER_STEP[topic]
                publisher = self._publishers[topic]
                message = publisher.msg_type()
                if topic is topics.STEP:
                    codecs.fill_step(message, codecs.Step(self._stamp, 1.0, k == 0, k == length - 1, False))
                elif topic is topics.IMAGE:
                    codecs.fill_image(message, self._rng.integers(0, 256, (128, 128, 3), np.uint8), self._stamp)
                elif topic is topics.ACTION:
                    codecs.fill_action(message, np.zeros(1), self._stamp, codecs.Mode('random'))
                elif topic is topics.CAMERA_INFO:
                    codecs.fill_camera_info(message, 128, 128, np.eye(3), self._stamp)
                else:
                    codecs.fill_joint_state(message, (), np.zeros(0), np.zeros(0), self._stamp)
                publisher.publish(message)
            self._peer.spin(0.005)
            if until():
                return
