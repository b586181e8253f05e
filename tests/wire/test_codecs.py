from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Image, JointState, Joy

from dreamer_ros.errors import InputError
from dreamer_ros.wire import codecs
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.images import decode_image

STAMP = 1_800_000_000_999_999_999


def both_ways(message):
    """The message as rclpy gives it after the wire, and as a bag reader decodes it."""
    cdr = serialize_message(message)
    name = f'sensor_msgs/msg/{type(message).__name__}'
    return [deserialize_message(cdr, type(message)), decode(cdr, name)]


def test_image_survives_the_wire():
    image = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    message = Image()
    codecs.fill_image(message, image[:, ::-1], STAMP)
    for received in both_ways(message):
        np.testing.assert_array_equal(decode_image(received, 'sensor_msgs/msg/Image'), image[:, ::-1])
        assert codecs.stamp_to_ns(received.header.stamp) == STAMP
        assert received.encoding == 'rgb8' and received.step == 15 and received.header.frame_id == 'camera'


@pytest.mark.parametrize('encoding, channels', [('rgb8', 3), ('bgr8', 3), ('mono8', 1)])
@pytest.mark.parametrize('padding', [0, 3])
def test_image_encodings_and_row_padding(encoding, channels, padding):
    raw = np.random.default_rng(1).integers(0, 256, (4, 6, channels), np.uint8)
    rows = np.concatenate([raw.reshape(4, -1), np.full((4, padding), 99, np.uint8)], axis=1)
    message = Image(height=4, width=6, encoding=encoding, step=rows.shape[1], data=rows.tobytes())
    expected = {'rgb8': raw, 'bgr8': raw[:, :, ::-1], 'mono8': np.repeat(raw, 3, axis=2)}[encoding]
    for received in both_ways(message):
        np.testing.assert_array_equal(decode_image(received, 'sensor_msgs/msg/Image'), expected)


@pytest.mark.parametrize(
    'change, complaint',
    [
        ({'encoding': '8UC5'}, "got '8UC5'"),
        ({'height': 5}, '75 bytes'),
        ({'step': 12}, 'rows of at least 15'),
        ({'data': b''}, 'got 0 bytes'),
    ],
)
def test_bad_image_is_refused(change, complaint):
    fields = {'height': 4, 'width': 5, 'encoding': 'rgb8', 'step': 15, 'data': bytes(60), **change}
    with pytest.raises(InputError, match=complaint):
        decode_image(Image(**fields), 'sensor_msgs/msg/Image')


def test_step_survives_the_wire():
    step = codecs.Step(STAMP, 0.1, False, True, True)
    message = JointState()
    codecs.fill_step(message, step)
    for received in both_ways(message):
        assert codecs.read_step(received) == step


@pytest.mark.parametrize(
    'position, complaint',
    [
        ([1.0, 0.0, 0.0], 'expected reward, is_first, is_last, is_terminal'),
        ([float('nan'), 0.0, 0.0, 0.0], 'finite reward'),
        ([1e300, 0.0, 0.0, 0.0], 'finite reward'),
        ([1.0, 0.5, 0.0, 0.0], 'flags 0 or 1'),
    ],
)
def test_bad_step_is_refused(position, complaint):
    with pytest.raises(InputError, match=complaint):
        codecs.read_step(JointState(name=list(codecs.STEP_NAMES), position=position))


def test_action_survives_the_wire():
    action = np.float32([0.1, -1.0, 1.0])
    message = Joy()
    codecs.fill_action(message, action, STAMP, codecs.Mode('evaluate', 12))
    for received in both_ways(message):
        np.testing.assert_array_equal(codecs.read_action(received.axes, 3), action)
        assert codecs.parse_mode(received.header.frame_id) == codecs.Mode('evaluate', 12)
    assert codecs.header_stamp(serialize_message(message)) == STAMP


def test_action_is_clipped_and_checked():
    assert codecs.read_action([3.0, -3.0], 2).tolist() == [1.0, -1.0]
    with pytest.raises(InputError, match='expected 3 axes, got 2'):
        codecs.read_action([0.0, 0.0], 3)
    with pytest.raises(InputError, match='finite'):
        codecs.read_action([0.0, float('nan')], 2)


@pytest.mark.parametrize(
    'mode, text',
    [
        (codecs.Mode('random'), 'random'),
        (codecs.Mode('human'), 'human'),
        (codecs.Mode('explore', 3), 'policy/3/explore'),
        (codecs.Mode('evaluate', 0), 'policy/0/evaluate'),
    ],
)
def test_mode_text(mode, text):
    assert str(mode) == text and codecs.parse_mode(text) == mode


@pytest.mark.parametrize('text', ['', 'policy', 'policy/x/explore', 'policy/-1/explore', 'policy/1/sleep', 'joy'])
def test_bad_mode_is_refused(text):
    with pytest.raises(InputError, match='frame_id'):
        codecs.parse_mode(text)


def test_vector_selects_by_name_in_the_order_asked():
    message = JointState()
    codecs.fill_joint_state(message, ['a', 'b'], np.array([1.0, 2.0]), np.array([3.0, 4.0]), STAMP)
    for received in both_ways(message):
        assert codecs.read_vector(received, ('b/velocity', 'a/position')).tolist() == [4.0, 1.0]
        with pytest.raises(InputError, match='expected c/position'):
            codecs.read_vector(received, ('c/position',))
    with pytest.raises(InputError, match='finite'):
        codecs.read_vector(JointState(name=['a'], position=[-1e300]), ('a/position',))
    with pytest.raises(InputError, match='a/velocity'):
        codecs.read_vector(JointState(name=['a'], position=[1.0]), ('a/velocity',))


def test_camera_info_is_a_pinhole():
    message = CameraInfo()
    k = [50.0, 0.0, 31.5, 0.0, 50.0, 23.5, 0.0, 0.0, 1.0]
    codecs.fill_camera_info(message, 64, 48, k, STAMP)
    for received in both_ways(message):
        assert (received.width, received.height) == (64, 48)
        assert list(received.k) == k
        assert np.reshape(received.p, (3, 4))[:, :3].ravel().tolist() == k
        assert np.reshape(received.r, (3, 3)).tolist() == np.eye(3).tolist()


@pytest.mark.parametrize('cdr', [b'', b'\x00\x01', b'\x00\x01\x00\x00\x01', b'\x07\x07\x00\x00' + bytes(40)])
def test_bytes_that_are_no_message_are_refused(cdr):
    for name in ('Image', 'JointState', 'Joy', 'CameraInfo'):
        with pytest.raises(InputError):
            decode(cdr, f'sensor_msgs/msg/{name}')
    if len(cdr) < 12:
        with pytest.raises(InputError, match='header stamp'):
            codecs.header_stamp(cdr)


def test_robot_side_imports_neither_ros_nor_training_libraries():
    code = (
        'import sys\n'
        'import dreamer_ros.wire.codecs, dreamer_ros.wire.topics, dreamer_ros.wire.definitions\n'
        'import dreamer_ros.replay.dataset, dreamer_ros.episodes.inspect\n'
        'print([name for name in ("rclpy", "torch", "mujoco", "onnxruntime") if name in sys.modules])'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == '[]'


@pytest.mark.parametrize(
    'seconds, nanoseconds', [(2**31 - 1, 999_999_999), (2**31 - 86_400, 0), (-1, 0), (-(2**31), 0), (1, 2**32 - 1)]
)
def test_stamps_at_the_end_of_time_are_refused(seconds, nanoseconds):
    """Who went on from one would not find a message that holds the next."""
    message = Image()
    message.header.stamp.sec, message.header.stamp.nanosec = seconds, nanoseconds
    with pytest.raises(InputError, match=f'stamp: expected a time from 1970 to 2037, got {seconds} s'):
        codecs.stamp_to_ns(message.header.stamp)
    with pytest.raises(InputError, match='expected a time from 1970 to 2037'):
        codecs.header_stamp(serialize_message(message))
