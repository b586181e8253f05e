"""Datasets of one folder, for tests."""

from __future__ import annotations

from pathlib import Path

from dreamer_ros.replay.dataset import ReplayDataset
from dreamer_ros.spec import RobotSpec


def dataset_of(folder: Path, spec: RobotSpec, capacity: int, seed: int = 0, **options) -> ReplayDataset:
    dataset = ReplayDataset(spec, capacity, seed)
    dataset.add_folder(folder, **options)
    return dataset
