"""A learner that is as small as can be, for tests in which it need not learn much."""

from __future__ import annotations

from pathlib import Path

from dreamer_ros.config import load_preset

# Of preset `cpu`.
TINY = (
    'schedule.batch=4',
    'schedule.length=8',
    'rssm.deter=16',
    'rssm.hidden=16',
    'rssm.stoch=4',
    'rssm.classes=4',
    'conv.depth=2',
    'mlp.units=16',
    'imagination.starts=8',
    'imagination.horizon=3',
)


def write_preset(path: Path, *overrides: str) -> str:
    """Write the preset file of a tiny learner of 32×32 images with these overrides; its name."""
    path.write_text(load_preset('cpu', (*TINY, 'env.image_size=32', *overrides)).to_yaml())
    return str(path)
