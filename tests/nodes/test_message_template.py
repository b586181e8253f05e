"""Messages moved as bytes are the messages rclpy makes and reads."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState, Joy

from dreamer_ros.ros.message_template import MessageTemplate
from dreamer_ros.ros.observation_publisher import camera_info_template, image_template, joint_template, scalar_template
from dreamer_ros.simulation.rendering import CameraModel
from dreamer_ros.wire import codecs

STAMP = 1_795_174_018_015_997_804


def decoded(cdr, message):
    """By rclpy; and by rosbags, which also refuses bytes too many."""
    rosbag_type = type(message).__module__.split('.')[0] + '/msg/' + type(message).__name__
    get_typestore(Stores.ROS2_KILTED).deserialize_cdr(cdr, rosbag_type)
    return deserialize_message(cdr, type(message))


def test_writes_what_rclpy_reads(rng):
    step, image, joy = JointState(), Image(), Joy()
    codecs.fill_step(step, codecs.Step(STAMP, -0.25, True, False, True))
    assert decoded(scalar_template(codecs.STEP_NAMES).write(STAMP, np.array([-0.25, 1, 0, 1])), step) == step
    pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
    codecs.fill_image(image, pixels, STAMP)
    assert decoded(image_template(48, 64).write(STAMP, pixels), image) == image
    for size in (1, 2, 6, 38):
        action = rng.uniform(-1, 1, size).astype(np.float32)
        codecs.fill_action(joy, np.zeros(size), 0, codecs.Mode('explore', 12))
        cdr = MessageTemplate(joy, ['axes'], tail=4).write(STAMP, action)
        codecs.fill_action(joy, action, STAMP, codecs.Mode('explore', 12))
        assert decoded(cdr, joy) == joy


@pytest.mark.parametrize('names', [(), ('hinge',), tuple(f'joint_{n}' for n in range(21))], ids=len)
def test_joint_states(rng, names):
    message = JointState()
    position, velocity = rng.normal(size=(2, len(names)))
    codecs.fill_joint_state(message, names, position, velocity, STAMP)
    assert decoded(joint_template(names).write(STAMP, position, velocity), message) == message


def test_camera_info_and_clock():
    camera, message, clock = CameraModel(0, 'side', 64, 48, 45.0), CameraInfo(), Clock()
    codecs.fill_camera_info(message, 64, 48, camera.K, STAMP)
    template, projection = camera_info_template(camera)
    assert decoded(template.write(STAMP, projection), message) == message
    codecs.fill_stamp(clock.clock, STAMP)
    assert decoded(MessageTemplate(Clock(), []).write(STAMP), clock) == clock


def image_message(rng):
    pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
    message = Image()
    codecs.fill_image(message, pixels, STAMP)
    return pixels, message


def test_reads_what_its_publisher_writes(rng):
    """From one message on, learnt with the garbage in its padding."""
    writer = image_template(48, 64)
    cdr = writer.write(1, image_message(rng)[0])
    reader = MessageTemplate.of(cdr, deserialize_message(cdr, Image), ['data'])
    for _ in range(3):
        pixels, _ = image_message(rng)
        cdr = writer.write(STAMP, pixels)
        assert np.array_equal(reader.read(cdr)[0].reshape(48, 64, 3), pixels)
        assert codecs.header_stamp(cdr) == STAMP


@pytest.mark.parametrize(
    'change', [{'frame_id': 'front_camera'}, {'encoding': 'bgr8'}, {'height': 24, 'width': 128}, {'is_bigendian': 1}]
)
def test_leaves_other_messages_alone(rng, change):
    _, message = image_message(rng)
    cdr = serialize_message(message)
    reader = MessageTemplate.of(cdr, message, ['data'])
    assert reader.read(cdr) is not None
    for name, value in change.items():
        setattr(message.header if name == 'frame_id' else message, name, value)
    assert reader.read(serialize_message(message)) is None
    assert reader.read(b'') is None


def test_needs_an_array_to_find():
    with pytest.raises(ValueError, match='axes'):
        MessageTemplate(Joy(), ['axes'], tail=4)
    with pytest.raises(ValueError, match='follows'):
        MessageTemplate(Joy(axes=[1.0], buttons=[1]), ['axes'], tail=4)
