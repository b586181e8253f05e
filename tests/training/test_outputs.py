"""What a run leaves for people: metrics, progress, curve, videos."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import shutil
import struct
import termios

import imageio.v3 as iio
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dreamer_ros.errors import InputError
from dreamer_ros.training.metrics import Metrics, read_metrics
from dreamer_ros.training.plots import plot_comparison, plot_run
from dreamer_ros.training.progress import Progress, Rate, Status
from dreamer_ros.viewing.film import dream_video, write_video
from tests.policy.tiny import spec


def line(step, **values):
    return {'step': step, 'agent_steps': step // 2, 'updates': step // 8, 'time': step / 10, **values}


def test_metrics_go_to_both_places_and_survive_a_torn_line(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.write(**line(100, return_explore=12.5, episode='a'))
    metrics.write(**line(200, model_loss=float('nan')))
    metrics.close()
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 300, "upd')
    metrics = Metrics(tmp_path)
    metrics.write(**line(400, return_evaluate=700.0))
    metrics.close()
    lines = read_metrics(tmp_path)
    assert [entry['step'] for entry in lines] == [100, 200, 400]
    assert lines[0] == {**line(100), 'return_explore': 12.5, 'episode': 'a'}
    assert lines[1]['model_loss'] is None
    for text in (tmp_path / 'metrics.jsonl').read_text().splitlines():
        assert 'NaN' not in text
    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars('return_evaluate')] == [(400, 700.0)]


def test_a_damaged_line_of_metrics_is_passed_over(tmp_path):
    (tmp_path / 'metrics.jsonl').write_bytes(b'{"step": 1}\n{"st\xffep": 2}\n{"step": 3}\n\x00\n')
    assert read_metrics(tmp_path) == [{'step': 1}, {'step': 3}]


def test_metrics_of_a_damaged_file_and_of_a_killed_session(tmp_path):
    """What cannot be read is passed over; what a session did again counts once, as it was done last."""
    path = tmp_path / 'metrics.jsonl'
    entries = [
        line(80, episode='a', return_random=1.0),
        line(160, model_loss=2.0),  # update 20, after which the checkpoint was saved
        line(240, model_loss=3.0),
        line(240, episode='b', return_explore=4.0),
        # killed; the next session goes on at update 20
        {**line(248, episode='b', return_explore=4.0), 'updates': 20},
        line(248, model_loss=5.0),
    ]
    damaged = [json.dumps(entry).encode() for entry in entries]
    damaged[2:2] = [b'{"step": 9, "model_loss": \xff\xfe}', b'7', b'\xff']
    path.write_bytes(b'\n'.join(damaged) + b'\n{"step": 300, "upd')
    assert read_metrics(tmp_path) == [entries[0], entries[1], entries[4], entries[5]]


def test_something_else_where_metrics_go_is_told(tmp_path):
    (tmp_path / 'tensorboard').touch()
    with pytest.raises(InputError, match='tensorboard: expected a folder for TensorBoard, got a file'):
        Metrics(tmp_path)
    (tmp_path / 'tensorboard').unlink()
    (tmp_path / 'metrics.jsonl').mkdir()
    with pytest.raises(InputError, match='metrics.jsonl: expected a file that can be written'):
        Metrics(tmp_path)
    with pytest.raises(InputError, match='metrics.jsonl: expected a file that can be read'):
        read_metrics(tmp_path)


def test_progress_without_a_terminal_prints_a_line():
    stream = io.StringIO()
    progress = Progress(stream)
    status = Status(
        step=2000,
        budget=8000,
        frames=250,
        updates=10,
        episodes=3,
        last_return=123.45,
        evaluation_return=321.0,
        waiting='steps from sim0',
    )
    for _ in range(100):
        progress.update(status)
    [text] = stream.getvalue().splitlines()
    for part in (
        '25%',
        '2000/8000 env steps',
        '3 episodes',
        'return 123.5',
        'evaluation 321.0',
        'updates/s',
        'frames/s',
        'waiting for steps from sim0',
    ):
        assert part in text, text


def test_progress_on_a_terminal_draws_a_bar():
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 160, 0, 0))
    with os.fdopen(terminal, 'w') as stream:
        progress = Progress(stream)
        progress.update(Status(step=4000, budget=8000, frames=500, updates=10))
        progress.note('a line above')
        progress.close()
        stream.flush()
        text = ''
        while 'a line above' not in text:
            text += os.read(main, 1 << 16).decode()
    os.close(main)
    assert '50%|' in text and '4000/8000' in text and 'a line above' in text


@pytest.mark.parametrize('episode', [1, 200, 500])
def test_rates_do_not_tell_how_long_ago_an_episode_came(rng, episode):
    """5 steps a second that come one by one, or with their episode's bag, which is late by up to 5 s."""
    rate, budget, shown = Rate(), 10_000, []
    late = 0.0 if episode == 1 else 5.0
    arrivals = np.arange(0, budget + 1, episode) / 5.0
    arrivals[1:] += rng.uniform(0.0, late, len(arrivals) - 1)
    for now in np.arange(0.0, 1200.0, 0.7):
        rate.note(now, episode * (np.searchsorted(arrivals, now, side='right') - 1))
        if now > 3 * episode / 5.0 + 30.0:  # until it has settled
            shown.append(rate.per_second)
    assert np.abs(np.array(shown) / 5.0 - 1).max() < 0.08


def test_a_rate_falls_when_nothing_comes_any_more():
    rate = Rate()
    rate.note(0.0, 7)
    assert rate.per_second == 0.0
    for now in np.arange(0.1, 60.0, 0.1):
        rate.note(now, 7 + int(100 * now))
    assert rate.per_second == pytest.approx(100, rel=0.01)
    stalled = []
    for now in np.arange(60.0, 120.0, 0.1):
        rate.note(now, 6000)
        stalled.append(rate.per_second)
    assert stalled == sorted(stalled, reverse=True) and stalled[-1] < 10


def test_curve(tmp_path):
    with pytest.raises(InputError, match='expected finished episodes in'):
        plot_run(tmp_path)
    entries = [line(i * 1000, **{'return_evaluate' if i % 4 == 0 else 'return_explore': 10.0 * i}) for i in range(20)]
    (tmp_path / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, entries)))
    picture = iio.imread(plot_run(tmp_path))
    folder = tmp_path / 'evaluation' / 'now'
    folder.mkdir(parents=True)
    (folder / 'result.json').write_text('{"step": 60, "mean_return": 33.0, "episodes": []}')
    assert not np.array_equal(iio.imread(plot_run(tmp_path)), picture), 'an evaluation of the run is a point of it'
    shutil.rmtree(folder)
    assert plot_run(tmp_path) == tmp_path / 'curve.png'
    orange = (picture[..., 0] > 240) & (abs(picture[..., 1].astype(int) - 127) < 20) & (picture[..., 2] < 40)
    assert orange.sum() > 100  # the evaluation curve is there


@pytest.mark.parametrize('size', [(64, 64), (48, 51), (300, 400)])
def test_video_keeps_frames_and_colours(tmp_path, size):
    frames = np.zeros((12, *size, 3), np.uint8)
    frames[:, :, : size[1] // 2, 0] = 200
    frames[6:, :, :, 2] = 200
    path = write_video(tmp_path / 'v.mp4', frames, 12.5)
    film = iio.imread(path, plugin='FFMPEG')
    assert len(film) == 12 and film.shape[1] >= 256 and film.shape[1] % 2 == film.shape[2] % 2 == 0
    assert film.shape[1] / film.shape[2] == size[0] / size[1]
    middle, quarter = film.shape[1] // 2, film.shape[2] // 4
    assert np.abs(film[0, middle, quarter].astype(int) - [200, 0, 0]).max() < 30
    assert np.abs(film[-1, middle, -quarter].astype(int) - [0, 0, 200]).max() < 30
    assert not list(tmp_path.glob('.*'))


def test_dream_video_stacks_rows(tmp_path):
    dream = np.full((5, 8, 32, 96, 3), 90, np.uint8)
    film = iio.imread(dream_video(dream, spec(), tmp_path / 'd.mp4'), plugin='FFMPEG')
    assert len(film) == 8 and film.shape[1] == film.shape[2]  # three rows of 32, three columns of 32


def test_bad_frames(tmp_path):
    for frames in (np.zeros((0, 4, 4, 3), np.uint8), np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4, 3))):
        with pytest.raises(InputError, match='expected frames uint8'):
            write_video(tmp_path / 'v.mp4', frames, 10)


def test_comparison_draws_the_evaluations_of_all_runs(tmp_path):
    runs = []
    for seed in range(2):
        runs.append(tmp_path / f'seed{seed}')
        runs[-1].mkdir()
        lines = [{'step': 100 * i, 'time': i, 'return_evaluate': 10.0 * i} for i in range(1, 8)]
        (runs[-1] / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    path = plot_comparison(runs, tmp_path / 'both.png')
    assert path.read_bytes().startswith(b'\x89PNG')
    (runs[1] / 'metrics.jsonl').write_text('')
    with pytest.raises(InputError, match='seed1: expected evaluation episodes'):
        plot_comparison(runs, tmp_path / 'both.png')
