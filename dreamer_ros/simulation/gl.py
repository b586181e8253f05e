"""Choosing and loading OpenGL.

dm_control reads MUJOCO_GL and loads OpenGL while it is imported, so `prepare` must run before that. Only the
standard library is imported at the top here; the other files in this folder may import mujoco at theirs.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any

from dreamer_ros.errors import InputError

_BACKENDS = ('egl', 'osmesa', 'glfw')


def prepare() -> None:
    """Choose the OpenGL backend and check that it loads.

    EGL unless MUJOCO_GL says otherwise: it needs no display and opens no window where there is one. Mesa's
    software renderer draws in the calling thread (LP_NUM_THREADS=0): for small images that is faster than its
    thread pool, and it leaves the other cores to the learner.

    Raises:
        InputError: a Python package or the OpenGL library is missing.
    """
    os.environ['MUJOCO_GL'] = os.environ.get('MUJOCO_GL', '').lower() or 'egl'
    os.environ.setdefault('LP_NUM_THREADS', '0')
    _load_triton_first()
    _backend()


def make_context(width: int, height: int) -> Any:
    """A new OpenGL context of MuJoCo's kind (`make_current`, `free`), made current.

    Raises:
        InputError: the machine has no usable OpenGL.
    """
    _load_triton_first()
    try:
        context = _backend().GLContext(width, height)
        context.make_current()
    except InputError:
        raise
    except Exception as error:  # each backend has its own: ImportError, RuntimeError, GLError, …
        raise _unavailable(error) from error
    return context


def _load_triton_first() -> None:
    """Load Triton before Mesa where PyTorch may want it later.

    Both bring an LLVM along, and the process crashes when Triton's is loaded second. PyTorch's wheels for GPUs
    load it with the first optimizer.
    """
    if 'torch' in sys.modules and 'dm_control' not in sys.modules:  # which has loaded Mesa
        with contextlib.suppress(ImportError):
            importlib.import_module('triton')


def _backend() -> Any:
    """MuJoCo's module for MUJOCO_GL. `mujoco.GLContext` itself is fixed by whoever imports mujoco first."""
    name = os.environ['MUJOCO_GL']
    if name not in _BACKENDS:
        raise InputError(f'MUJOCO_GL: expected one of {", ".join(_BACKENDS)}, got {name!r}')
    try:
        return importlib.import_module(f'mujoco.{name}')
    except ModuleNotFoundError as error:
        raise InputError(
            f'simulation: the Python package {error.name} is missing; pip install "dreamer_ros[sim]"'
        ) from error
    except (ImportError, AttributeError, OSError) as error:
        # PyOpenGL reports a missing library as an AttributeError on None.
        raise _unavailable(error) from error


def _unavailable(cause: Exception) -> InputError:
    return InputError(
        f'rendering: OpenGL is not available with MUJOCO_GL={os.environ["MUJOCO_GL"]} ({cause}); '
        'on Debian or Ubuntu run: apt install libegl1 libgl1-mesa-dri'
    )
