"""Node processes, and a node in the test's own process that plays the other side of the topics."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Joy

from dreamer_ros.ros import qos
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.codecs import Mode, Step

NAMESPACE = '/sim0'
PATIENCE = 60.0  # seconds; only a failing test waits that long


class NodeProcess:
    """One node as `dreamer launch` starts it; stdout and stderr go to `log`."""

    def __init__(self, executable: str, log: Path, preexec=None, remap=None, **parameters):
        command = [sys.executable, '-m', f'dreamer_ros.nodes.{executable}', '--ros-args']
        for source, target in {'__ns': NAMESPACE, **(remap or {})}.items():
            command += ['-r', f'{source}:={target}']
        for name, value in parameters.items():
            command += ['-p', f'{name}:={value}']
        self.log = log
        with log.open('w') as stream:
            self._process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, preexec_fn=preexec)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def output(self) -> str:
        return self.log.read_text()

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        return self._process.wait(timeout)

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it and return its exit code."""
        if self._process.poll() is None:
            self.send(number)
        return self.wait()


@pytest.fixture
def start(ros_domain, tmp_path):
    """start('simulator', seed=3) runs a node; all are ended after the test."""
    started: list[NodeProcess] = []

    def start(executable: str, preexec=None, remap=None, **parameters) -> NodeProcess:
        log = tmp_path / f'{len(started)}-{executable}.log'
        started.append(NodeProcess(executable, log, preexec, remap, **parameters))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.stop()
            continue
        process.stop(signal.SIGKILL)
    for process in started:  # pytest shows it if the test failed
        print(f'--- {process.log.name}\n{process.output}')


class Peer:
    """Listens to a simulator and may answer it: agent, trainer and rogue of the tests."""

    def __init__(self, node: Node, executor: SingleThreadedExecutor):
        self.node, self._executor = node, executor
        self.steps: list[Step] = []  # with repeats, as they came
        self.clock: list[int] = []
        self._actions = qos.publisher(node, topics.ACTION)
        self._paces = qos.publisher(node, topics.PACE)
        self._subscriptions = [
            self.listen(topics.CLOCK, lambda message: self.clock.append(codecs.stamp_to_ns(message.clock))),
            # Last: a simulator that waits for this one knows the others too.
            self.listen(topics.STEP, lambda message: self.steps.append(codecs.read_step(message))),
        ]

    def listen(self, topic, callback):
        return self.node.create_subscription(
            qos.message_type(topic),
            topic.name,
            callback,
            qos.profile(topics.LATCHED if topic.qos is topics.LATCHED else topics.RECORDER_SUBSCRIBER),
        )

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def quiet(self, seconds: float) -> bool:
        """Spin so long; whether no step came."""
        count = len(self.steps)
        self.spin(seconds)
        return len(self.steps) == count

    def spin_until(self, condition: Callable[[], object], timeout: float):
        """Spin until the condition is true or the time is over; its value."""
        end = time.monotonic() + timeout
        while not (value := condition()) and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)
        return value

    def until(self, condition: Callable[[], object], what: str, timeout: float = PATIENCE):
        """Spin until the condition is true; its value."""
        value = self.spin_until(condition, timeout)
        if not value:
            pytest.fail(f'{what} did not happen within {timeout} s')
        return value

    def answer(self, stamp: int, axes=(0.0,)) -> None:
        message = Joy()
        codecs.fill_action(message, np.array(axes), stamp, Mode('random'))
        self._actions.publish(message)

    def allow(self, stamp: int) -> None:
        message = Time()
        codecs.fill_stamp(message, stamp)
        self._paces.publish(message)

    def next_step(self, after: Step = None) -> Step:
        """The newest step, once it is another than `after`."""
        return self.until(
            lambda: self.steps[-1] if self.steps and (after is None or self.steps[-1].stamp != after.stamp) else None,
            'the next step',
        )

    def play(self, step: Step, count: int) -> Step:
        """Answer `count` observations; returns the last one that came."""
        for _ in range(count):
            before = step
            for _ in range(20):  # again when asked again: best effort may lose an answer
                self.answer(before.stamp)
                if self.spin_until(lambda: self.steps[-1].stamp != before.stamp, 1.0):
                    break
            step = self.next_step(before)
        return step

    def call(self, service_type, name: str, request, timeout: float = PATIENCE):
        client = self.node.create_client(service_type, f'{NAMESPACE}/simulator/{name}')
        assert client.wait_for_service(PATIENCE)
        future = client.call_async(request)
        self._executor.spin_until_future_complete(future, timeout_sec=timeout)
        assert future.done(), f'{name}: no answer within {timeout} s'
        return future.result()


@pytest.fixture
def peer(ros_domain):
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    node = Node('peer', namespace=NAMESPACE, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    yield Peer(node, executor)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)
