"""The buffer against a plain list of every step ever added."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from dreamer_ros.episodes.episode import Episode
from dreamer_ros.errors import InputError
from dreamer_ros.replay.buffer import ReplayBuffer

KEYS = ('image', 'vector', 'action', 'reward', 'is_first', 'is_last', 'is_terminal')


class Source:
    """Makes episodes whose steps are told apart by their reward: 0, 1, 2, … over all episodes."""

    def __init__(self):
        self.count = 0

    def __call__(self, length: int, first: bool = True, last: bool = True) -> Episode:
        number = self.count + np.arange(length)
        self.count += length
        grey = (number % 251).astype(np.uint8)
        return Episode(
            image=np.broadcast_to(grey[:, None, None, None], (length, 2, 2, 3)).copy(),
            vector=np.stack([number, -number], axis=1).astype(np.float32),
            action=(number[:, None] / 1e4).astype(np.float32),
            reward=number.astype(np.float32),
            is_first=(np.arange(length) == 0) & first,
            is_last=(np.arange(length) == length - 1) & last,
            is_terminal=(np.arange(length) == length - 1) & last & (length % 2 == 0),
            stamp=number,
        )


class Reference:
    """The same as the buffer, as a list of rows of whole episodes."""

    def __init__(self, capacity):
        self.capacity, self.episodes = capacity, []

    def add(self, episode):
        rows = [{key: getattr(episode, key)[k] for key in KEYS} for k in range(len(episode))][-self.capacity :]
        if rows:
            rows[0]['is_first'] = np.bool_(True)
            rows[-1]['is_last'] = np.bool_(True)
            self.episodes.append(rows)
        while sum(map(len, self.episodes)) > self.capacity:
            self.episodes.pop(0)

    @property
    def rows(self):
        return [row for episode in self.episodes for row in episode]


def buffer_of(capacity, seed=0):
    return ReplayBuffer(capacity, image_shape=(2, 2, 3), vector_size=2, action_size=1, seed=seed)


def drain(buffer, length=1):
    """Serve every new step."""
    while buffer.cursor()['fresh'] < buffer.start + buffer.steps:
        buffer.sample(64, length)


def test_every_sample_is_a_stretch_of_the_reference(rng):
    for capacity in (1, 7, 50, 64):
        source, buffer, reference = Source(), buffer_of(capacity), Reference(capacity)
        for _ in range(60):
            # One-step episodes, long ones, some longer than the capacity, some cut at either side.
            length = int(rng.choice([0, 1, 1, 2, 5, 13, 40, capacity, capacity + 9]))
            episode = source(length, first=bool(rng.integers(4)), last=bool(rng.integers(4)))
            buffer.add(episode)
            reference.add(episode)
            rows = reference.rows
            assert buffer.steps == len(rows) and buffer.episodes == len(reference.episodes)
            for length in (1, 3, capacity):
                if length > len(rows):
                    complaint = f'needs {length} steps, the replay holds {len(rows)}'
                    with pytest.raises(InputError, match=complaint):
                        buffer.sample(4, length)
                    continue
                batch = buffer.sample(4, length)
                for b, index in enumerate(batch['index']):
                    expected = rows[index - buffer.start : index - buffer.start + length]
                    assert len(expected) == length
                    for key in KEYS:
                        np.testing.assert_array_equal(batch[key][b], [row[key] for row in expected])


def test_neighbours_were_neighbours_unless_is_first(rng):
    source, buffer = Source(), buffer_of(200)
    for _ in range(50):
        buffer.add(source(int(rng.integers(1, 30)), first=bool(rng.integers(2)), last=bool(rng.integers(2))))
        source.count += 1  # a step never recorded: numbers on either side of a cut are not consecutive
    for _ in range(200):
        batch = buffer.sample(8, 20)
        jump = np.diff(batch['reward'], axis=1) != 1
        np.testing.assert_array_equal(jump, batch['is_first'][:, 1:])
        # Before a new beginning there is an end.
        np.testing.assert_array_equal(batch['is_last'][:, :-1], batch['is_first'][:, 1:])


def test_shapes_and_types():
    source, buffer = Source(), buffer_of(100)
    buffer.add(source(30))
    batch = buffer.sample(5, 8)
    expected = {
        'image': ((5, 8, 2, 2, 3), np.uint8),
        'vector': ((5, 8, 2), np.float32),
        'action': ((5, 8, 1), np.float32),
        'reward': ((5, 8), np.float32),
        'is_first': ((5, 8), np.bool_),
        'is_last': ((5, 8), np.bool_),
        'is_terminal': ((5, 8), np.bool_),
        'is_human': ((5, 8), np.bool_),
        'index': ((5,), np.int64),
    }
    assert {key: (array.shape, array.dtype) for key, array in batch.items()} == expected
    assert all(array.flags.c_contiguous and array.flags.owndata for array in batch.values())


def test_starts_are_uniform(seed):
    source, buffer = Source(), buffer_of(100, seed)
    for length in (30, 1, 55, 20, 33):  # the first two have left: 108 steps are left of room for 100
        buffer.add(source(length))
    drain(buffer)
    assert buffer.steps == 53
    length, starts = 7, 53 - 7 + 1
    indices = np.concatenate([buffer.sample(100, length)['index'] for _ in range(470)]) - buffer.start
    counts = np.bincount(indices, minlength=starts)
    assert len(counts) == starts
    assert chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize('batch, length', [(1, 5), (4, 5), (16, 16), (3, 1)])
def test_every_new_step_is_served(batch, length, rng):
    source, buffer = Source(), buffer_of(10_000)
    served = np.zeros(3000, int)
    buffer.add(source(length))
    for _ in range(60):
        buffer.add(source(int(rng.integers(1, 40))))
        # Only the share of the queue counts, so that a lucky uniform draw can't help.
        while buffer.cursor()['fresh'] < buffer.start + buffer.steps:
            before = buffer.cursor()['fresh']
            rewards = buffer.sample(batch, length)['reward'][: max(1, batch // 2)]
            new = rewards[rewards >= before]
            assert new.size
            served[np.unique(new).astype(int)] += 1
    assert (served[: source.count] >= 1).all()
    assert source.count < len(served)


def test_the_queue_leaves_room_for_old_steps():
    source, buffer = Source(), buffer_of(10_000)
    buffer.add(source(1000))
    rewards = buffer.sample(16, 4)['reward']
    np.testing.assert_array_equal(rewards[:8].ravel(), np.arange(32))
    assert rewards[8:].max() > 100


def test_same_seed_same_samples_and_cursor_continues():
    runs = []
    for stop in (None, 3):
        source, buffer = Source(), buffer_of(64, seed=5)
        episodes = [source(length) for length in (20, 30, 25)]
        for episode in episodes:
            buffer.add(episode)
        indices = []
        for k in range(8):
            if k == stop:
                cursor, start = buffer.cursor(), buffer.start
                buffer = buffer_of(64, seed=99)
                buffer.restart(start)
                for episode in episodes[1:]:
                    buffer.add(episode)
                buffer.seek(cursor)
            indices.append(buffer.sample(4, 5)['index'])
        runs.append(indices)
    np.testing.assert_array_equal(runs[0], runs[1])


def test_peeking_leaves_no_trace():
    buffers = [buffer_of(64, seed=5), buffer_of(64, seed=5)]
    for buffer in buffers:
        buffer.add(Source()(50))
    peeked = [buffers[0].peek(4, 10) for _ in range(20)]
    for batch in peeked:
        np.testing.assert_array_equal(np.diff(batch['reward'], axis=1), 1)
    assert len({int(index) for batch in peeked for index in batch['index']}) > 10
    assert buffers[0].cursor() == buffers[1].cursor()
    with pytest.raises(InputError, match='needs 51 steps'):
        buffers[0].peek(1, 51)


def test_bad_capacity_is_refused():
    with pytest.raises(InputError, match='at least 1 step'):
        buffer_of(0)
