"""Errors meant for people: one clear sentence, and an exit code that says so."""

from __future__ import annotations

import difflib
import errno
import sys
from collections.abc import Callable, Iterable

EXIT_BAD_INPUT = 2
LONGEST = 2000  # characters of a sentence


class InputError(ValueError):
    """Bad input from outside: a file, a topic, a parameter.

    The message is one sentence that names the thing, what was expected and what came. Line breaks and terminal codes
    of what came are shown as escapes, and only its beginning if it is very long.
    """

    def __init__(self, message: str):
        text = ''.join(each if each.isprintable() else ascii(each)[1:-1] for each in str(message))
        super().__init__(text if len(text) <= LONGEST else f'{text[:LONGEST]}…')


def hint(name: str, known: Iterable[str]) -> str:
    """What somebody who wrote this name may have meant."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 3)
    return f'did you mean {" or ".join(near)}?' if near else f'expected one of {", ".join(names)}'


def run_main(main: Callable[[], int | None]) -> int:
    """Run an entry point; bad input and files that cannot be used become one line on stderr and exit code 2."""
    try:
        return main() or 0
    except InputError as error:
        sentence = str(error)
    except OSError as error:
        if error.filename is not None:
            sentence = f'{error.filename}: expected a file or folder that can be used ({error.strerror})'
        elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            sentence = f'expected room on the disk ({error.strerror})'
        elif error.errno == errno.ENOENT:  # from os.getcwd
            sentence = 'the working directory: expected a folder that exists, but it was deleted'
        else:
            raise
    print(f'error: {sentence}', file=sys.stderr, flush=True)
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
