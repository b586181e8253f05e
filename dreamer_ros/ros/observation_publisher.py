"""Publishes a simulator's observations: first what the agent waits for, the rest while it computes."""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState

from dreamer_ros.ros import qos
from dreamer_ros.ros.message_template import MessageTemplate
from dreamer_ros.wire import codecs, topics


def scalar_template(names: Sequence[str]) -> MessageTemplate:
    """Layout of a JointState that names numbers, such as `step`; its array holds their values, f64[N]."""
    message = JointState()
    message.name, message.position = list(names), array.array('d', bytes(8 * len(names)))
    return MessageTemplate(message, ['position'], tail=8)


def image_template(height: int, width: int, frame_id: str = 'camera') -> MessageTemplate:
    """Layout of a camera's image; its array holds the pixels, u8[H·W·3]."""
    message = Image()
    codecs.fill_image(message, np.zeros((height, width, 3), np.uint8), 0, frame_id)
    return MessageTemplate(message, ['data'])


def joint_template(names: Sequence[str]) -> MessageTemplate:
    """Layout of `joint_states`; its arrays hold positions and velocities, f64[J] each."""
    message = JointState()
    codecs.fill_joint_state(message, names, np.zeros(len(names)), np.zeros(len(names)), 0)
    if not names:
        return MessageTemplate(message, [], tail=24)
    return MessageTemplate(message, ['position', 'velocity'], tail=4)


def camera_info_template(camera, frame_id: str = 'camera') -> tuple[MessageTemplate, np.ndarray]:
    """Layout of the camera's CameraInfo, and the projection matrix f64[12] to fill its hole with.

    The matrix never changes. It is the last field before the zeros of binning and region of interest.
    """
    message = CameraInfo()
    codecs.fill_camera_info(message, camera.width, camera.height, camera.K, 0, frame_id)
    return MessageTemplate(message, ['p'], tail=25), np.array(message.p)


class ObservationPublisher:
    """Publishes the messages of observations, laid out once and filled per step.

    Args:
        node: the publisher.
        cameras: `simulation.rendering.CameraModel` of each: width, height, K.
        spec: RobotSpec; with vector inputs, the agent also waits for joint_states.
        tells_actions: `step` includes the applied action, which in real time is not always the answer to the
            previous step.
    """

    def __init__(self, node: Node, cameras, spec, tells_actions: bool):
        applied = (codecs.APPLIED + name for name in spec.action) if tells_actions else ()
        self._step_template = scalar_template((*codecs.STEP_NAMES, *applied))
        self._applied = np.zeros(len(spec.action) if tells_actions else 0)
        place = node.get_namespace()
        frames = [topics.optical_frame(name, place) for name in ('camera', *spec.cameras[1:])]
        self._images = [
            (qos.publisher(node, topic), image_template(camera.height, camera.width, frame))
            for topic, camera, frame in zip(topics.images(spec.cameras), cameras, frames)
        ]
        self._camera_infos = [
            (qos.publisher(node, topic), *camera_info_template(camera, frame))
            for topic, camera, frame in zip(topics.camera_infos(spec.cameras), cameras, frames)
        ]
        self._clock_template = MessageTemplate(Clock(), [])
        self._joint_template: MessageTemplate | None = None
        self._steps = qos.publisher(node, topics.STEP)
        self._joint_states = qos.publisher(node, topics.JOINT_STATES)
        self._clocks = qos.publisher(node, topics.CLOCK)
        self._joints_first = bool(spec.vector)

    @property
    def topic(self) -> str:
        """Full name of `step`."""
        return self._steps.topic_name

    def subscribers(self) -> int:
        """How many subscribers of `step` are connected."""
        return self._steps.get_subscription_count()

    def publish(self, observation, stamp: int, applied: np.ndarray | None = None) -> None:
        """Publish an Observation of time `stamp` (nanoseconds); `applied` is the action f[A] that led there."""
        if applied is not None and len(self._applied):
            self._applied = np.zeros_like(self._applied) if observation.is_first else applied
        self._clocks.publish(self._clock_template.write(stamp))
        self._last = observation, stamp
        self.publish_again()

    def publish_again(self) -> None:
        """Publish the last observation, stamp and all."""
        observation, stamp = self._last
        flags = observation.is_first, observation.is_last, observation.is_terminal
        step = np.array((observation.reward, *flags, *self._applied), np.float64)
        self._steps.publish(self._step_template.write(stamp, step))
        if self._joints_first:
            self._publish_joints(observation, stamp)
        for number, (publisher, template) in enumerate(self._images):
            image = observation.image[:, :, 3 * number : 3 * number + 3]
            publisher.publish(template.write(stamp, image))
        # From here on the agent computes.
        for publisher, template, projection in self._camera_infos:
            publisher.publish(template.write(stamp, projection))
        if not self._joints_first:
            self._publish_joints(observation, stamp)

    def _publish_joints(self, observation, stamp: int) -> None:
        if self._joint_template is None:
            self._joint_template = joint_template(observation.joint_names)
        self._joint_states.publish(self._joint_template.write(stamp, observation.position, observation.velocity))
