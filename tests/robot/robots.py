"""Contracts and messages for tests."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import yaml

from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.wire.codecs import fill_stamp
from dreamer_ros.wire.definitions import blank_message

# An arm with two joints: every kind of input, a reward of two numbers.
ARM = {
    'name': 'arm',
    'rate': 10,
    'max_age': 0.5,
    'image_size': [16, 24],
    'cameras': {
        'wrist': {
            'topic': 'wrist/image_raw',
            'type': 'sensor_msgs/msg/Image',
            'crop': {'x': 4, 'y': 2, 'width': 48, 'height': 32},
        },
        'room': {'topic': '/room/compressed', 'type': 'sensor_msgs/msg/CompressedImage', 'max_age': 1.0},
    },
    'vector': [
        {
            'name': 'shoulder',
            'topic': 'joint_states',
            'type': 'sensor_msgs/msg/JointState',
            'field': 'position[shoulder]',
        },
        {
            'name': 'elbow',
            'topic': 'joint_states',
            'type': 'sensor_msgs/msg/JointState',
            'field': 'velocity[elbow]',
            'scale': 2,
            'offset': 1,
            'clip': [-5, 5],
        },
        {'name': 'x', 'topic': 'odom', 'type': 'nav_msgs/msg/Odometry', 'field': 'pose.pose.position.x'},
        {'name': 'turn', 'topic': 'imu', 'type': 'sensor_msgs/msg/Imu', 'field': 'angular_velocity.z'},
        {'name': 'spread', 'topic': 'odom', 'type': 'nav_msgs/msg/Odometry', 'field': 'pose.covariance[35]'},
    ],
    'command': {
        'topic': 'command',
        'type': 'std_msgs/msg/Float64MultiArray',
        'axes': [
            {
                'name': 'shoulder',
                'field': 'data[0]',
                'limits': [-1.5, 2.5],
                'rate_limit': 4,
                'unit': 'rad',
                'feedback': {
                    'topic': 'joint_states',
                    'type': 'sensor_msgs/msg/JointState',
                    'field': 'position[shoulder]',
                },
            },
            {
                'name': 'elbow',
                'field': 'data[1]',
                'limits': [0, 2],
                'rate_limit': 1,
                'feedback': {'topic': 'joint_states', 'type': 'sensor_msgs/msg/JointState', 'field': 'position[elbow]'},
            },
        ],
        'stop': 'hold',
    },
    'reward': {
        'fields': {
            'distance': {'topic': 'distance', 'type': 'std_msgs/msg/Float64', 'field': 'data'},
            'turn': {'topic': 'imu', 'type': 'sensor_msgs/msg/Imu', 'field': 'angular_velocity.z'},
            'bumper': {'topic': 'bumper', 'type': 'std_msgs/msg/Bool', 'field': 'data', 'default': 0},
        },
        'expression': 'exp(-distance) - 0.1 * abs(turn) - 5 * bumper',
    },
    'terminal': {'topic': 'bumper', 'type': 'std_msgs/msg/Bool', 'field': 'data', 'default': 0},
    'episode_length': 100,
}


def contract(base: dict = ARM, **changes: Any) -> RobotContract:
    """A contract with some keys changed: `command__stop='zero'`; None takes a key away."""
    content = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, key = [int(part) if part.isdecimal() else part for part in path.split('__')]
        place = content
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[key]
        else:
            place[key] = value
    return RobotContract.from_text(yaml.safe_dump(content, sort_keys=False), 'robot.yaml')


def message(type_name: str, stamp: int = 0, **fields: Any) -> Any:
    """A message as a bag gives it: `message('nav_msgs/msg/Odometry', 5, pose__pose__position__x=1.0)`."""
    made = blank_message(type_name)
    if hasattr(made, 'header'):
        fill_stamp(made.header.stamp, stamp)
    for path, value in fields.items():
        *parents, attribute = path.split('__')
        place = made
        for parent in parents:
            place = getattr(place, parent)
        setattr(
            place, attribute, np.array(value) if isinstance(value, list) and not isinstance(value[0], str) else value
        )
    return made


def joint_state(stamp: int, **joints: tuple) -> Any:
    """A JointState of `name=(position, velocity)`."""
    return message(
        'sensor_msgs/msg/JointState',
        stamp,
        name=list(joints),
        position=[position for position, _ in joints.values()],
        velocity=[velocity for _, velocity in joints.values()],
    )


def image(stamp: int, pixels: np.ndarray, encoding: str = 'rgb8') -> Any:
    """A raw image u8[H, W, C] or u16[H, W]."""
    height, width = pixels.shape[:2]
    return message(
        'sensor_msgs/msg/Image',
        stamp,
        height=height,
        width=width,
        encoding=encoding,
        step=pixels.nbytes // height,
        data=pixels.reshape(-1).view(np.uint8),
    )
