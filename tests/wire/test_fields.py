from __future__ import annotations

import pytest
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from dreamer_ros.errors import InputError
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.fields import Field


def messages():
    odometry = Odometry()
    odometry.pose.pose.position.x = 1.5
    odometry.pose.covariance[35] = 0.25
    joints = JointState(name=['left.wheel', 'right wheel'], position=[0.5, -2.0], velocity=[3.0])
    trajectory = JointTrajectory(joint_names=['b', 'a'], points=[JointTrajectoryPoint(positions=[7.0, 8.0])])
    twist = Twist()
    twist.angular.z = -0.75
    return [
        (odometry, 'pose.pose.position.x', 1.5),
        (odometry, 'pose.covariance[35]', 0.25),
        (odometry, 'header.stamp.sec', 0.0),
        (joints, 'position[right wheel]', -2.0),
        (joints, 'position[1]', -2.0),
        (joints, 'velocity[left.wheel]', 3.0),
        (trajectory, 'points[0].positions[a]', 8.0),
        (twist, 'angular.z', -0.75),
        (Float64MultiArray(data=[1.0, 2.0]), 'data[1]', 2.0),
        (Bool(data=True), 'data', 1.0),
    ]


@pytest.mark.parametrize('message, path, value', messages())
def test_live_and_decoded_messages_give_the_same_number(message, path, value):
    name = f'{type(message).__module__.split(".")[0]}/msg/{type(message).__name__}'
    field = Field.parse(path, name)
    for each in (message, decode(serialize_message(message), name)):
        assert field.read(each) == value
        assert type(field.read(each)) is float


@pytest.mark.parametrize(
    'path, type_name, reason',
    [
        ('', 'nav_msgs/msg/Odometry', 'expected the path of a number'),
        ('pose..x', 'nav_msgs/msg/Odometry', 'expected the path of a number'),
        ('pose.', 'nav_msgs/msg/Odometry', 'expected the path of a number'),
        ('position[a]b', 'sensor_msgs/msg/JointState', 'expected the path of a number'),
        ('pose.position', 'nav_msgs/msg/Odometry', r'expected a field of .*PoseWithCovariance \(pose, covariance\)'),
        ('pose.pose', 'nav_msgs/msg/Odometry', 'expected a number, got geometry_msgs/msg/Pose'),
        ('header.frame_id', 'nav_msgs/msg/Odometry', 'expected a number, got string'),
        ('header.stamp.sec.low', 'nav_msgs/msg/Odometry', "no field of a plain value, got 'low'"),
        ('pose.covariance', 'nav_msgs/msg/Odometry', 'expected an element of a list'),
        ('pose.covariance[36]', 'nav_msgs/msg/Odometry', 'expected an element below 36'),
        ('pose[0].pose', 'nav_msgs/msg/Odometry', 'expected no list'),
        ('data[left]', 'std_msgs/msg/Float64MultiArray', 'names no joints'),
        ('data', 'my_msgs/msg/Unknown', 'my_msgs/msg/Unknown: expected a type'),
    ],
)
def test_paths_that_are_refused(path, type_name, reason):
    with pytest.raises(InputError, match=reason):
        Field.parse(path, type_name)


def test_messages_that_lack_the_element():
    field = Field.parse('position[elbow]', 'sensor_msgs/msg/JointState')
    with pytest.raises(InputError, match='expected elbow among the names, got shoulder'):
        field.read(JointState(name=['shoulder'], position=[1.0]))
    with pytest.raises(InputError, match='expected more than 0 elements, got 0'):
        field.read(JointState(name=['elbow']))
    with pytest.raises(InputError, match='expected more than 3 elements, got 1'):
        Field.parse('data[3]', 'std_msgs/msg/Float64MultiArray').read(Float64MultiArray(data=[1.0]))
