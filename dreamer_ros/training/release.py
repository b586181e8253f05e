"""Policies that ship with the package: models/policies/<name>.onnx and its card, <name>.yaml."""

from __future__ import annotations

import datetime
import hashlib
import math
from pathlib import Path

import yaml

from dreamer_ros.errors import InputError
from dreamer_ros.files import write_file
from dreamer_ros.policy.digest import with_digest
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.schema import load_json, load_yaml
from dreamer_ros.training.run_directory import latest_policy

FEWEST_EPISODES = 10


def release(run: Path, folder: Path) -> Path:
    """Copy a run's latest policy to `<folder>/<task>.onnx`, with a card of its origin and its returns.

    Args:
        run: a run directory with an evaluation of that policy, as `dreamer eval` leaves it.
        folder: of the released policies.

    Returns:
        the card.

    Raises:
        InputError: the policy was evaluated in too few episodes, is damaged, or a better one is released.
    """
    source = latest_policy(run)
    runner = PolicyRunner(source)
    result = _evaluation(run, runner.version)
    if result is None:
        raise InputError(
            f'run {run}: expected an evaluation of {source.name} over at least {FEWEST_EPISODES} episodes, '
            f'found none: dreamer eval {run}'
        )
    made = datetime.datetime.fromtimestamp(source.stat().st_mtime, datetime.timezone.utc)
    data = with_digest(source.read_bytes())  # an older run's has none
    metadata = runner.metadata
    card = {
        'task': runner.spec.name,
        'return': {
            'mean': round(result['mean_return'], 1),
            'standard_deviation': round(result['standard_deviation'], 1),
            'episodes': len(result['episodes']),
        },
        'preset': metadata['preset'],
        'system': metadata['system'],
        'env_steps': int(metadata['step']),
        'updates': int(metadata['updates']),
        'date': made.date().isoformat(),
        'sha256': hashlib.sha256(data).hexdigest(),
        'spec_hash': runner.spec.hash,
        'config': load_yaml(run / 'config.yaml', str(run / 'config.yaml')),
    }
    path = folder / f'{runner.spec.name}.yaml'
    before = load_yaml(path, str(path))['return']['mean'] if path.exists() else -math.inf
    if before > card['return']['mean']:
        raise InputError(
            f'{path}: expected a better policy than the one released, whose mean return is {before}, got '
            f'{card["return"]["mean"]}; remove that one first if this is meant'
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / f'{runner.spec.name}.onnx', data)
    write_file(path, yaml.safe_dump(card, sort_keys=False))
    return path


def _evaluation(run: Path, version: int) -> dict | None:
    """The newest evaluation of this version of the policy over enough episodes."""
    for path in sorted((run / 'evaluation').glob('*/result.json'), reverse=True):
        result = load_json(path, str(path))
        actors = {episode['actor'] for episode in result['episodes']}
        if actors == {f'policy/{version}/evaluate'} and len(result['episodes']) >= FEWEST_EPISODES:
            return result
    return None
