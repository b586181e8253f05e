"""Errors meant for people: one clear sentence, and an exit code that says so."""

from __future__ import annotations

import sys
from collections.abc import Callable

EXIT_BAD_INPUT = 2


class InputError(ValueError):
    """Bad input from outside: a file, a topic, a parameter.

    The message is one sentence that names the thing, what was expected and what came.
    """


def run_main(main: Callable[[], int | None]) -> int:
    """Run an entry point; an InputError becomes one line on stderr and exit code 2."""
    try:
        return main() or 0
    except InputError as error:
        print(f'error: {error}', file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT


def missing_package(error: ModuleNotFoundError) -> Exception:
    """An InputError that names what to install; `error` itself if one of our own modules is missing."""
    package = (error.name or '').split('.')[0]
    if package == 'dreamer_ros':
        return error
    extras = {
        'rclpy': 'ros',
        'gymnasium': 'gym',
        'cryptography': 'signing',
        'pyarrow': 'lerobot',
        **dict.fromkeys(('mujoco', 'dm_control', 'OpenGL'), 'sim'),
        **dict.fromkeys(('matplotlib', 'PIL', 'imageio_ffmpeg', 'rerun'), 'view'),
    }
    extra = extras.get(package, 'train')
    sourced = ', or source a ROS 2 installation' if package == 'rclpy' else ''
    return InputError(f"{package} is not installed, which this needs: pip install 'dreamer_ros[{extra}]'{sourced}")
