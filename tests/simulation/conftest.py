"""The tests import mujoco by themselves, so OpenGL must be chosen before their modules are loaded."""

from dreamer_ros.simulation import gl

gl.prepare()
