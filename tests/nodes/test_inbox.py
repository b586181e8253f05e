"""Polled subscriptions by rclpy's private interface, and by its public one where that is missing."""

from __future__ import annotations

import threading
import time

import pytest
import rclpy
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState, Joy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from dreamer_ros.errors import InputError
from dreamer_ros.ros import inbox as inbox_module
from dreamer_ros.ros import qos
from dreamer_ros.ros.inbox import Inbox, PolledSubscription, parse
from dreamer_ros.wire.topics import LATEST, QoS, Topic

FLAGS = Topic('flags', 'std_msgs/msg/Bool', QoS(depth=5))


@pytest.fixture(params=[True, False], ids=['private', 'public'])
def nodes(request, ros_domain, monkeypatch):
    """Two nodes, of which the second one polls."""
    assert inbox_module.PRIVATE, 'else only one way is tried'
    monkeypatch.setattr(inbox_module, 'PRIVATE', request.param)
    context = rclpy.Context()
    # The hidden node of the public way must know the remappings of the process, too.
    rclpy.init(args=['--ros-args', '-r', 'old:=flags'], context=context, domain_id=ros_domain)
    made = [Node(name, namespace='/here', context=context) for name in ('speaker', 'listener')]
    yield made
    for node in made:
        node.destroy_node()
    rclpy.shutdown(context=context)


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_messages_come_in_order_and_old_ones_go(nodes):
    speaker, listener = nodes
    publisher = qos.publisher(speaker, FLAGS)
    every = PolledSubscription(listener, Topic('old', FLAGS.type, FLAGS.qos), FLAGS.qos)
    latest = PolledSubscription(listener, FLAGS, LATEST, raw=True)
    assert every.topic_name == latest.topic_name == '/here/flags' and every.take() is None
    wait_for(lambda: publisher.get_subscription_count() == 2)
    began = time.time_ns()
    for flag in (True, False, False, True):
        publisher.publish(Bool(data=flag))
    time.sleep(0.3)
    taken = [every.take_with_info() for _ in range(4)]
    assert [message.data for message, _ in taken] == [True, False, False, True] and every.take() is None
    for _, info in taken:
        assert began <= info['source_timestamp'] <= info['received_timestamp'] <= time.time_ns()
    assert latest.take()[4] == 1 and latest.take() is None, 'the CDR bytes of the newest alone'
    publisher.publish(Bool(data=False))
    publisher.publish(Bool(data=True))
    time.sleep(0.3)
    assert every.take_latest().data and every.take_latest() is None
    every.close()
    latest.close()
    wait_for(lambda: publisher.get_subscription_count() == 0)


def test_an_inbox_wakes_up_and_serves(nodes):
    speaker, listener = nodes
    publisher, inbox = qos.publisher(speaker, FLAGS), Inbox(listener)
    flags = inbox.subscribe(FLAGS, FLAGS.qos)
    silent = inbox.subscribe(Topic('silent', FLAGS.type, FLAGS.qos), FLAGS.qos)
    served = []

    def serve(request, response):
        served.append(request)
        return response

    listener.create_service(Trigger, 'serve', serve)
    wait_for(lambda: publisher.get_subscription_count() == 1)
    threading.Timer(0.2, lambda: publisher.publish(Bool(data=True))).start()
    began = time.monotonic()
    while (message := flags.take()) is None:
        inbox.wait(5.0, flags)
        assert time.monotonic() < began + 10
    assert message.data and silent.take() is None
    client = speaker.create_client(Trigger, 'serve')
    assert client.wait_for_service(20)
    client.call_async(Trigger.Request())
    wait_for(lambda: inbox.wait(0.1) or served)


@pytest.mark.parametrize('kind', [Image, JointState, Joy])
def test_bytes_that_are_no_message_are_one_sentence(kind, rng):
    whole = serialize_message(kind())
    refused = 0
    for _ in range(300):
        data = bytearray(whole[: rng.integers(len(whole) + 1)] + rng.bytes(int(rng.integers(20))))
        data[int(rng.integers(len(data) + 1)) :] = rng.bytes(int(rng.integers(40)))
        try:
            assert isinstance(parse(bytes(data), kind), kind)
        except InputError as error:
            assert str(error).startswith(f'expected a {kind.__name__}, got ')
            refused += 1
    assert refused
