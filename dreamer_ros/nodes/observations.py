"""Publishes a simulator's observations: what the agent waits for first, the rest while it thinks."""
from __future__ import annotations

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState

from dreamer_ros.bridge import codecs, topics
from dreamer_ros.nodes import qos
from dreamer_ros.nodes.template import MessageTemplate


def step_template() -> MessageTemplate:
    """Layout of `step`; its array holds the values of `codecs.STEP_NAMES`, f64[4]."""
    message = JointState()
    codecs.fill_step(message, codecs.Step(0, 0.0, False, False, False))
    return MessageTemplate(message, 'position', following=2)


def image_template(height: int, width: int) -> MessageTemplate:
    """Layout of the camera image; its array holds the pixels, u8[H·W·3]."""
    message = Image()
    codecs.fill_image(message, np.zeros((height, width, 3), np.uint8), 0)
    return MessageTemplate(message, 'data', following=0)


class ObservationPublisher:
    """The messages of one observation, allocated once and filled per step.

    Args:
        node: that publishes.
        camera: `simulation.rendering.CameraModel`: width, height, K.
        step_publisher: of the topic `step`.
        spec: RobotSpec; with vector inputs, joint_states belong to what the agent waits for.
    """

    def __init__(self, node: Node, camera, step_publisher: Publisher, spec):
        self._step_template, self._image_template = step_template(), image_template(camera.height, camera.width)
        self._joints = JointState()
        self._camera_info = CameraInfo()
        self._clock = Clock()
        codecs.fill_camera_info(self._camera_info, camera.width, camera.height, camera.K, 0)
        self._steps = step_publisher
        self._images = qos.publisher(node, topics.IMAGE)
        self._joint_states = qos.publisher(node, topics.JOINT_STATES)
        self._camera_infos = qos.publisher(node, topics.CAMERA_INFO)
        self._clocks = qos.publisher(node, topics.CLOCK)
        self._joints_first = bool(spec.vector)

    @property
    def topic(self) -> str:
        """Full name of `step`."""
        return self._steps.topic_name

    def subscribers(self) -> int:
        """How many subscribers of `step` are connected."""
        return self._steps.get_subscription_count()

    def publish(self, observation, stamp: int) -> None:
        """Publish an Observation as seen at `stamp` (nanoseconds), /clock first."""
        codecs.fill_stamp(self._clock.clock, stamp)
        self._clocks.publish(self._clock)
        self._step = self._step_template.write(stamp, np.array((
            observation.reward, observation.is_first, observation.is_last, observation.is_terminal)))
        self._image = self._image_template.write(stamp, observation.image)
        if self._joints_first:
            self._fill_joints(observation, stamp)
        self._publish_needed()
        # The agent thinks from here on.
        codecs.fill_stamp(self._camera_info.header.stamp, stamp)
        self._camera_infos.publish(self._camera_info)
        if not self._joints_first:
            self._fill_joints(observation, stamp)
            self._joint_states.publish(self._joints)

    def publish_again(self) -> None:
        """Publish the last observation once more, stamp and all."""
        self._publish_needed()
        self._camera_infos.publish(self._camera_info)
        if not self._joints_first:
            self._joint_states.publish(self._joints)

    def _publish_needed(self) -> None:
        self._steps.publish(self._step)
        if self._joints_first:
            self._joint_states.publish(self._joints)
        self._images.publish(self._image)

    def _fill_joints(self, observation, stamp: int) -> None:
        codecs.fill_joint_state(
            self._joints, observation.joint_names, observation.position, observation.velocity, stamp)
