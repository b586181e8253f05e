"""Messages of packages that are no part of ROS itself."""

from __future__ import annotations

import numpy as np
import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.wire.definitions import blank_message, decode, definition, encode
from dreamer_ros.wire.fields import Field


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """workspace('Grip', text) installs a message of a package of its own; returns the type's name."""
    package = f'grip_{tmp_path.name.replace("-", "_")}_msgs'
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'/nowhere:{tmp_path}')

    def install(name: str, text: str) -> str:
        folder = tmp_path / 'share' / package / 'msg'
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{name}.msg').write_text(text)
        return f'{package}/msg/{name}'

    return install


def test_types_of_a_sourced_workspace(workspace):
    finger = workspace('Finger', '# One of them.\nfloat32 force # N\nuint8 OPEN=1\n')
    package = finger.split('/')[0]
    hand = workspace('Hand', f'std_msgs/Header header\nstring[] name\n{package}/Finger[2] fingers\nFinger thumb\n')
    field = Field.parse('fingers[1].force', hand)
    message = blank_message(hand)
    message.fingers[1].force = 2.5
    message.name = ['a']
    message.header.stamp.sec = 7
    decoded = decode(encode(message, hand), hand)
    assert field.read(decoded) == 2.5 and decoded.header.stamp.sec == 7
    assert 'float32 force' in definition(hand).text and definition(hand).hash.startswith('RIHS01_')
    with pytest.raises(InputError, match='expected an element below 2'):
        Field.parse('fingers[2].force', hand)


def test_types_that_cannot_be_known(workspace):
    known = workspace('Known', 'int8 x\n')
    broken = workspace('Broken', 'this is (no) message\n')
    open_end = workspace('OpenEnd', 'elsewhere_msgs/Missing x\n')
    for name, reason in (
        (broken, 'does not define it'),
        (open_end, 'elsewhere_msgs/msg/Missing: expected a type'),
        (known.replace('Known', 'Other'), 'expected a type'),
        ('Twist', 'expected a type'),
        (known.replace('Known', '../../x'), 'expected a type'),
        ('', 'expected a type'),
    ):
        with pytest.raises(InputError, match=reason):
            definition(name)


def test_blank_messages():
    imu = blank_message('sensor_msgs/msg/Imu')
    assert imu.header.frame_id == '' and imu.header.stamp.nanosec == 0
    assert imu.orientation.w == 0 and imu.orientation_covariance.tolist() == [0.0] * 9
    joints = blank_message('sensor_msgs/msg/JointState')
    assert joints.name == [] and joints.position.dtype == np.float64
    assert encode(joints, 'sensor_msgs/msg/JointState')[:4] == b'\0\1\0\0'
