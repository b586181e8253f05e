from __future__ import annotations

import functools
import threading
import time

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from dreamer_ros.errors import InputError
from dreamer_ros.ros import keyboard


def test_each_key_calls_a_service_of_the_agent(ros_domain):
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    node, executor = Node('agent', namespace='/rover', context=context), SingleThreadedExecutor(context=context)
    asked, said = [], []

    def answer(name, request, response):
        asked.append((name, getattr(request, 'data', None)))
        response.success, response.message = name != 'fail', '' if name != 'fail' else 'expected a running episode'
        return response

    for name, kind in {name: kind for name, _, kind in keyboard.KEYS.values()}.items():
        made = {'Trigger': Trigger, 'SetBool': SetBool}[kind]
        node.create_service(made, f'~/{name}', functools.partial(answer, name))
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()

    def keys():
        for count, key in enumerate('sf r g', start=1):
            yield key
            end = time.monotonic() + 20
            while len(said) <= count and time.monotonic() < end:
                time.sleep(0.01)
        yield 'x'
        yield 'q'
        raise AssertionError('q ends it')

    try:
        keyboard.press('/rover/agent', keys(), said.append)
    finally:
        executor.shutdown()
        thread.join()
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert asked == [
        ('succeed', None),
        ('fail', None),
        ('enable', False),
        ('ready', None),
        ('enable', False),
        ('enable', True),
    ]
    assert said == [
        keyboard.HELP,
        'succeed: done',
        'fail: expected a running episode',
        'enable: done',
        'ready: done',
        'enable: done',
        'enable: done',
    ]


def test_nobody_is_there(ros_domain, monkeypatch):
    monkeypatch.setattr(keyboard, 'DISCOVERY_TIME', 0.2)
    with pytest.raises(InputError, match='agent /nowhere: expected a robot agent that is running'):
        keyboard.press('/nowhere', 'q', print)
