"""LeRobot datasets for tests, written with nothing but pyarrow, Pillow and imageio."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

FPS = 10
HEIGHT, WIDTH = 16, 24
TOP, WRIST = 'observation.images.top', 'observation.images.wrist'
FEATURES = {
    'observation.state': {'dtype': 'float32', 'shape': [3], 'names': {'motors': ['shoulder', 'elbow', 'gripper']}},
    TOP: {'dtype': 'video', 'shape': [HEIGHT, WIDTH, 3], 'names': ['height', 'width', 'channel']},
    WRIST: {'dtype': 'image', 'shape': [3, HEIGHT, WIDTH], 'names': ['channels', 'height', 'width']},
    'action': {'dtype': 'float32', 'shape': [2], 'names': ['shoulder', 'elbow']},
    'next.reward': {'dtype': 'float32', 'shape': [1], 'names': None},
    'next.done': {'dtype': 'bool', 'shape': [1], 'names': None},
}
PATHS = {
    2: (
        'data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet',
        'videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4',
    ),
    3: (
        'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet',
        'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4',
    ),
}
Rows = dict[str, np.ndarray]


def frames(rng: np.random.Generator, length: int, number: int = 0) -> Rows:
    """An episode whose film tells by its brightness which frame of which episode one sees."""
    level = 20 + 60 * number + 8 * np.arange(length)
    return {
        'observation.state': rng.normal(size=(length, 3)).astype(np.float32),
        TOP: np.broadcast_to(level[:, None, None, None], (length, HEIGHT, WIDTH, 3)).astype(np.uint8),
        WRIST: rng.integers(0, 256, (length, HEIGHT, WIDTH, 3), np.uint8),
        'action': rng.uniform(-90, 90, (length, 2)).astype(np.float32),
        'next.reward': rng.normal(size=length).astype(np.float32),
        'next.done': np.arange(length) == length - 1,
    }


def write_dataset(
    root: Path,
    version: str,
    episodes: Sequence[Rows],
    features: dict[str, Any] | None = None,
    codec: str = 'libx264',
    files: Sequence[int] = (),
    **info: Any,
) -> Path:
    """Write a dataset.

    Args:
        files: of a 3.0 dataset: number of the file that each episode goes to; all to the first by default.
        info: keys of info.json that are different.
    """
    major = int(version[1])
    features = FEATURES if features is None else features
    files = files or [0] * len(episodes)
    listed: list[dict[str, Any]] = []
    tables: dict[str, list[pyarrow.Table]] = {}
    films: dict[str, list[np.ndarray]] = {}
    start = 0
    for number, rows in enumerate(episodes):
        length = len(rows['action'])
        place = {'episode_chunk': 0, 'episode_index': number, 'chunk_index': 0, 'file_index': files[number]}
        entry = {'episode_index': number, 'tasks': [f'task {number}'], 'length': length}
        if major == 3:
            entry.update(
                {
                    'data/chunk_index': 0,
                    'data/file_index': files[number],
                    'dataset_from_index': start,
                    'dataset_to_index': start + length,
                    'stats/action/min': [0.0],
                }
            )
        columns = {key: column(rows[key]) for key in features if features[key]['dtype'] != 'video' and key in rows}
        columns.update(
            {
                'timestamp': pyarrow.array((np.arange(length) / FPS).astype(np.float32)),
                'frame_index': pyarrow.array(np.arange(length)),
                'episode_index': pyarrow.array(np.full(length, number)),
                'index': pyarrow.array(start + np.arange(length)),
                'task_index': pyarrow.array(np.full(length, number)),
            }
        )
        tables.setdefault(PATHS[major][0].format(**place), []).append(pyarrow.table(columns))
        for key in (key for key in features if features[key]['dtype'] == 'video'):
            film = films.setdefault(PATHS[major][1].format(**place, video_key=key), [])
            if major == 3:
                begin = sum(map(len, film)) / FPS
                where, end = f'videos/{key}', begin + length / FPS
                entry.update(
                    {
                        f'{where}/chunk_index': 0,
                        f'{where}/file_index': files[number],
                        f'{where}/from_timestamp': begin,
                        f'{where}/to_timestamp': end,
                    }
                )
            film.append(rows[key])
        listed.append(entry)
        start += length
    for name, parts in tables.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.concat_tables(parts), root / name)
    for name, parts in films.items():
        write_film(root / name, np.concatenate(parts), codec)
    meta = root / 'meta'
    meta.mkdir()
    content = {
        'codebase_version': version,
        'robot_type': 'arm',
        'total_episodes': len(episodes),
        'total_frames': start,
        'chunks_size': 1000,
        'fps': FPS,
        'data_path': PATHS[major][0],
        'video_path': PATHS[major][1],
        'features': {**features, 'timestamp': {'dtype': 'float32', 'shape': [1], 'names': None}},
        **info,
    }
    (meta / 'info.json').write_text(json.dumps(content))
    stats = [
        {'action': {'min': rows['action'].min(0).tolist(), 'max': rows['action'].max(0).tolist()}} for rows in episodes
    ]
    if version == 'v2.1':
        write_lines(
            meta / 'episodes_stats.jsonl', [{'episode_index': k, 'stats': values} for k, values in enumerate(stats)]
        )
    else:
        actions = np.concatenate([rows['action'] for rows in episodes])
        (meta / 'stats.json').write_text(
            json.dumps({'action': {name: np.atleast_1d(getattr(actions, name)(0)).tolist() for name in ('min', 'max')}})
        )
    if major == 2:
        write_lines(meta / 'episodes.jsonl', listed)
    else:
        (meta / 'episodes' / 'chunk-000').mkdir(parents=True)
        parquet.write_table(pyarrow.Table.from_pylist(listed), meta / 'episodes' / 'chunk-000' / 'file-000.parquet')
    return root


def column(values: np.ndarray) -> pyarrow.Array:
    if values.ndim == 4:
        return pyarrow.array([{'bytes': png(image), 'path': None} for image in values])
    return pyarrow.array(values.tolist() if values.ndim > 1 else values)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    return buffer.getvalue()


def write_film(path: Path, images: np.ndarray, codec: str = 'libx264', fps: float = FPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, images, plugin='FFMPEG', fps=fps, codec=codec, macro_block_size=1, ffmpeg_log_level='error')


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
