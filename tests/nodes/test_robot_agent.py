"""The robot agent on a robot of topics: its life, its policies, what it records, and what stops the robot."""

from __future__ import annotations

import fcntl
import functools
import http.server
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, JointState, Joy
from std_msgs.msg import Bool, Header, String
from std_srvs.srv import Trigger

from dreamer_ros.deploy import stops
from dreamer_ros.deploy.stops import LISTENING, STOPS, EmergencyStop
from dreamer_ros.errors import InputError
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.robot.sensing import Sensing
from dreamer_ros.ros import qos
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.images import decode_image
from tests.nodes.faults import CLOCK, CORRUPT, ENDS_THE_AGENT, FAULTS, STRANGER, inject, scene
from tests.nodes.robot import write_contract, write_policy

RATE = 10.0
# Periods until the stop; the suite also runs on machines that are busy with other things. bench_faults is strict.
PATIENCE = 6.0


@pytest.fixture
def robot(ros_domain, tmp_path):
    with scene(tmp_path, ros_domain, RATE) as made:
        yield made


def inject_and_check(robot, kinds):
    outcomes = [inject(robot, kind) for kind in kinds]
    print(outcomes)
    assert all(outcome.periods is not None and outcome.periods < PATIENCE for outcome in outcomes), outcomes


@pytest.mark.races_clock('every stop has to come within six periods of 0.1 s')
def test_what_stops_the_robot_while_the_agent_lives_on(robot):
    inject_and_check(robot, [kind for kind in FAULTS if kind not in ENDS_THE_AGENT])
    robot.ready()
    for sentence in (
        'stopped: /robot/camera/image_raw: 0.',
        '32FC1 holds distances',
        'expected a finite value, got nan',
        'limit reach: position[wheel] 20, expected at most 10',
        'is not finite',
        'no command within',
        'the executor is stuck',
        'emergency stop on /robot/estop',
    ):
        assert sentence in robot.log.read_text(), sentence
    robot.agent.send_signal(signal.SIGINT)
    assert robot.agent.wait(30) == 0
    assert robot.ears.silent(0.3) and robot.ears.commands[-1].is_stop
    assert 'stopped the robot and fell silent after' in robot.log.read_text()


@pytest.mark.races_clock('the stop has to come within six periods of 0.2 s')
def test_a_paused_clock_stops_the_robot(ros_domain, tmp_path):
    with scene(tmp_path, ros_domain, RATE / 2, clock=True) as robot:
        inject_and_check(robot, [CLOCK])


def test_a_slow_simulator(ros_domain, tmp_path):
    """Steps are a simulated period apart, and nothing is too old; the kind of time cannot be changed on the way."""
    with scene(tmp_path, ros_domain, RATE / 2, clock=True) as robot:
        robot.ready()
        value = ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=False)
        request = SetParameters.Request(parameters=[Parameter(name='use_sim_time', value=value)])
        [result] = robot.ears.call(SetParameters, 'set_parameters', request).results
        assert not result.successful and 'read-only' in result.reason
        robot.camera.tell('clock_slow')
        said, begun, count = len(robot.log.read_text()), time.monotonic(), len(robot.ears.steps)
        wait_for(lambda: len(robot.ears.steps) > count + 8)
        assert time.monotonic() - begun > 6 * 3 * robot.period / 1e9, 'at a third of the pace'
        stamps = [stamp for stamp, _ in robot.ears.steps[count:]]
        assert np.median(np.diff(stamps)) == pytest.approx(robot.period, rel=0.2)
        assert 'clocks of robot and agent differ' not in robot.log.read_text()[said:]


@pytest.mark.races_clock('the stop has to come within six periods of 0.1 s')
@pytest.mark.parametrize('kind', ['SIGTERM', 'agent killed (SIGKILL)'])
def test_a_robot_whose_agent_ends_is_stopped(robot, kind):
    robot.ready()
    began = FAULTS[kind](robot)
    stop = robot.ears.first_stop(began)
    assert stop is not None and stop.received - began < PATIENCE * robot.period
    code = robot.agent.wait(30)
    assert code == (0 if kind == 'SIGTERM' else -signal.SIGKILL)
    time.sleep(1.0)  # the guard's last stops
    assert robot.ears.silent(0.5) and robot.ears.commands[-1].is_stop


@pytest.mark.races_clock('the stop has to come within six periods of 0.1 s')
def test_a_robot_is_stopped_when_the_launcher_of_its_agent_is_killed(ros_domain, tmp_path):
    """As by `kill -KILL` of `ros2 launch`, which then asks nobody to end."""
    with scene(tmp_path, ros_domain, RATE) as robot:
        robot.restart(launched=True)
        robot.ready()
        pid = int(re.search(r'agent process (\d+)', robot.log.read_text()).group(1))
        began = time.time_ns()
        robot.agent.kill()
        stop = robot.ears.first_stop(began)
        assert stop is not None and stop.received - began < PATIENCE * robot.period
        wait_for(lambda: not os.path.exists(f'/proc/{pid}'))
        assert robot.ears.silent(0.3) and robot.ears.commands[-1].is_stop
        assert 'stopped the robot and fell silent' in robot.log.read_text()


def test_a_guard_that_fails_stops_the_robot(robot):
    """Without it a dying agent would leave the robot moving."""
    robot.ready()
    pid = robot.agent.pid
    [guard] = [int(child) for child in open(f'/proc/{pid}/task/{pid}/children').read().split()]
    os.kill(guard, signal.SIGSTOP)
    wait_for(lambda: 'stopped: the guard process does not answer' in robot.log.read_text())
    assert robot.ears.first_stop(time.time_ns() - 10**9)
    os.kill(guard, signal.SIGCONT)
    robot.ready()
    os.kill(guard, signal.SIGKILL)
    wait_for(lambda: 'stopped: the guard process ended: restart the agent' in robot.log.read_text())
    time.sleep(1.0)
    assert robot.agent.poll() is None and all(command.is_stop for command in robot.ears.commands[-5:])


def test_a_step_that_hangs_does_not_come_back_beside_the_next(ros_domain, tmp_path):
    """Two control loops would command one robot."""
    with scene(tmp_path, ros_domain, RATE, autostart=False) as robot:

        def change(transition):
            request = ChangeState.Request(transition=Transition(id=transition))
            return robot.ears.call(ChangeState, 'change_state', request).success

        assert change(Transition.TRANSITION_CONFIGURE) and change(Transition.TRANSITION_ACTIVATE)
        robot.ready()
        assert robot.ears.ask_for('inference 6')
        assert change(Transition.TRANSITION_DEACTIVATE)
        assert not change(Transition.TRANSITION_ACTIVATE)
        assert 'expected the last step of the control loop to be over' in robot.log.read_text()
        wait_for(lambda: change(Transition.TRANSITION_ACTIVATE))
        robot.ready()


def test_a_policy_that_cannot_be_had_yet_is_had_later(robot):
    """The trainer's server may come later than its word."""
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    robot.restart(from_topic=True)
    robot.offer(robot.manifests[2].at(f'http://127.0.0.1:{port}/policy_2.onnx'))
    wait_for(lambda: 'its server does not answer' in robot.log.read_text())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(robot.folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            robot.ready()
        finally:
            server.shutdown()
    assert modes(robot.ears) == {'policy/2/evaluate'}


def test_policies_of_a_trainer(robot):
    """Those of its key play, swapped between two steps; others are refused; a rollback brings the one before."""
    for kind in (CORRUPT, STRANGER):
        assert inject(robot, kind).periods == 0.0
    ears, manifests = robot.ears, robot.manifests
    assert modes(ears) == {'policy/1/evaluate'}
    robot.offer(manifests[2])
    wait_for(lambda: 'policy version 2' in robot.log.read_text())
    robot.ready()
    assert modes(ears) == {'policy/2/evaluate'}
    assert ears.call(Trigger, 'rollback', Trigger.Request()).message == 'policy version 1'
    assert modes(ears) == {'policy/1/evaluate'}
    assert 'keeping version 1' in robot.log.read_text()


def test_life(ros_domain, tmp_path):
    """By the services of its lifecycle; nothing is commanded unless it is active."""
    with scene(tmp_path, ros_domain, RATE, autostart=False) as robot:
        ears = robot.ears

        def change(transition):
            request = ChangeState.Request(transition=Transition(id=transition))
            return ears.call(ChangeState, 'change_state', request).success

        def state():
            return ears.call(GetState, 'get_state', GetState.Request()).current_state.id

        assert state() == State.PRIMARY_STATE_UNCONFIGURED
        assert change(Transition.TRANSITION_CONFIGURE) and ears.silent(0.3)
        ears.press(True)
        assert change(Transition.TRANSITION_ACTIVATE)
        wait_for(lambda: len(ears.commands) > 4)
        assert all(command.is_stop for command in ears.commands), 'the emergency stop came before'
        ears.press(False)
        time.sleep(0.2)
        assert all(command.is_stop for command in ears.commands), 'releasing it starts nothing'
        ears.enable()
        robot.ready()
        ears.enable(False)
        assert ears.first_stop(time.time_ns() - 10**9)
        ears.enable()
        robot.ready()
        assert change(Transition.TRANSITION_DEACTIVATE)
        assert ears.silent(0.3) and ears.commands[-1].is_stop
        assert change(Transition.TRANSITION_ACTIVATE)
        robot.ready()
        assert change(Transition.TRANSITION_DEACTIVATE) and change(Transition.TRANSITION_CLEANUP)
        (tmp_path / 'robot.yaml').write_text('name: 3')
        assert not change(Transition.TRANSITION_CONFIGURE)
        assert f'{tmp_path}/robot.yaml: ' in robot.log.read_text()
        assert state() == State.PRIMARY_STATE_UNCONFIGURED
        assert change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
        assert robot.agent.wait(30) == 0


def test_an_emergency_stop_of_before_is_listened_for(ros_domain):
    """A latched one may be discovered after the camera; until then nothing moves."""
    contexts = [rclpy.Context() for _ in range(2)]
    for context in contexts:
        rclpy.init(context=context, domain_id=ros_domain)
    nodes = [Node(name, context=context) for name, context in zip(('panel', 'agent'), contexts)]
    nodes[0].create_publisher(Bool, 'estop', qos.profile(topics.LATCHED)).publish(Bool(data=True))
    began = time.monotonic()
    stop = EmergencyStop(nodes[1], 'estop')
    assert stop.listening(began + 0.9) == 'listening for an emergency stop on /estop'
    assert stop.listening(time.monotonic() + LISTENING) == ''
    wait_for(stop.pressed)
    stop.close()
    for node, context in zip(nodes, contexts):
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_clock_that_is_set_back_stops_the_robot_for_a_moment(ros_domain, tmp_path):
    with scene(tmp_path, ros_domain, RATE, clock=True) as robot:
        robot.ready()
        count, began, said = len(robot.ears.steps), time.monotonic(), len(robot.log.read_text())
        robot.camera.tell('clock_back')
        # To the nearest tick of /clock. An image with the new time may come before the new time: then it is too old.
        sentence = r'stopped: (the clock was set back by (59\.9|60\.\d)\d+ s|/robot/\S+: \d+\.\d+ s old)'
        wait_for(lambda: re.search(sentence, robot.log.read_text()[said:]))
        wait_for(lambda: robot.ears.steps[-1][0] < robot.ears.steps[count - 1][0])
        robot.ready()
        assert time.monotonic() - began < 20, 'and not when the clock is where it was'
        later = [stamp for stamp, _ in robot.ears.steps[count:]]
        assert min(np.diff(later)) < -59e9 and (np.diff(later) < 0).sum() == 1, 'episodes of before and after'
        assert max(age for _, age in robot.ears.steps[-5:]) < 1e9


def test_nothing_is_commanded_into_the_void(robot, ros_domain):
    """Who does not listen, or to something else, is named; a robot that goes is missed."""
    ears = robot.ears
    robot.ready()
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    node = Node('driver', namespace='/robot', context=context)
    try:
        node.create_subscription(TwistStamped, 'cmd_vel', lambda message: None, 10)
        levels = []
        ears.node.create_subscription(
            DiagnosticArray, '/diagnostics', lambda message: levels.append(message.status[0]), QoSProfile(depth=10)
        )
        ears.leave()
        sentence = (
            '/robot/cmd_vel has a subscriber of geometry_msgs/msg/TwistStamped (/robot/driver), '
            f'{robot.contract.source} says geometry_msgs/msg/Twist'
        )
        wait_for(lambda: 'stopped: /robot/cmd_vel' in robot.log.read_text())
        wait_for(lambda: f'{sentence}; the robot is not commanded until somebody listens' in robot.log.read_text())
        wait_for(
            lambda: ears.spin(0.1) or any(s.level == DiagnosticStatus.WARN and sentence in s.message for s in levels)
        )
        ears.join()
        robot.ready()
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.races_clock('a limit has to act within six periods of 0.1 s')
def test_a_robot_is_kept_within_the_limits_of_its_state(robot):
    """Beyond a limit an axis only leads back; the log and /diagnostics name the limit."""
    ears = robot.ears
    robot.ready()
    levels, blocked = [], []
    ears.node.create_subscription(
        DiagnosticArray, '/diagnostics', lambda message: levels.append(message.status[0]), QoSProfile(depth=10)
    )
    for position, sign in ((2, 1), (-2, -1)):
        since = robot.camera.tell(f'at {position}') + PATIENCE * robot.period
        wait_for(lambda since=since: sum(command.received > since for command in ears.commands) >= 10)
        speeds = [command.forward for command in list(ears.commands) if command.received > since]
        assert max(sign * speed for speed in speeds) <= 0, 'no further out'
        blocked.append(0.0 in speeds)
        bound = f'expected at {"most 1" if sign > 0 else "least -1"}'
        sentence = f'limit slide: position[wheel] {position}, {bound}'
        wait_for(
            lambda: ears.spin(0.1) or any(s.level == DiagnosticStatus.WARN and sentence in s.message for s in levels)
        )
        robot.camera.tell('sane')
        robot.ready()
    assert any(blocked), 'the policy wanted something else'
    assert 'limited: limit slide: position[wheel] 2, expected at most 1' in robot.log.read_text()


def test_every_stop_is_in_the_list():
    deploy = Path(stops.__file__).parent
    held = set()
    for path in deploy.glob('*.py'):
        held |= set(re.findall(r"\.hold\(\s*'(\w+)'", path.read_text()))
    checks = re.search(r'def _checks.*?return checks', (deploy / 'deployment.py').read_text(), re.S)[0]
    watched = re.findall(r"(?:^\s+|checks\[)'(\w+)'", checks, re.M)
    assert watched == [name for name in STOPS if name in watched], 'in the order of the list'
    assert held | set(watched) == set(STOPS)
    told = (deploy.parent.parent / 'docs' / 'robots.md').read_text()
    assert re.findall(r'^\| `(\w+)` \|', told, re.M) == list(STOPS)


def test_what_is_recorded_is_what_the_agent_saw(robot):
    """From the robot's own topics, `step` and `action` alone, the policy gives the same actions again.

    And its observations are those that the agent published.
    """
    heard = {'camera/image_raw': {}, 'joint_states': {}}
    seen = {'observation/camera/image': {}, 'observation/vector': {}}
    steps, actions, specs, beats = [], {}, [], []
    node, ears = robot.ears.node, robot.ears

    def keep(topic):
        return lambda message: (heard | seen)[topic].__setitem__(codecs.stamp_to_ns(message.header.stamp), message)

    many = QoSProfile(depth=1000)
    node.create_subscription(Image, 'camera/image_raw', keep('camera/image_raw'), many)
    node.create_subscription(JointState, 'joint_states', keep('joint_states'), many)
    node.create_subscription(Image, 'observation/camera/image', keep('observation/camera/image'), many)
    node.create_subscription(JointState, 'observation/vector', keep('observation/vector'), many)
    node.create_subscription(JointState, 'step', steps.append, many)
    node.create_subscription(
        Joy, 'action', lambda message: actions.__setitem__(codecs.stamp_to_ns(message.header.stamp), message), many
    )
    node.create_subscription(String, 'spec', specs.append, qos.profile(topics.LATCHED))
    node.create_subscription(Header, 'agent/heartbeat', beats.append, many)
    robot.ready()

    def length():
        """Of the newest episode, as far as this node listened from its beginning."""
        flags = [codecs.read_step(message) for message in steps]
        begun = max((number for number, step in enumerate(flags) if step.is_first), default=len(flags))
        return 0 if any(step.is_last for step in flags[begun:]) else len(flags) - begun

    wait_for(lambda: ears.spin(0.1) or specs and beats and steps and actions and all(heard.values()))
    assert ears.call(Trigger, 'end_episode', Trigger.Request()).success
    wait_for(lambda: ears.spin(0.1) or length() > 2 * RATE)
    assert ears.call(Trigger, 'end_episode', Trigger.Request()).success
    wait_for(lambda: ears.spin(0.1) or not length())
    ears.spin(0.5)
    assert RobotSpec.from_json(json.dumps({**json.loads(specs[0].data)}), 'spec').hash == robot.contract.spec.hash
    assert beats[-1].frame_id == 'commanding'

    sensing, runner = Sensing(robot.contract), PolicyRunner(robot.folder / 'policy_1.onnx')
    compared, begun = 0, False
    for message in steps:
        step, values = codecs.read_step(message), dict(zip(message.name, message.position))
        begun |= step.is_first
        begun &= step.stamp in actions
        if not begun:
            continue
        used = {topic: step.stamp - int(values[codecs.AGE_PREFIX + topic]) for topic in heard}
        if any(stamp not in heard[topic] for topic, stamp in used.items()):
            begun = False  # before this node listened
            continue
        for topic, stamp in used.items():
            sensing.receive(topic, heard[topic][stamp], stamp)
        sensed = sensing.observe(step.stamp)
        assert not sensed.problems
        image, vector = (messages[step.stamp] for messages in seen.values())
        np.testing.assert_array_equal(decode_image(image, topics.IMAGE.type), sensed.image)
        np.testing.assert_array_equal(codecs.read_vector(vector, robot.contract.spec.vector), sensed.vector)
        action = np.array(actions[step.stamp].axes)
        if step.is_last:
            assert not action.any()
            begun = False
            continue
        expected = runner.act(sensed.image, sensed.vector, step.is_first, explore=False)
        late = not action.any()  # such a tick was stopped, which is what was recorded, and what the policy goes on from
        assert late or np.abs(action - expected).max() < 1e-6
        runner.acted(action)
        compared += 1
    print('compared', compared, 'steps')
    assert compared > RATE
    played = [codecs.read_step(message) for message in steps]
    assert any(step.is_last for step in played) and all(np.diff([step.stamp for step in played]) > 0)


def test_refusals(ros_domain, tmp_path):
    contract = write_contract(tmp_path / 'robot.yaml')
    other = write_contract(tmp_path / 'other.yaml', rate=50.0)
    write_policy(tmp_path / 'other.onnx', other)

    def run(*parameters):
        command = [sys.executable, '-m', 'dreamer_ros.nodes.robot_agent', '--ros-args']
        for parameter in parameters:
            command += ['-p', parameter]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr.splitlines()[-1]

    assert run() == 'error: parameters of /agent: robot (a robot contract) is missing'
    assert run(f'robot:={contract.source}', f'policy:={tmp_path}/other.onnx') == (
        f'error: {contract.source}: rate: expected 50, as for tiny, got 20'
    )
    assert run(f'robot:={contract.source}') == (
        'error: expected a policy, the key of a trainer in DREAMER_ROS_KEY, or trust:=lan for the policies of anybody'
    )
    keyed = write_contract(tmp_path / 'keyed.yaml', rate=50.0, more=f"public_key: '{'ab' * 32}'")
    assert f'expected a signature by the key {"ab" * 32}, but it has no manifest' in run(
        f'robot:={keyed.source}', f'policy:={tmp_path}/other.onnx'
    )


def test_a_type_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tf2_msgs.msg', None)
    with pytest.raises(
        InputError, match='topic tf: expected the ROS package of tf2_msgs/msg/TFMessage to be installed'
    ):
        qos.message_type(topics.Topic('tf', 'tf2_msgs/msg/TFMessage', topics.SENSOR))


def test_a_second_agent_on_the_robot_is_refused(ros_domain, tmp_path):
    """For as long as the first one is configured, and no longer."""
    with scene(tmp_path, ros_domain, RATE) as robot:
        ears, first = robot.ears, robot.agent
        robot.ready()

        def second(topic='cmd_vel'):
            """Another agent, under another name."""
            command = [
                sys.executable,
                '-m',
                'dreamer_ros.nodes.robot_agent',
                '--ros-args',
                '-r',
                '__ns:=/robot',
                '-r',
                '__node:=second',
                '-p',
                f'robot:={tmp_path}/robot.yaml',
                '-r',
                f'cmd_vel:={topic}',
                '-p',
                f'policy:={tmp_path}/policy_1.onnx',
            ]
            return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

        def change(transition):
            request = ChangeState.Request(transition=Transition(id=transition))
            return ears.call(ChangeState, 'change_state', request).success

        def refused():
            agent = second()
            said = agent.communicate(timeout=60)[1].splitlines()
            return agent.returncode == 2 and said == [
                'error: topic /robot/cmd_vel: expected no other agent, but one of this computer commands the robot '
                'there; end or clean up that one first'
            ]

        with second('elsewhere') as agent:
            assert 'policy version 1' in agent.stderr.readline(), 'another topic is another robot'
            agent.terminate()
        assert refused()
        assert change(Transition.TRANSITION_DEACTIVATE)
        assert refused(), 'configured, the first one may be activated at any time'
        assert change(Transition.TRANSITION_CLEANUP)
        with second() as agent:
            assert 'policy version 1' in agent.stderr.readline()
            assert not change(Transition.TRANSITION_CONFIGURE)
            assert 'expected no other agent' in robot.log.read_text()
            agent.kill()
        assert change(Transition.TRANSITION_CONFIGURE), 'the dead hold nothing'
        assert change(Transition.TRANSITION_ACTIVATE)
        robot.ready()
        assert first.poll() is None


def test_others_that_command_the_robot_are_named(robot):
    """A teleoperator is no error, but nobody should have to guess why the robot moves; the guard is the agent's."""
    ears, reports = robot.ears, []
    ears.node.create_subscription(
        DiagnosticArray, '/diagnostics', lambda message: reports.append(message.status[0]), QoSProfile(depth=10)
    )
    robot.ready()
    wait_for(lambda: ears.spin(0.1) or reports and reports[-1].level == DiagnosticStatus.OK)
    sentence = '/robot/ears publishes /robot/cmd_vel too'
    publisher = ears.node.create_publisher(Twist, 'cmd_vel', 10)
    wait_for(lambda: ears.spin(0.1) or sentence in robot.log.read_text())
    wait_for(lambda: ears.spin(0.1) or reports[-1].message == '/robot/cmd_vel is published by /robot/ears too')
    assert reports[-1].level == DiagnosticStatus.WARN
    ears.spin(2.0)
    assert robot.log.read_text().count(sentence) == 1 and ears.moving()
    ears.node.destroy_publisher(publisher)
    wait_for(lambda: ears.spin(0.1) or reports[-1].level == DiagnosticStatus.OK)
    assert 'guard' not in robot.log.read_text()


def test_a_line_on_the_terminal_says_how_it_goes(ros_domain, tmp_path):
    """Drawn over again below what is logged; the wheel turns at 0.5, which is the reward of each step."""
    reward = "reward: {topic: joint_states, type: sensor_msgs/msg/JointState, field: 'velocity[wheel]'}"
    with scene(tmp_path, ros_domain, RATE, more=reward) as robot:
        robot.agent.kill()
        ours, theirs = _open_terminal(columns=200)
        agent = subprocess.Popen(
            [
                sys.executable,
                '-m',
                'dreamer_ros.nodes.robot_agent',
                '--ros-args',
                '-r',
                '__ns:=/robot',
                '-p',
                f'robot:={tmp_path}/robot.yaml',
                '-p',
                f'policy:={tmp_path}/policy_1.onnx',
            ],
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        try:
            text, lines = '', []
            while len(lines) < 3:
                text += os.read(ours, 1000).decode()
                lines = re.findall(
                    r'\r\x1b\[K(\S+) Hz, latency (\S+) ms \(p99 (\S+)\), input (\S+) ms old, policy 1, '
                    r'return (\S+), step (\d+) of episode \d+(?=\r)',
                    text,
                )
        finally:
            agent.terminate()
            for data in iter(lambda: _read(ours), b''):
                text += data.decode()
            os.close(ours)
            agent.wait(30)
            print(text)
    for rate, median, high, age, total, steps in lines:
        assert 0 < float(rate) < 2 * RATE and 0 < float(median) <= float(high) and 0 < float(age) <= float(high)
        assert float(total) == pytest.approx(0.5 * int(steps), abs=0.06)
    last = text.rpartition('stopped the robot')[0].rpartition('\n')[2]
    assert 'Hz' not in last.rpartition('\x1b[K')[2], 'the line is gone before another one is written'


def _read(terminal):
    try:
        return os.read(terminal, 1000)
    except OSError:  # its other side is closed
        return b''


def _open_terminal(columns):
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
    return ours, theirs


def test_without_a_robot(ros_domain, tmp_path):
    """It says once what it waits for, by the topic's full name."""
    contract = write_contract(tmp_path / 'robot.yaml')
    write_policy(tmp_path / 'policy.onnx', contract)
    command = [
        sys.executable,
        '-m',
        'dreamer_ros.nodes.robot_agent',
        '--ros-args',
        '-r',
        '__ns:=/rover',
        '-p',
        f'robot:={contract.source}',
        '-p',
        f'policy:={tmp_path}/policy.onnx',
    ]
    with (tmp_path / 'log').open('w') as log, subprocess.Popen(command, stdout=log, stderr=log) as agent:
        try:
            wait_for(lambda: 'waiting: ' in (tmp_path / 'log').read_text())
        finally:
            agent.send_signal(signal.SIGINT)
    [line] = [line for line in (tmp_path / 'log').read_text().splitlines() if 'waiting: ' in line]
    assert line.count('/rover/camera/image_raw: nothing came yet') == line.count('camera/image_raw') == 1, line


def modes(ears):
    """Who chose the actions of the next half second."""
    heard = []
    subscription = ears.node.create_subscription(Joy, 'action', heard.append, QoSProfile(depth=10))
    ears.spin(0.5)
    ears.node.destroy_subscription(subscription)
    return {message.header.frame_id for message in heard}


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, 'it did not happen'
        time.sleep(0.01)
