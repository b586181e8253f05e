from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from rosbags.interfaces import QosDurability, QosHistory, QosReliability
from rosbags.rosbag2.metadata import parse_qos

from dreamer_ros.errors import InputError
from dreamer_ros.wire import topics
from dreamer_ros.wire.definitions import definition

TOPICS = [value for value in vars(topics).values() if isinstance(value, topics.Topic)]


def ros_share(type_name: str, suffix: str) -> Path | None:
    """The interface file that the ROS installation in use ships; Humble has no .json ones."""
    package, kind, name = type_name.split('/')
    prefixes = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]
    for prefix in prefixes:
        file = Path(prefix or '/nonexistent') / 'share' / package / kind / f'{name}{suffix}'
        if file.exists():
            return file
    assert suffix == '.json', f'no {type_name} in {prefixes}'
    return None


def test_names_in_a_namespace():
    assert topics.STEP.within('/sim0').name == '/sim0/step'
    assert topics.IMAGE.within('sim0/').name == '/sim0/camera/image_raw'
    assert topics.STEP.within('/').name == topics.STEP.within('').name == '/step'
    assert topics.CLOCK.within('sim0').name == '/clock'
    assert topics.STEP.within('sim0').qos == topics.STEP.qos


def test_names_below_the_node():
    assert topics.STEP.below('sim0').name == topics.STEP.below('/sim0/').name == 'sim0/step'
    assert topics.optical_frame('front', '/sim0') == 'sim0/front_optical_frame'
    assert topics.optical_frame('camera', '/') == 'camera_optical_frame'


def test_every_camera_has_topics_of_its_own():
    assert topics.per_step(('camera',)) == topics.PER_STEP
    assert topics.PER_STEP[:2] == (topics.IMAGE, topics.CAMERA_INFO)
    assert topics.images(('front',)) == (topics.IMAGE,), 'the first is `camera` on the wire, whatever its name'
    names = [topic.name for topic in topics.per_step(('front', 'wrist'))]
    assert names == [
        'camera/image_raw',
        'wrist/image_raw',
        'camera/camera_info',
        'wrist/camera_info',
        'joint_states',
        'step',
        'action',
    ]
    assert [topic.name for topic in topics.per_step(())] == ['joint_states', 'step', 'action']


@pytest.mark.parametrize('topic', TOPICS, ids=lambda topic: topic.name)
def test_offered_qos_is_read_by_others_as_meant(topic):
    (stored,) = yaml.safe_load(topic.qos.offered())
    assert all(isinstance(value, (int, dict, bool)) for value in stored.values())
    (qos,) = parse_qos(topic.qos.offered())
    assert qos.history == QosHistory.KEEP_LAST and qos.depth == topic.qos.depth
    assert qos.reliability == (QosReliability.RELIABLE if topic.qos.reliable else QosReliability.BEST_EFFORT)
    assert qos.durability == (QosDurability.TRANSIENT_LOCAL if topic.qos.transient_local else QosDurability.VOLATILE)
    assert (qos.deadline.sec, qos.deadline.nsec) == (9223372036, 854775807)


@pytest.mark.parametrize('type_name', sorted({topic.type for topic in TOPICS}))
def test_definitions_and_hashes_are_those_of_ros(type_name):
    text, digest = definition(type_name)
    root, *dependencies = re.split(r'^={80}\n', text, flags=re.MULTILINE)
    assert fields(root) == fields(ros_share(type_name, '.msg').read_text())
    names = []
    for part in dependencies:
        head, body = part.split('\n', 1)
        package, name = head[len('MSG: ') :].split('/')
        assert head.startswith('MSG: ')
        names.append(f'{package}/msg/{name}')
        assert fields(body) == fields(ros_share(names[-1], '.msg').read_text())
    assert re.fullmatch('RIHS01_[0-9a-f]{64}', digest)
    description = ros_share(type_name, '.json')
    if description is not None:
        shipped = json.loads(description.read_text())['type_hashes']
        hashes = {entry['type_name']: entry['hash_string'] for entry in shipped}
        assert digest == hashes.pop(type_name)
        # Every dependency once, none missing.
        assert sorted(names) == sorted(hashes)


def fields(text: str) -> list:
    """Fields and constants of a .msg text, without comments and spacing; packages spelled out or not."""
    lines = (re.sub(r'\s*=\s*', '=', ' '.join(line.split('#')[0].split())) for line in text.splitlines())
    return [re.sub(r'^\w+/', '', line) for line in lines if line]


def test_unknown_type_is_refused():
    with pytest.raises(InputError, match='my_robot_msgs/msg/Thing'):
        definition('my_robot_msgs/msg/Thing')
