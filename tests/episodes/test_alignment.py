"""Bringing the messages of a step together, and finding whole episodes, without any process."""

from __future__ import annotations

from dreamer_ros.episodes.assemble import ORPHAN_AGE, PATIENCE, PENDING_LIMIT, AlignedStep, StepAligner
from dreamer_ros.nodes.evaluator import EpisodeCounter
from dreamer_ros.wire.codecs import Step


def test_any_order_between_topics(rng):
    """Topics are read one after the other, each in its own order, at random moments: nothing is lost."""
    aligner = StepAligner(3, leader=1)
    queues = [[(topic, stamp) for stamp in range(200)] for topic in range(3)]
    out, now = [], 0.0
    while any(queues):
        topic = int(rng.integers(3))
        for number, stamp in queues[topic][: int(rng.integers(1, 20))]:
            aligner.add(number, stamp, b'%d %d' % (number, stamp), now)
            queues[topic].pop(0)
        now += 0.01
        out += aligner.take(now)
    assert out == [AlignedStep(s, (b'0 %d' % s, b'1 %d' % s, b'2 %d' % s)) for s in range(200)]
    assert aligner.waiting == 0 and aligner.repeats == 0


def test_repeats_are_dropped():
    aligner = StepAligner(2, leader=0)
    for _ in range(2):
        aligner.add(0, 7, b'step', 0.0)
        aligner.add(1, 7, b'image', 0.0)
    assert aligner.take(0.0) == [AlignedStep(7, (b'step', b'image'))]
    aligner.add(0, 7, b'step', 0.0)
    aligner.add(1, 7, b'image', 0.0)
    assert aligner.take(99.0) == [] and aligner.waiting == 0 and aligner.repeats == 4


def test_order_is_of_arrival_not_of_stamps():
    """A restarted simulator's clock may be behind the one before it."""
    aligner = StepAligner(1, leader=0)
    for stamp in (100, 101, 5, 6):
        aligner.add(0, stamp, b'', 0.0)
    assert [step.stamp for step in aligner.take(0.0)] == [100, 101, 5, 6]


def test_a_lost_message_holds_up_its_step_only_for_a_while():
    aligner = StepAligner(2, leader=0)
    aligner.add(0, 1, b'step', 0.0)
    assert aligner.take(100.0) == [], 'nothing came after it: it may still be answered'
    aligner.add(0, 2, b'step', 100.0)
    aligner.add(1, 2, b'action', 100.0)
    assert [step.messages for step in aligner.take(100.0 + PATIENCE)] == [(b'step', None), (b'step', b'action')]


def test_what_waits_at_the_end_is_not_lost():
    aligner = StepAligner(2, leader=0)
    for stamp in (1, 2, 3):
        aligner.add(0, stamp, b'step', 0.0)
    aligner.add(1, 2, b'action', 0.0)
    assert aligner.take(0.0) == []
    assert aligner.take_rest() == [AlignedStep(1, (b'step', None)), AlignedStep(2, (b'step', b'action'))]
    assert aligner.take_rest() == [] and aligner.waiting == 0


def test_memory_is_bounded():
    aligner = StepAligner(2, leader=0)
    for stamp in range(3 * PENDING_LIMIT):
        aligner.add(1, stamp, b'action without its step', 0.0)
        aligner.take(0.0)
    assert len(aligner._pending) <= PENDING_LIMIT
    aligner.take(2 * ORPHAN_AGE)
    assert not aligner._pending
    out = []
    for stamp in range(3 * PENDING_LIMIT):
        aligner.add(0, stamp + 10**6, b'step without its action', 100.0)
        out += aligner.take(100.0)
    assert aligner.waiting <= PENDING_LIMIT and len(out) == 2 * PENDING_LIMIT


def episode(first, length, period=10, reward=1.0):
    return [Step(first + k * period, reward if k else 0.0, k == 0, k == length - 1, False) for k in range(length)]


def count(steps, period=10):
    counter = EpisodeCounter(period)
    return [result for step in steps if (result := counter.add(step)) is not None], counter.broken


def test_counts_whole_episodes():
    steps = episode(100, 5) + episode(150, 3, reward=2.0)
    assert count(steps) == ([(4.0, 5), (4.0, 3)], 0)
    assert count([step for step in steps for _ in range(2)]) == ([(4.0, 5), (4.0, 3)], 0), 'repeats'


def test_skips_episodes_with_gaps():
    assert count(episode(100, 5)[2:] + episode(150, 3)) == ([(2.0, 3)], 0), 'joined in the middle'
    steps = episode(100, 5)
    del steps[2]
    assert count(steps + episode(150, 3)) == ([(2.0, 3)], 1), 'a step is missing'
    assert count(episode(100, 5)[:3] + episode(20, 3)) == ([(2.0, 3)], 1), 'the simulator was restarted'
