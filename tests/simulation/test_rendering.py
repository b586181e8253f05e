"""Images: sizes, orientation, quality modes, the camera model."""

from __future__ import annotations

import subprocess
import sys

import mujoco
import numpy as np
import pytest

from dreamer_ros.simulation import make
from dreamer_ros.simulation.rendering import Renderer, find_cameras

SCENE = """
<mujoco>
  <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
  <worldbody>
    <camera name="forward" xyaxes="0 -1 0 0 0 1" fovy="50"/>
    <camera name="upwards" xyaxes="0 -1 0 -1 0 0"/>
    <geom type="sphere" size="0.05" pos="{x} {y} {z}" rgba="0 1 0 1"/>
  </worldbody>
</mujoco>
"""


def draw(model, size, mode='fast', camera='forward'):
    """One image of a model's initial state, and the camera it was taken with."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = Renderer(model, find_cameras(model, size, [camera]), mode)
    image = renderer.render(data)
    renderer.close()
    return image, renderer.cameras[0]


@pytest.mark.parametrize('size', [(32, 32), (64, 64), (96, 96), (48, 80), (90, 50)])
@pytest.mark.parametrize('position', [(2, 0, 0), (2, 0.4, 0.25), (3, -0.3, -0.6)])
def test_camera_model_projects_where_the_renderer_draws(size, position):
    x, y, z = position
    image, camera = draw(mujoco.MjModel.from_xml_string(SCENE.format(x=x, y=y, z=z)), size)
    assert image.shape == (*size, 3)
    rows, columns = np.nonzero(image[..., 1] > 128)
    # The camera looks along x, with its own x to the right (-y) and its own y downwards (-z).
    expected = camera.K @ [-y, -z, x]
    expected = expected[:2] / expected[2]
    assert (columns.mean(), rows.mean()) == pytest.approx(expected, abs=0.6)


def test_camera_by_number_and_name():
    model = mujoco.MjModel.from_xml_string(SCENE.format(x=2, y=0, z=0))
    by_name, camera = draw(model, (32, 32), camera='forward')
    by_number, _ = draw(model, (32, 32), camera=0)
    assert (camera.name, camera.fovy, camera.width, camera.height) == ('forward', 50, 32, 32)
    assert np.array_equal(by_name, by_number)
    assert not np.array_equal(by_name, draw(model, (32, 32), camera='upwards')[0])


@pytest.mark.parametrize('task', ['walker_walk', 'cup_catch', 'quadruped_run'])
def test_modes_show_the_same_scene(task):
    images = {}
    for mode in ('fast', 'shadows', 'suite'):
        environment = make(task, render=mode, seed=1)
        images[mode] = environment.reset().image.astype(float)
        environment.close()
    for mode in ('fast', 'shadows'):
        # Brightness may differ, edges may not: compare after removing each image's mean.
        first, second = (image - image.mean() for image in (images[mode], images['suite']))
        correlation = (first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum())
        assert correlation > 0.9, mode


def test_suite_mode_is_what_dm_control_draws():
    environment = make('cheetah_run', render='suite')
    image = environment.reset().image
    reference = environment._world._physics.render(64, 64, camera_id=0)
    environment.close()
    assert np.abs(image.astype(int) - reference).max() <= 2


def test_every_observation_owns_its_image():
    environment = make('cartpole_swingup')
    first = environment.reset().image
    copy = first.copy()
    environment.step([1])
    environment.reset()
    environment.close()
    assert np.array_equal(first, copy) and first.flags.c_contiguous


def test_a_new_terrain_is_drawn():
    environment = make('quadruped_escape', cameras=['global'])
    first, second = environment.reset().image, environment.reset().image
    fresh = Renderer(environment._world.model, environment.cameras, 'fast')
    expected = fresh.render(environment._world.data)
    fresh.close()
    environment.close()
    assert np.array_equal(second, expected) and not np.array_equal(first, second)


def test_an_optimizer_can_be_made_after_rendering():
    """PyTorch's wheels for GPUs load Triton then, whose LLVM must not come after Mesa's."""
    code = (
        "import torch; from dreamer_ros import simulation; simulation.make('cartpole_swingup').reset(); "
        'torch.optim.Adam([torch.zeros(1, requires_grad=True)])'
    )
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
