"""The table of topics: names, types and quality of service, in plain data (no rclpy).

All names except /clock and /diagnostics are relative, so each robot has its own namespace.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class QoS:
    """A ROS 2 quality-of-service profile. Deadline, lifespan and liveliness are the defaults.

    Attributes:
        depth: history keep_last of so many messages.
        reliable: reliable, or else best effort.
        transient_local: late subscribers get the last messages ("latched"); else volatile.
    """

    depth: int
    reliable: bool = True
    transient_local: bool = False

    def offered(self) -> str:
        """The profile as rosbag2 stores it up to metadata version 8: YAML with integer enums."""
        infinite = '    sec: 9223372036\n    nsec: 854775807\n'
        return (
            '- history: 1\n'
            f'  depth: {self.depth}\n'
            f'  reliability: {1 if self.reliable else 2}\n'
            f'  durability: {1 if self.transient_local else 2}\n'
            f'  deadline:\n{infinite}'
            f'  lifespan:\n{infinite}'
            '  liveliness: 1\n'
            f'  liveliness_lease_duration:\n{infinite}'
            '  avoid_ros_namespace_conventions: false'
        )


# Regular expression of a relative ROS name with any number of parts.
NAMES = r'(?!.*__)[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*'

# For a recorder that DDS discovers late: up to 3 s of over 1,000 answers a second.
ACTIONS_KEPT = 4000

# Publishers, recorders and trainers are reliable and deep enough to lose no step.
SENSOR = QoS(depth=1000)
LATCHED = QoS(depth=1, transient_local=True)
# Between simulator and agent at most one observation is in flight, plus its repeats, and a lost one is repeated.
# Best effort saves the acknowledgements, a third of the round trip.
LOCKSTEP_SUBSCRIBER = QoS(depth=10, reliable=False)
# For slow readers, which should see no queue.
LATEST = QoS(depth=1, reliable=False)
RECORDER_SUBSCRIBER = QoS(depth=1000)
RECORDER_ACTION_SUBSCRIBER = QoS(depth=ACTIONS_KEPT, transient_local=True)
TRAINER_SUBSCRIBER = QoS(depth=1000)


@dataclasses.dataclass(frozen=True)
class Topic:
    """One row of the table: `qos` is the publisher's."""

    name: str
    type: str
    qos: QoS

    def within(self, namespace: str) -> Topic:
        """The same topic by its full name in a namespace: `/sim0` + `step` = `/sim0/step`."""
        if self.name.startswith('/'):
            return self
        return dataclasses.replace(self, name=f'/{namespace.strip("/")}/{self.name}'.replace('//', '/'))

    def below(self, namespace: str) -> Topic:
        """The same topic of a robot in a namespace below that of the node: `sim0` + `step` = `sim0/step`."""
        return dataclasses.replace(self, name=f'{namespace.strip("/")}/{self.name}')


IMAGE = Topic('camera/image_raw', 'sensor_msgs/msg/Image', SENSOR)
CAMERA_INFO = Topic('camera/camera_info', 'sensor_msgs/msg/CameraInfo', SENSOR)
JOINT_STATES = Topic('joint_states', 'sensor_msgs/msg/JointState', SENSOR)
STEP = Topic('step', 'sensor_msgs/msg/JointState', SENSOR)
ACTION = Topic('action', 'sensor_msgs/msg/Joy', QoS(depth=ACTIONS_KEPT, transient_local=True))
SPEC = Topic('spec', 'std_msgs/msg/String', LATCHED)
# Below this name the agent of a robot publishes what it saw at each step, as its policy got it: `observed_images`, and
# the numbers by their names.
OBSERVATION = 'observation'
OBSERVED_VECTOR = Topic(f'{OBSERVATION}/vector', 'sensor_msgs/msg/JointState', SENSOR)
# JSON from a simulator at each reset, with all that is needed to simulate the new episode again.
SIMULATION = Topic('simulation', 'std_msgs/msg/String', QoS(depth=10, transient_local=True))
CLOCK = Topic('/clock', 'rosgraph_msgs/msg/Clock', QoS(depth=10))
PACE = Topic('pace', 'builtin_interfaces/msg/Time', LATCHED)
POLICY = Topic('policy', 'std_msgs/msg/String', LATCHED)
DREAM = Topic('dream', 'sensor_msgs/msg/Image', QoS(depth=10))
DIAGNOSTICS = Topic('/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray', QoS(depth=10))


def images(cameras: Sequence[str]) -> tuple[Topic, ...]:
    """Images of a RobotSpec's cameras: `IMAGE` for the first, `<camera>/image_raw` for each further one."""
    return _of_cameras(IMAGE, cameras)


def camera_infos(cameras: Sequence[str]) -> tuple[Topic, ...]:
    """The same of `CAMERA_INFO`."""
    return _of_cameras(CAMERA_INFO, cameras)


def observed_images(cameras: Sequence[str]) -> tuple[Topic, ...]:
    """The images that the agent of a robot saw, of all cameras of its RobotSpec."""
    return tuple(dataclasses.replace(IMAGE, name=f'{OBSERVATION}/{camera}/image') for camera in cameras)


def optical_frame(camera: str, namespace: str) -> str:
    """TF frame of a camera's images, with x to the right, y down and z ahead (REP 103), among those of its robot."""
    return f'{namespace}/{camera}_optical_frame'.strip('/')


def _of_cameras(topic: Topic, cameras: Sequence[str]) -> tuple[Topic, ...]:
    _, _, leaf = topic.name.partition('/')
    further = (dataclasses.replace(topic, name=f'{camera}/{leaf}') for camera in cameras[1:])
    return (topic, *further) if cameras else ()


def per_step(cameras: Sequence[str]) -> tuple[Topic, ...]:
    """The topics of an episode bag: one message on each per step, all with the observation's stamp."""
    return (*images(cameras), *camera_infos(cameras), JOINT_STATES, STEP, ACTION)


PER_STEP = per_step(('camera',))
