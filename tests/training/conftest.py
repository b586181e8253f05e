"""Fixtures of several tests of training."""

from __future__ import annotations

import pytest

from tests.training.test_loop import CONFIG


@pytest.fixture
def preset(tmp_path):
    """The small config as a file, for another robot: that of the bags is taken from them."""
    config = CONFIG.model_copy(update={'env': CONFIG.env.model_copy(update={'image_size': (64, 64)})})
    path = tmp_path / 'small.yaml'
    path.write_text(config.to_yaml())
    return str(path)
