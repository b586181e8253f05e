"""Where the package's data folders (`sim/`, `robots/`, `models/`, `launch/`) lie, however it was installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dreamer_ros.errors import InputError


def share(*parts: str) -> Path:
    """Path of a data folder or file: `share('models')`, `share('sim', 'rover')`.

    Looks beside the package (source checkout, `pip install -e`, `colcon build --symlink-install`), then in
    `share/dreamer_ros` of each ament prefix and of the Python installation (`pip install`, `colcon build`).

    Raises:
        InputError: no candidate has it.
    """
    checkout = Path(__file__).resolve().parent.parent
    roots = [checkout] if (checkout / 'package.xml').exists() else []
    prefixes = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]
    # colcon's layout is <prefix>/lib/pythonX.Y/site-packages/dreamer_ros/paths.py
    prefixes += [str(parent) for parent in Path(__file__).resolve().parents[2:6]]
    roots += [Path(prefix) / 'share' / 'dreamer_ros' for prefix in prefixes if prefix]
    for root in roots:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    searched = ', '.join(str(root) for root in roots)
    raise InputError(f'{"/".join(parts)} of dreamer_ros was not found; looked in {searched}')
