"""8-bit variants of policies."""

from __future__ import annotations

import numpy as np
import pytest

from dreamer_ros.cli.main import main
from dreamer_ros.errors import InputError
from dreamer_ros.policy.export import Exporter
from dreamer_ros.policy.quantize import difference, quantize
from dreamer_ros.policy.runner import PolicyRunner
from tests.policy.tiny import TinyPolicy, spec


@pytest.fixture
def policy(tmp_path):
    """A policy file large enough that its linear layers matter."""
    import torch

    torch.manual_seed(0)
    robot = spec(('hip', 'knee'))
    Exporter(TinyPolicy(robot, deter=256, groups=8, classes=8, depth=8).eval(), robot).write(
        tmp_path / 'policy.onnx', dict(system='tiny', preset='tiny', step=3, version=3)
    )
    return tmp_path / 'policy.onnx'


def test_an_8_bit_policy_does_nearly_the_same(policy, tmp_path):
    target = tmp_path / 'small.onnx'
    manifest = quantize(policy, target)
    runner = PolicyRunner(target, sha256=manifest.sha256)  # its own golden vector comes out
    assert runner.metadata['quantized'] == 'int8' and runner.version == 3 and runner.uses_vector
    assert runner.spec == PolicyRunner(policy).spec
    assert target.stat().st_size < 0.4 * policy.stat().st_size
    gap = difference(policy, target)
    assert gap.steps == 200 and 0 < gap.mean <= gap.largest
    act = [
        PolicyRunner(path).act(np.full((32, 32, 3), 90, np.uint8), np.zeros(2, np.float32), True, False)
        for path in (policy, target)
    ]
    assert np.abs(act[0] - act[1]).max() < 0.05 < np.abs(act[0]).max()
    with pytest.raises(InputError, match='expected one with float weights, got int8'):
        quantize(target, tmp_path / 'smaller.onnx')


def test_the_command(policy, capsys):
    assert main(['policy', 'quantize', str(policy)]) == 0
    assert 'policy_int8.onnx: ' in capsys.readouterr().out
    with pytest.raises(InputError, match='expected a bag, a folder of bags or a run, found none'):
        main(['policy', 'quantize', str(policy), '--bags', str(policy.parent)])


def test_no_variant_without_a_card_among_released_policies(policy, tmp_path, capsys):
    released = tmp_path / 'released'
    released.mkdir()
    source = policy.rename(released / 'tiny.onnx')
    source.with_suffix('.yaml').write_text('task: tiny')
    for arguments in ([], ['--output', str(released / 'small.onnx')]):
        with pytest.raises(InputError, match='expected --output in another folder'):
            main(['policy', 'quantize', str(source), *arguments])
    assert sorted(path.name for path in released.iterdir()) == ['tiny.onnx', 'tiny.yaml']
    assert main(['policy', 'quantize', str(source), '--output', str(tmp_path / 'small.onnx')]) == 0
