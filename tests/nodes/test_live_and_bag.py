"""What an agent sees live over ROS and what a bag of the same messages gives are the same, frame for frame."""

from __future__ import annotations

import io
import time
from collections import defaultdict

import numpy as np
import pytest
import rclpy
from PIL import Image as Picture
from rclpy.node import Node
from rclpy.serialization import deserialize_message

from dreamer_ros.episodes.bag_reader import bag_files
from dreamer_ros.episodes.bag_writer import EpisodeWriter
from dreamer_ros.episodes.mcap_scan import scan_mcap
from dreamer_ros.robot.sensing import Sensing
from dreamer_ros.ros import qos
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.wire.codecs import fill_stamp
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.fields import has_header
from dreamer_ros.wire.topics import QoS
from tests.robot.robots import contract

TICKS = 60
DEEP = QoS(depth=100)


class Stream:
    """Random messages on the topics of the tests' arm, some of them of no use."""

    def __init__(self, rng: np.random.Generator, topics):
        self._rng = rng
        self._classes = {topic.name: qos.message_type(topic) for topic in topics}

    def message(self, topic: str, stamp: int):
        """A message of that stamp."""
        rng, message = self._rng, self._classes[topic]()
        if hasattr(message, 'header'):
            fill_stamp(message.header.stamp, stamp)
        if topic == 'wrist/image_raw':
            encoding, channels = [('rgb8', 3), ('bgr8', 3), ('rgba8', 4), ('mono8', 1)][rng.integers(4)]
            height, width = rng.integers(34, 80), rng.integers(52, 90)
            if rng.random() < 0.05:
                height = 20  # too small for the crop
            message.height, message.width, message.encoding = int(height), int(width), encoding
            message.step = int(width * channels + rng.integers(4))
            message.data = rng.integers(0, 256, message.step * message.height, np.uint8).tobytes()
        elif topic == '/room/compressed':
            buffer = io.BytesIO()
            picture = Picture.fromarray(rng.integers(0, 256, (24, 30, 3), np.uint8).repeat(4, 0).repeat(4, 1))
            picture.save(buffer, 'PNG' if rng.random() < 0.5 else 'JPEG')
            message.format, message.data = 'of some kind', buffer.getvalue()
        elif topic == 'joint_states':
            message.name = rng.permutation(['shoulder', 'elbow', 'gripper'][: rng.choice([1, 2, 3, 3, 3])]).tolist()
            message.position = rng.normal(size=len(message.name)).tolist()
            message.velocity = rng.normal(size=len(message.name)).tolist()
        elif topic == 'odom':
            message.pose.pose.position.x = rng.normal()
            message.pose.covariance = rng.normal(size=36)
        elif topic == 'imu':
            message.angular_velocity.z = float(rng.choice([rng.normal(), rng.normal(), np.nan], p=[0.5, 0.4, 0.1]))
        elif topic == 'distance':
            message.data = float(rng.exponential())
        else:
            message.data = bool(rng.random() < 0.5)
        return message


@pytest.mark.parametrize('stamps', ['header', 'receive'])
def test_live_equals_bag(ros_domain, rng, tmp_path, stamps):
    robot = contract(stamps=stamps)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    node = Node('robot', context=context)
    try:
        ticks, live = run_live(node, robot, rng, tmp_path)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    bag = tmp_path / 'bag'
    replayed = replay(robot, bag, [(tick, seen.ages) for tick, seen in zip(ticks, live)])

    usable = 0
    for a, b in zip(live, replayed):
        assert kinds(a.problems) == kinds(b.problems) and kinds(a.reward_problems) == kinds(b.reward_problems)
        assert a.ages == b.ages
        assert a.is_terminal == b.is_terminal and a.reward == b.reward
        assert (a.image is None) == (b.image is None) == bool(a.problems)
        if not a.problems:
            usable += 1
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_array_equal(a.vector, b.vector)
            np.testing.assert_array_equal(a.feedback, b.feedback)
    seen = [each.image.tobytes() for each in live if each.image is not None]
    assert usable > TICKS / 4 and len(set(seen)) > usable / 2  # something was seen, and not always the same
    assert any(each.problems for each in live)


def kinds(problems):
    return [(problem.topic, problem.kind) for problem in problems]


def run_live(node, robot, rng, folder):
    """Publish a stream, observe it at ticks, and record every message that came: (tick stamps, observations)."""
    inbox = Inbox(node)
    subscriptions = {topic.name: inbox.subscribe(topic, DEEP, raw=True) for topic in robot.topics}
    publishers = {topic.name: qos.publisher(node, topic) for topic in robot.topics}
    end = time.monotonic() + 20
    while any(publisher.get_subscription_count() < 1 for publisher in publishers.values()):
        assert time.monotonic() < end, 'publishers and subscriptions did not meet'
        time.sleep(0.01)
    stream = Stream(rng, robot.topics)
    sensing = Sensing(robot)
    writer = EpisodeWriter(folder, 'bag', robot.topics, {})
    ticks, live = [], []
    for _ in range(TICKS):
        for name, publisher in publishers.items():
            for _ in range(rng.choice([0, 1, 1, 2])):
                publisher.publish(stream.message(name, time.time_ns() - int(rng.integers(0, 50_000_000))))
        inbox.wait(0.02)
        for name, subscription in subscriptions.items():
            while (taken := subscription.take_with_info()) is not None:
                cdr, info = taken
                writer.write(name, cdr, info['source_timestamp'])
                sensing.receive(name, deserialize_message(cdr, subscription.message_type), info['source_timestamp'])
        ticks.append(time.time_ns())
        live.append(sensing.observe(ticks[-1]))
    writer.close({})
    return ticks, live


def replay(robot, bag, ticks):
    """The observations at ticks, from the bag and the ages of the messages that were used."""
    [file] = bag_files(bag)
    types = {topic.name: topic.type for topic in robot.topics}
    by_stamp = defaultdict(dict)
    for raw in scan_mcap(file).messages:
        message = decode(raw.data, types[raw.topic])
        header = robot.stamps == 'header' and has_header(types[raw.topic])
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec if header else raw.time
        by_stamp[raw.topic][stamp] = message, raw.time
    sensing = Sensing(robot)
    seen = []
    for tick, ages in ticks:
        for topic, age in ages.items():
            sensing.receive(topic, *by_stamp[topic][tick - age])
        seen.append(sensing.observe(tick))
    return seen
