"""Policy files written one after the other, as a long run writes them: time per file, and memory before and after.

    python -m benchmarks.bench_export [--preset dreamerv3_12m] [--exports 500]

The policy is that of a fresh learner for six actions, on one thread. Its parameters are changed a little between two
files.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path

from dreamer_ros.training import process

process.prepare()  # before torch is imported, as the trainer does

import torch  # noqa: E402

from dreamer_ros.config import load_preset  # noqa: E402
from dreamer_ros.policy.export import Exporter  # noqa: E402
from dreamer_ros.spec import RobotSpec  # noqa: E402
from dreamer_ros.training.learner import Learner  # noqa: E402

ACTIONS = 6
WARM = 20  # exports before memory is looked at: allocators keep some for the next ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--preset', default='dreamerv3_12m')
    parser.add_argument('--exports', type=int, default=500)
    parser.add_argument('--json', type=Path, default=Path('runs/bench/export.json'))
    arguments = parser.parse_args()
    process.configure_torch(1)
    config = load_preset(arguments.preset, ())
    names = tuple(f'joint{i}' for i in range(ACTIONS))
    spec = RobotSpec('bench', config.env.image_size, (), names, (-1.0,) * ACTIONS, (1.0,) * ACTIONS, 0.02, 2)
    policy = Learner(config, spec, 'cpu').policy
    exporter = Exporter(policy, spec)
    result = {'preset': arguments.preset, 'exports': arguments.exports, **measure(policy, exporter, arguments.exports)}
    print(
        '{preset}: {exports} files of {megabytes:.1f} MB, {milliseconds:.0f} ms each (median), memory {before:.0f} MB '
        'after the first {warm}, {after:.0f} MB after all: {growth:.3f} MB per file'.format(**result, warm=WARM)
    )
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + '\n')


def measure(policy: torch.nn.Module, exporter: Exporter, exports: int) -> dict:
    """Median time per file, and the memory of this process in MB."""
    seconds, before = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'policy.onnx')
        for version in range(1, WARM + exports + 1):
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.mul_(0.999)
            began = time.perf_counter()
            exporter.write(path, {'version': version})
            seconds.append(time.perf_counter() - began)
            if version == WARM:
                before = resident_megabytes()
        size = path.stat().st_size / 1e6
    after = resident_megabytes()
    return {
        'megabytes': size,
        'milliseconds': 1e3 * statistics.median(seconds[WARM:]),
        'before': before,
        'after': after,
        'growth': (after - before) / exports,
    }


def resident_megabytes() -> float:
    """Memory that this process has in RAM."""
    gc.collect()
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmRSS:'):
            return int(line.split()[1]) / 1e3
    raise RuntimeError('expected a line VmRSS in /proc/self/status, found none')


if __name__ == '__main__':
    main()
