"""Gate, watchdog, guard and metronome by themselves."""

from __future__ import annotations

import os
import threading
import time
import types

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from dreamer_ros.deploy import clocks, control, guard
from dreamer_ros.deploy.clocks import SimulatedClock
from dreamer_ros.deploy.control import Metronome
from dreamer_ros.deploy.deployment import enclave_of
from dreamer_ros.deploy.stops import Deadline, TimeSetBack
from dreamer_ros.deploy.watchdog import Gate, Watchdog
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.wire.definitions import decode
from tests.nodes.robot import contract_text

TWIST = 'geometry_msgs/msg/Twist'
ACTION = np.array([0.5, -0.5], np.float32)


@pytest.fixture
def contract():
    return RobotContract.from_text(contract_text(100), 'robot.yaml')


class Wire:
    """What a gate publishes: 'stop' or the speeds, in order."""

    def __init__(self, contract):
        self.sent = []
        self.gate = Gate(contract, self._note, self._note, time.time_ns)
        self.gate.open()

    def _note(self, messages):
        [cdr] = messages
        twist = decode(cdr, TWIST)
        speeds = twist.linear.x, twist.angular.z
        self.sent.append('stop' if speeds == (0, 0) else speeds)


@pytest.fixture
def wire(contract):
    return Wire(contract)


def test_gate_passes_until_it_is_held_by_anybody(wire):
    gate = wire.gate
    assert gate.command(ACTION, gate.ticket()).values.tolist() == [1.0, -0.5]
    gate.hold('one', 'a')
    gate.hold('two', 'b')
    gate.hold('one', 'again')
    assert gate.command(ACTION, gate.ticket()) is None
    gate.release('one')
    assert gate.command(ACTION, gate.ticket()) is None and gate.reasons == {'two': 'b'}
    gate.release('two')
    assert gate.command(ACTION, gate.ticket()) is not None
    assert wire.sent == [(1.0, -0.5), 'stop', 'stop', (1.0, -0.5)]
    assert gate.stops == {'one': 1} and list(gate.events) == ['stopped: a']


def test_a_command_older_than_a_stop_does_not_pass(wire):
    ticket = wire.gate.ticket()
    wire.gate.hold('late', 'inference')
    wire.gate.release('late')
    assert wire.gate.command(ACTION, ticket) is None and wire.sent == ['stop']


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_is_never_published(wire, value):
    limited = wire.gate.command(np.array([0.5, value], np.float32), wire.gate.ticket())
    assert limited.refused and wire.sent == []


def test_nothing_is_published_by_a_closed_gate(wire):
    wire.gate.close()
    wire.gate.hold('one', 'a')
    wire.gate.repeat(time.monotonic() + 10)
    assert wire.gate.command(ACTION, wire.gate.ticket()) is None and wire.sent == []


def test_a_stop_does_not_wait_for_a_command_that_hangs_in_the_middleware(contract):
    began, go_on, stops = threading.Event(), threading.Event(), []

    def hang(cdr):
        began.set()
        go_on.wait(10)

    gate = Gate(contract, hang, lambda cdr: stops.append(time.monotonic()), time.time_ns)
    gate.open()
    thread = threading.Thread(target=lambda: gate.command(ACTION, gate.ticket()))
    thread.start()
    try:
        began.wait(10)
        asked = time.monotonic()
        gate.hold('one', 'a')
        assert stops and stops[0] - asked < 1.0
    finally:
        go_on.set()
        thread.join()


@pytest.mark.races_clock('a command has to pass within 0.05 s')
def test_watchdog_holds_repeats_and_releases(wire):
    deadline, beats = Deadline('too late'), []
    deadline.set(time.monotonic() + 0.05)
    watchdog = Watchdog(wire.gate, 0.001, {'late': deadline}, lambda: beats.append(time.monotonic()))
    try:
        assert wire.gate.command(ACTION, wire.gate.ticket()) is not None
        wait_for(lambda: wire.sent.count('stop') >= 3)  # once per period of 10 ms
        assert wire.gate.reasons == {'late': 'too late'}
        deadline.set(float('inf'))
        wait_for(lambda: not wire.gate.reasons)
        assert len(beats) > 10
    finally:
        watchdog.close()


def test_a_check_that_fails_stops_the_robot(wire):
    def check(now):
        raise ZeroDivisionError('oops')

    watchdog = Watchdog(wire.gate, 0.001, {'broken': check}, lambda: None)
    assert set(wire.sent) == {'stop'} and 'ZeroDivisionError: oops' in wire.gate.reasons['broken']
    watchdog.close()


class FakeClock:
    """/clock as a simulator publishes it: `pace` simulated seconds per real one, every `coarse` simulated seconds."""

    def __init__(self, monkeypatch, pace=1.0, coarse=0.001):
        self.now, self._pace, self._coarse, self._told, self._messages = 1000.0, pace, coarse, 0.0, []
        self.simulated = 50.0  # seconds
        taken = types.SimpleNamespace(take_with_info=lambda: self._messages.pop(0) if self._messages else None)
        monkeypatch.setattr(clocks, 'PolledSubscription', lambda *_: taken)
        steady = types.SimpleNamespace(
            monotonic=lambda: self.now, time_ns=lambda: round(self.now * 1e9), sleep=self.advance
        )
        monkeypatch.setattr(clocks, 'time', steady)
        monkeypatch.setattr(control, 'time', steady)

    def advance(self, seconds, paused=False):
        seconds = max(seconds, 1e-6)  # no real sleep is shorter
        self.now += seconds
        if not paused:
            self.simulated += seconds * self._pace
        if self.simulated - self._told >= self._coarse:
            self._told = self.simulated
            self.tell(self._told)

    def tell(self, seconds, ago=0.0):
        sec, nanosec = divmod(round(seconds * 1e9), 10**9)
        info = {'source_timestamp': round((self.now - ago) * 1e9)}
        self._messages.append((Clock(clock=Time(sec=sec, nanosec=nanosec)), info))


def test_a_clock_that_stands_still(monkeypatch):
    fake = FakeClock(monkeypatch)
    check, began = SimulatedClock(None, 5.0), fake.now
    assert check(began) == 'nothing came on /clock yet'
    fake.tell(6, ago=3.0)
    assert not check(began + 1.9) and check(began + 7.0) == '/clock does not advance'
    fake.tell(6)
    assert check(began + 7.0), 'a clock that says the same again stands still, too'
    fake.tell(-1)
    assert check(began + 7.0), 'no time of a clock'
    fake.tell(7)
    assert not check(began + 4.9)


@pytest.mark.parametrize(
    'pace, coarse', [(1, 0.001), (1, 0.1), (0.2, 0.02), (0.3, 0.1), (4, 0.004), (4, 0.1), (1, 0.2)]
)
def test_control_by_the_clock_of_a_simulator(monkeypatch, pace, coarse):
    """Ticks come once per simulated period, also with a coarse clock; a pause is told, and nothing else is a fault."""
    fake, period = FakeClock(monkeypatch, pace, coarse), 0.1
    clock = SimulatedClock(None, 0.5 * period)
    for _ in range(500):
        fake.advance(0.01)
        clock.time_ns()
    metronome, stamps, faults = Metronome(period, clock.seconds(), clock), [], 0
    for _ in range(200):
        metronome.wait()
        stamps.append(clock.time_ns())
        faults += bool(clock(fake.now))
        metronome.steer(0.03, 1)
    gaps = np.diff(stamps) / 1e9 / period
    assert faults == 0 and abs(gaps.mean() - 1) < 0.01 and gaps.max() < 1.5 and gaps.min() > 0.5
    assert abs(stamps[-1] / 1e9 - fake.simulated) <= coarse + 0.01 * pace
    for _ in range(300):
        fake.advance(0.01, paused=True)
    before = clock.time_ns()
    assert clock(fake.now) == '/clock does not advance' and metronome.deadline == np.inf
    fake.advance(0.01, paused=True)
    assert clock.time_ns() == before and before / 1e9 <= fake.simulated + coarse + 0.01 * pace
    fake.tell(3.0)
    assert clock.time_ns() == 3 * 10**9, 'reset'


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, 'it did not happen'
        time.sleep(0.002)


@pytest.fixture
def watched(contract):
    """(beat, the guard's stops, close) of a guard that runs in a thread."""
    reading, writing = os.pipe()
    stops = []
    thread = threading.Thread(target=guard.watch, args=(contract, reading, 0.1, stops.append, lambda: None))
    thread.start()
    opened = [writing]

    def beat(armed, values=(1.0, 0.5)):
        os.write(writing, guard.pack(armed, 0, np.array(values)))

    def close():
        if opened:
            os.close(opened.pop())
            thread.join()

    yield beat, stops, close
    close()
    os.close(reading)


@pytest.mark.races_clock('heartbeats have to come within 0.1 s')
def test_guard_stops_a_robot_whose_agent_freezes_or_dies(watched):
    beat, stops, close = watched
    for _ in range(20):
        beat(True)
        time.sleep(0.02)
    assert not stops
    wait_for(lambda: len(stops) > 3)  # silence
    twist = decode(stops[0][0], TWIST)
    assert twist.linear.x == twist.angular.z == 0
    beat(True)
    count = len(stops)
    close()  # death
    assert len(stops) > count + 10


def test_guard_starts_with_a_contract_that_is_longer_than_an_argument_may_be(ros_domain):
    contract = RobotContract.from_text(contract_text(more='# long\n' * 50_000), 'robot.yaml')
    process = guard.Guard(contract, '/robot/agent', ('/robot/cmd_vel',), 1.0, enclave='/')
    assert process.wait()
    process.close()


def test_guard_leaves_a_robot_alone_that_is_not_commanded(watched):
    beat, stops, close = watched
    beat(True)
    beat(False)
    time.sleep(0.3)
    close()
    assert not stops


def test_the_guard_has_the_enclave_of_its_agent(contract, ros_domain):
    """With SROS 2 it could publish nothing otherwise."""
    context = rclpy.Context()
    rclpy.init(args=['--ros-args', '--enclave', '/team/rover'], context=context, domain_id=ros_domain)
    node = Node('agent', context=context)
    made = guard.Guard(contract, '/agent', ('/cmd_vel',), 1.0, enclave_of(node))
    try:
        assert enclave_of(node) == '/team/rover' and made.wait()
        expected = made.name.strip('/'), '/', '/team/rover'
        wait_for(lambda: expected in node.get_node_names_and_namespaces_with_enclaves())
    finally:
        made.close()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_guard_goes_to_the_pose_that_is_the_stop_no_faster_than_allowed():
    text = (
        contract_text(100).replace('stop: zero', 'stop: {forward: -1, turn: 0}').replace('unit: m/s', 'rate_limit: 10')
    )
    contract = RobotContract.from_text(text, 'robot.yaml')
    reading, writing = os.pipe()
    os.write(writing, guard.pack(True, 0, np.array([1.0, 0.0])))
    os.close(writing)
    speeds = []
    guard.watch(contract, reading, 1.0, lambda sent: speeds.append(decode(sent[0], TWIST).linear.x), lambda: None)
    os.close(reading)
    assert speeds[-1] == -1 and np.diff([1.0, *speeds]).min() > -0.11


@pytest.mark.parametrize('offset', [0.0, 0.3, 0.5, 0.7, 0.99])
def test_metronome_comes_to_tick_a_margin_after_the_images(offset):
    period, metronome = 0.02, Metronome(0.02, 100.0)
    ages = []
    for number in range(600):
        tick = metronome.next
        metronome.next += period
        ages.append((tick - offset * period) % period)
        metronome.steer(ages[-1], number)
    assert all(0.08 < age / period < 0.12 for age in ages[-100:])


@pytest.mark.parametrize('jitter', [0.02, 0.08])
def test_metronome_waits_longer_for_images_that_jitter(jitter, rng):
    period, metronome, missed, ages = 0.02, Metronome(0.02, 100.0), 0, []
    for tick in range(4000):
        arrivals = (np.arange(3) + np.floor(metronome.next / period) - 1) * period + jitter * period * rng.normal(
            size=3
        )
        age = min(metronome.next - arrival for arrival in arrivals if arrival <= metronome.next)
        metronome.next += period
        metronome.steer(age, tick)
        if tick > 1000:
            missed += age > 0.7 * period
            ages.append(age / period)
    print('missed', missed, 'of', len(ages), 'median age', np.median(ages))
    assert missed < 0.02 * len(ages) and np.median(ages) < 0.4


@pytest.mark.parametrize('drift', [0.0, 3e-4, -3e-4, 0.01, -0.01])
@pytest.mark.parametrize('ratio', [1 / 2, 2 / 3, 0.9, 1, 1.5, 2, 3, 3.1, 4, 6, 12])
def test_metronome_keeps_its_rate_beside_a_camera_of_any_other(ratio, drift, rng):
    """Camera with drift, jitter and dropped frames. Ticks that can follow the images do."""
    period, count, first = 0.2, 6000, 100.0
    spacing = period / ratio / (1 + drift)
    due = first + spacing * np.arange(-2, (count + 10) * period / spacing)
    came = np.sort(due + rng.exponential(0.02 * spacing, len(due)))[rng.random(len(due)) > 0.01]
    metronome, ticks, ages = Metronome(period, first), [], []
    for _ in range(count):
        ticks.append(metronome.next)
        metronome.next += period
        place = int(np.searchsorted(came, ticks[-1], 'right'))
        ages.append(ticks[-1] - came[place - 1])
        metronome.steer(ages[-1], place)
    lengths = np.diff(ticks) / period
    assert abs(lengths.mean() - 1) < 0.001 and np.abs(lengths - 1).max() < 0.0201
    later = np.array(ages[1000:]) / spacing
    if ratio in (1, 2, 3, 4) and abs(drift) < 0.001:
        assert np.mean(later > 0.7) < 0.02 and np.median(later) < 0.45


def test_metronome_leaves_out_what_it_missed(monkeypatch):
    clock = [100.0]

    def sleep(seconds):
        clock[0] += seconds

    monkeypatch.setattr(control, 'time', types.SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    metronome = Metronome(0.01, 100.0, types.SimpleNamespace(seconds=lambda: clock[0], simulated=False))
    assert [metronome.wait(), metronome.wait()] == pytest.approx([100.0, 100.01])
    sleep(0.055)
    assert [metronome.wait(), metronome.wait()] == pytest.approx([100.065, 100.075])


def test_a_clock_set_back_is_told_once():
    clock = [10**18]
    watch = TimeSetBack(lambda: clock[0], 0.05)
    assert watch.look() == 0.0
    clock[0] -= 10**7
    assert watch.look() == 0.0, 'a small correction'
    clock[0] += 10**9
    assert watch.look() == 0.0
    clock[0] -= 60 * 10**9
    assert abs(watch.look() - 60.0) < 0.1 and watch.look() == 0.0
    clock[0] += 3600 * 10**9
    assert watch.look() == 0.0, 'forward'
