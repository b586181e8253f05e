"""The replay store: reading bags, starting on a million cached steps, sampling against a gather from RAM.

    python -m benchmarks.bench_store [--steps 1000000] [--folder runs/bench/store] [--preset dreamerv3_1m]

64x64 RGB throughout, sequences in batches of 16x64, medians. The million steps are made up, but pass through the
store's own cache; they take 12.3 GB of disk, are kept for the next time, and `--steps` makes them fewer.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dreamer_ros.episodes.episode import Episode
from dreamer_ros.replay.cache import FOLDER, EpisodeCache
from dreamer_ros.replay.dataset import ReplayDataset
from tests.episodes import bags

BATCH, LENGTH = 16, 64
EPISODE = 500  # steps
SPEC = dataclasses.replace(bags.SPEC, image_size=(64, 64), vector=())
SAMPLES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--steps', type=int, default=1_000_000)
    parser.add_argument('--folder', type=Path, default=Path('runs/bench/store'))
    parser.add_argument('--preset', default='dreamerv3_1m', help='whose updates use the samples')
    parser.add_argument('--json', type=Path, default=Path('runs/bench/store.json'))
    parser.add_argument('--start', action='store_true', help=argparse.SUPPRESS)  # the process that is timed
    arguments = parser.parse_args()
    if arguments.start:
        print(json.dumps(start(arguments.folder)))
        return
    result = {'steps': arguments.steps}
    result.update(ingest())
    print(f'ingest: {result["ingest_cpu"]:,.0f} steps/s per core, {result["ingest_wall"]:,.0f} of wall time')
    fill(arguments.folder, arguments.steps)
    for state in ('cold', 'warm'):
        if state == 'cold':
            evict(arguments.folder)
        made = json.loads(
            subprocess.run(
                [sys.executable, '-m', 'benchmarks.bench_store', '--start', '--folder', str(arguments.folder)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        result[state] = made
        print(
            f'first sample of {made["steps"]:,} steps in {made["episodes"]} bags, files {state}: '
            f'{made["first"]:.2f} s ({made["refresh"]:.2f} s to look through the bags); process: '
            f'{made["anonymous_mb"]:.0f} MB, '
            f'of that {made["store_mb"]:.0f} MB the store'
        )
    result.update(sample(arguments.folder, arguments.steps))
    print(
        f'sample {BATCH}x{LENGTH}: {1e3 * result["sample"]:.2f} ms; gather from RAM: '
        f'{1e3 * result["gather"]:.2f} ms; ratio {result["sample"] / result["gather"]:.2f}'
    )
    print(
        f'  from all {arguments.steps:,} steps: {1e3 * result["sample_all"]:.2f} ms; of episodes used for the '
        f'first time, which are checked by their hash: {1e3 * result["first_use"]:.0f} ms'
    )
    result['update'] = update(arguments.preset)
    print(
        f'update of {arguments.preset}: {1e3 * result["update"]:.0f} ms, '
        f'{result["update"] / result["sample"]:.0f} times a sample'
    )
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + '\n')
    print(f'written to {arguments.json}')


def pictures(count: int, seed: int) -> np.ndarray:
    """A moving gradient with noise in its low bits: zstd makes about half of it."""
    rng = np.random.default_rng(seed)
    slope = np.add.outer(np.arange(64), np.arange(64))[None, :, :, None] + 3 * np.arange(count)[:, None, None, None]
    return (slope + rng.integers(0, 8, (count, 64, 64, 3))).astype(np.uint8)


def episode(number: int, images: np.ndarray) -> Episode:
    made = bags.random_episode(
        np.random.default_rng(number),
        len(images),
        bags.START_NS + number * 10**12,
        spec=dataclasses.replace(SPEC, image_size=(1, 1)),
    )
    made.image, made.vector = images, np.zeros((len(images), 0), np.float32)
    return made


def ingest(count: int = 6) -> dict:
    """Steps per second that enter the store from real bags."""
    images = pictures(EPISODE, 0)
    cpu, wall = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            made = episode(number, images)
            made.vector = np.zeros((EPISODE, 2), np.float32)  # joints in the bag, which this agent does not see
            bags.write_episode(Path(folder), f'bag{number:04d}', made, spec=SPEC)
        for _ in range(3):
            shutil.rmtree(Path(folder) / FOLDER, ignore_errors=True)
            before = time.process_time(), time.perf_counter()
            store = opened(Path(folder))
            cpu.append(count * EPISODE / (time.process_time() - before[0]))
            wall.append(count * EPISODE / (time.perf_counter() - before[1]))
            assert store.steps == count * EPISODE and not store.problems
    return {'ingest_cpu': statistics.median(cpu), 'ingest_wall': statistics.median(wall)}


@functools.cache
def pool() -> np.ndarray:
    return pictures(EPISODE + 256, 1)


def read(bag: Path) -> tuple[list[Episode], list]:
    """What a made-up bag holds."""
    number = int(bag.name[3:])
    return [dataclasses.replace(episode(number, pool()[number % 256 :][:EPISODE]), path=bag)], []


def fill(folder: Path, steps: int) -> None:
    """Have so many steps in the folder: bags whose content is made up when the cache wants to read it."""
    cache = EpisodeCache(folder, SPEC, SPEC.hash, read, problems := [])
    wanted = {f'bag{number:06d}' for number in range(steps // EPISODE)}
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in wanted and path.name != FOLDER:
            shutil.rmtree(path)
    cache.tidy()
    before, made = time.perf_counter(), 0
    for name in sorted(wanted):
        bag = folder / name
        bag.mkdir(exist_ok=True)
        if not (bag / 'metadata.yaml').exists():
            (bag / f'{name}_0.mcap').write_text(name)
            (bag / 'metadata.yaml').write_text('made up')
        if cache.known(bag) is None or not os.path.exists(cache.steps_file(bag.name)):
            cache.load(bag)
            made += EPISODE
    assert not problems, problems
    if made:
        print(f'{made:,} steps put into the cache in {time.perf_counter() - before:.0f} s')


def evict(folder: Path) -> None:
    """Drop the files from the page cache, as after a boot."""
    os.sync()
    for root, _, names in os.walk(folder):
        for name in names:
            file = os.open(os.path.join(root, name), os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def anonymous() -> float:
    """MB of memory that is this process's own."""
    status = Path('/proc/self/status').read_text()
    return int(status.split('RssAnon:')[1].split()[0]) / 1e3


def start(folder: Path) -> dict:
    """From nothing to the first batch."""
    memory, before = anonymous(), time.perf_counter()
    store = opened(folder)
    refreshed = time.perf_counter()
    batch = store.sample(BATCH, LENGTH)
    first = time.perf_counter()
    assert batch['image'].shape == (BATCH, LENGTH, 64, 64, 3) and not store.problems, store.problems
    del batch
    return {
        'steps': store.steps,
        'episodes': store.episodes,
        'refresh': refreshed - before,
        'first': first - before,
        'anonymous_mb': anonymous(),
        'store_mb': anonymous() - memory,
    }


def sample(folder: Path, steps: int) -> dict:
    """Sampling and gathering in turns over the same 100,000 steps at most, then sampling from all steps there are."""
    part, steps = folder.with_name(f'{folder.name}_part'), min(steps, 100_000)
    fill(part, steps)
    store = opened(part)
    data = {
        key: np.concatenate([getattr(read(part / f'bag{number:06d}')[0][0], key) for number in range(steps // EPISODE)])
        for key in ('image', 'vector', 'action', 'reward', 'is_first', 'is_last', 'is_terminal')
    }
    rng = np.random.default_rng(0)

    def gather() -> dict:
        rows = rng.integers(0, steps - LENGTH, BATCH)[:, None] + np.arange(LENGTH)
        return {key: array[rows] for key, array in data.items()}

    first_use = timed(lambda: store.sample(BATCH, LENGTH), 10)
    timed(lambda: store.sample(BATCH, LENGTH), 2 * steps // EPISODE)
    turns: list[list[float]] = [[], []]
    for _ in range(10):
        for times, take in zip(turns, (lambda: store.sample(BATCH, LENGTH), gather)):
            times += timed(take, SAMPLES // 10)
    assert not store.problems, store.problems
    store = opened(folder)
    timed(lambda: store.sample(BATCH, LENGTH), store.episodes)
    return {
        'sample': statistics.median(turns[0]),
        'gather': statistics.median(turns[1]),
        'first_use': statistics.median(first_use),
        'sample_all': statistics.median(timed(lambda: store.sample(BATCH, LENGTH), SAMPLES)),
    }


def opened(folder: Path) -> ReplayDataset:
    dataset = ReplayDataset(SPEC, 10**7)
    dataset.add_folder(folder)
    dataset.refresh()
    return dataset


def timed(act: Callable[[], object], count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        before = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - before)
    return seconds


def update(preset: str) -> float:
    """Median seconds of the learner's updates."""
    from dreamer_ros.config import load_preset
    from dreamer_ros.training import process

    process.prepare()
    from dreamer_ros.agents.system import SAMPLED
    from dreamer_ros.training.learner import Learner

    config = load_preset(preset, (f'schedule.batch={BATCH}', f'schedule.length={LENGTH}', 'env.image_size=[64, 64]'))
    process.configure_learner(process.pick_threads(robots=1), config.schedule.overlap)
    learner, images = Learner(config, SPEC), pictures(LENGTH, 0)
    made = episode(0, images)
    batch = {key: np.repeat(getattr(made, key)[None], BATCH, 0) for key in SAMPLED}
    return statistics.median(timed(lambda: float(sum(learner.update(batch).values())), 5)[2:])


if __name__ == '__main__':
    main()
