"""Bringing the messages of a step together, and finding whole episodes, without any process."""

from __future__ import annotations

import pytest

from dreamer_ros.episodes.assemble import ORPHAN_AGE, PATIENCE, PENDING_LIMIT, StepAligner, Tally
from dreamer_ros.nodes.evaluator import EpisodeCounter
from dreamer_ros.wire.codecs import Step


def test_any_order_between_topics(rng):
    """Topics are read one after the other, each in its own order, at random moments: nothing is lost."""
    aligner = StepAligner('abc', leader='b')
    queues = {topic: list(range(200)) for topic in 'abc'}
    out, now = [], 0.0
    while any(queues.values()):
        topic = 'abc'[int(rng.integers(3))]
        for stamp in queues[topic][: int(rng.integers(1, 20))]:
            aligner.add(topic, stamp, f'{topic} {stamp}', now)
            queues[topic].pop(0)
        now += 0.01
        out += aligner.take(now)
    assert out == [(stamp, {topic: f'{topic} {stamp}' for topic in 'abc'}) for stamp in range(200)]
    assert [list(messages) for _, messages in out] == [list('abc')] * 200, 'in the order of the topics'
    assert aligner.waiting == 0 and aligner.repeats == 0


def test_repeats_are_dropped():
    aligner = StepAligner(('step', 'image'), leader='step')
    for _ in range(2):
        aligner.add('step', 7, b'step', 0.0)
        aligner.add('image', 7, b'image', 0.0)
    assert aligner.take(0.0) == [(7, {'step': b'step', 'image': b'image'})]
    aligner.add('step', 7, b'step', 0.0)
    aligner.add('image', 7, b'image', 0.0)
    assert aligner.take(99.0) == [] and aligner.waiting == 0 and aligner.repeats == 4


def test_order_is_of_arrival_not_of_stamps():
    """A restarted simulator's clock may be behind the one before it."""
    aligner = StepAligner(('step',), leader='step')
    for stamp in (100, 101, 5, 6):
        aligner.add('step', stamp, b'', 0.0)
    assert [stamp for stamp, _ in aligner.take(0.0)] == [100, 101, 5, 6]


def test_a_lost_message_holds_up_its_step_only_for_a_while():
    aligner = StepAligner(('step', 'action'), leader='step')
    aligner.add('step', 1, b's', 0.0)
    assert aligner.take(100.0) == [], 'nothing came after it: it may still be answered'
    aligner.add('step', 2, b's', 100.0)
    aligner.add('action', 2, b'a', 100.0)
    assert aligner.take(100.0 + PATIENCE) == [(1, {'step': b's'}), (2, {'step': b's', 'action': b'a'})]


def test_what_waits_at_the_end_is_not_lost():
    aligner = StepAligner(('step', 'action'), leader='step')
    for stamp in (1, 2, 3):
        aligner.add('step', stamp, b's', 0.0)
    aligner.add('action', 2, b'a', 0.0)
    assert aligner.take(0.0) == []
    assert aligner.take_rest() == [(1, {'step': b's'}), (2, {'step': b's', 'action': b'a'})]
    assert aligner.take_rest() == [] and aligner.waiting == 0


def test_memory_is_bounded():
    aligner = StepAligner(('step', 'action'), leader='step')
    for stamp in range(3 * PENDING_LIMIT):
        aligner.add('action', stamp, b'action without its step', 0.0)
        aligner.take(0.0)
    assert len(aligner._joined.steps) <= PENDING_LIMIT
    aligner.take(2 * ORPHAN_AGE)
    assert not aligner._joined.steps and not aligner._arrived
    out = []
    for stamp in range(3 * PENDING_LIMIT):
        aligner.add('step', stamp + 10**6, b'step without its action', 100.0)
        out += aligner.take(100.0)
    assert aligner.waiting <= PENDING_LIMIT and len(out) == 2 * PENDING_LIMIT


def episode(first, length, period=10, reward=1.0):
    return [Step(first + k * period, reward if k else 0.0, k == 0, k == length - 1, False) for k in range(length)]


def count(steps, period=10):
    counter = EpisodeCounter(period / 1e9)
    ended = [tally for step in steps if (tally := counter.add(step)) is not None]
    return [(tally.total_reward, len(tally)) for tally in ended], counter.broken


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


def test_who_acted_and_what_it_gave():
    """Whoever counts an episode, in whatever order and however often its messages come, says the same."""
    tally = Tally(1e-8)
    for step in reversed(episode(100, 6, reward=0.1) * 2):
        tally.add(step)
    for stamp, frame_id in ((100, 'random'), (110, 'policy/3/explore'), (120, 'policy/4/explore'), (130, 'a human')):
        tally.add_action(stamp, frame_id)
    tally.add_action(150, 'policy/9/evaluate')  # answers the last step: nothing is done with it
    tally.add_action(990, 'random')  # answers no step
    assert (len(tally), tally.total_reward, tally.missing, tally.is_whole) == (6, 0.5, 0, True)
    assert tally.data() == {'length': '6', 'return': '0.5', 'mode': 'explore', 'policy_version': '4'}
    assert str(tally) == '6 steps, return 0.5, explore, policy 4'
    assert Tally().data() == {'length': '0', 'return': '0.0'}


@pytest.mark.parametrize(
    'frame_ids, mode',
    [(['random'] * 3, 'random'), (['policy/1/evaluate'] * 3, 'evaluate'), (['random', 'policy/1/evaluate'], 'explore')],
)
def test_an_episode_is_random_or_evaluated_only_if_all_of_it_is(frame_ids, mode):
    tally = Tally()
    for step, frame_id in zip(episode(0, 5), frame_ids):
        tally.add(step, frame_id)
    assert tally.mode == mode
