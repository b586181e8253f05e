"""Messages moved as bytes are the messages rclpy makes and reads."""
from __future__ import annotations

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image, JointState, Joy

from dreamer_ros.bridge import codecs
from dreamer_ros.nodes.observations import image_template, step_template
from dreamer_ros.nodes.template import MessageTemplate

STAMP = 1_795_174_018_015_997_804


def decoded(cdr, message):
    """By rclpy; and by rosbags, which also refuses bytes too many."""
    rosbag_type = type(message).__module__.split('.')[0] + '/msg/' + type(message).__name__
    get_typestore(Stores.ROS2_KILTED).deserialize_cdr(cdr, rosbag_type)
    return deserialize_message(cdr, type(message))


def test_writes_what_rclpy_reads(rng):
    step, image, joy = JointState(), Image(), Joy()
    codecs.fill_step(step, codecs.Step(STAMP, -0.25, True, False, True))
    assert decoded(step_template().write(STAMP, np.array([-0.25, 1, 0, 1])), step) == step
    pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
    codecs.fill_image(image, pixels, STAMP)
    assert decoded(image_template(48, 64).write(STAMP, pixels), image) == image
    for size in (1, 2, 6, 38):
        action = rng.uniform(-1, 1, size).astype(np.float32)
        codecs.fill_action(joy, np.zeros(size), 0, codecs.Mode('explore', 12))
        cdr = MessageTemplate(joy, 'axes', following=1).write(STAMP, action)
        codecs.fill_action(joy, action, STAMP, codecs.Mode('explore', 12))
        assert decoded(cdr, joy) == joy


def image_message(rng):
    pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
    message = Image()
    codecs.fill_image(message, pixels, STAMP)
    return pixels, message


def test_reads_what_its_publisher_writes(rng):
    """From one message on, learnt with the garbage in its padding."""
    writer = image_template(48, 64)
    cdr = writer.write(1, image_message(rng)[0])
    reader = MessageTemplate.of(cdr, deserialize_message(cdr, Image), 'data', following=0)
    for _ in range(3):
        pixels, _ = image_message(rng)
        cdr = writer.write(STAMP, pixels)
        assert np.array_equal(reader.read(cdr).reshape(48, 64, 3), pixels)
        assert codecs.header_stamp(cdr) == STAMP


@pytest.mark.parametrize('change', [
    {'frame_id': 'front_camera'}, {'encoding': 'bgr8'}, {'height': 24, 'width': 128}, {'is_bigendian': 1}])
def test_leaves_other_messages_alone(rng, change):
    _, message = image_message(rng)
    cdr = serialize_message(message)
    reader = MessageTemplate.of(cdr, message, 'data', following=0)
    assert reader.read(cdr) is not None
    for name, value in change.items():
        setattr(message.header if name == 'frame_id' else message, name, value)
    assert reader.read(serialize_message(message)) is None
    assert reader.read(b'') is None


def test_needs_an_array_to_find():
    with pytest.raises(ValueError, match='axes'):
        MessageTemplate(Joy(), 'axes', following=1)
    with pytest.raises(ValueError, match='follows'):
        MessageTemplate(Joy(axes=[1.0], buttons=[1]), 'axes', following=1)
