"""Camera images from MuJoCo, as fast as software rendering allows."""

from __future__ import annotations

import atexit
import dataclasses
import math
from collections.abc import Sequence

import mujoco
import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.simulation import gl

# Modes, and milliseconds per 64x64 frame of cartpole / walker / cheetah / quadruped in software on one core:
#   fast 0.22 / 0.27 / 0.29 / 0.52: no shadows, and no reflections, which draw the scene a second time
#   shadows 1.9 / 1.5 / 1.8 / 3.6: a shadow map of 512 pixels, and reflections
#   suite 13 / 15 / 17 / 28: as the model asks: shadow map 2048 or 4096, 4 samples per pixel, buffer 640x480
# Both faster modes draw curved surfaces and large floors with fewer triangles, which a small image hardly
# shows; that halves their time. The sky costs 0.1 ms and haze nothing, so every mode keeps them.

_FLOOR_QUADS = 100  # along a side; MuJoCo's spacing may ask for a thousand
_SPARE_GEOMS = 1000  # beyond the model's own: contact points, tendons, skins


@dataclasses.dataclass(frozen=True)
class CameraModel:
    """A pinhole camera without distortion.

    Attributes:
        number: of the camera in the model.
        name: its name in the model, or camera<number> where it has none.
        width, height: image size in pixels.
        fovy: vertical field of view in degrees.
    """

    number: int
    name: str
    width: int
    height: int
    fovy: float

    @property
    def K(self) -> np.ndarray:
        """f64[3, 3] intrinsic matrix in pixels; pixel centres lie at whole numbers, as in ROS and OpenCV."""
        focal = self.height / 2 / math.tan(math.radians(self.fovy) / 2)
        return np.array([[focal, 0, (self.width - 1) / 2], [0, focal, (self.height - 1) / 2], [0, 0, 1]])


class Renderer:
    """Draws what some cameras of one model see; scene and buffers are made once.

    Use it from the thread that made it: an OpenGL context stays with its thread. Several renderers may live
    in one process.

    Args:
        model: the compiled model; its rendering settings are changed to the mode's.
        cameras: of the model, with images of one size; at least one.
        mode: `fast`, `shadows` or `suite`.

    Raises:
        InputError: OpenGL is not available.
    """

    def __init__(self, model: mujoco.MjModel, cameras: Sequence[CameraModel], mode: str):
        height, width = cameras[0].height, cameras[0].width
        self.cameras = tuple(cameras)
        self._model = model
        self._gl = gl.make_context(width, height)
        _simplify(model, (height, width), mode)
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + model.nsite + _SPARE_GEOMS)
        if mode == 'fast':
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._option = mujoco.MjvOption()
        self._perturb = mujoco.MjvPerturb()
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        # At exit EGL shuts down by its own hook, registered before this one and therefore run after it.
        atexit.register(self.close)

    def render(self, data: mujoco.MjData) -> np.ndarray:
        """u8[H, W, 3 per camera] RGB images of the current state, first row on top; a new array each time."""
        self._gl.make_current()
        height, width = self._pixels.shape[:2]
        image = np.empty((height, width, len(self.cameras), 3), np.uint8)
        for place, camera in enumerate(self.cameras):
            self._view.fixedcamid = camera.number
            mujoco.mjv_updateScene(
                self._model, data, self._option, self._perturb, self._view, mujoco.mjtCatBit.mjCAT_ALL, self._scene
            )
            mujoco.mjr_render(self._viewport, self._scene, self._context)
            mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
            image[:, :, place] = self._pixels[::-1]  # OpenGL's first row is the bottom one
        return image.reshape(height, width, -1)

    def upload_terrain(self) -> None:
        """Send height fields to the GPU again, after a reset that may have changed them."""
        if self._model.nhfield:
            self._gl.make_current()
            for number in range(self._model.nhfield):
                mujoco.mjr_uploadHField(self._model, self._context, number)

    def close(self) -> None:
        """Free the GL context; the renderer cannot be used afterwards."""
        if self._gl is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None
            atexit.unregister(self.close)


def _simplify(model: mujoco.MjModel, image_size: tuple[int, int], mode: str) -> None:
    """Set the model's rendering quality; MuJoCo reads it when a context is made. The physics is untouched."""
    height, width = image_size
    quality, screen = model.vis.quality, model.vis.global_
    if mode == 'suite':
        screen.offwidth = max(screen.offwidth, width)
        screen.offheight = max(screen.offheight, height)
        return
    screen.offwidth, screen.offheight = width, height
    quality.offsamples = 0
    quality.shadowsize = 512 if mode == 'shadows' else 0
    quality.numslices, quality.numstacks = 16, 8
    planes = np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)
    # The third size of a plane is the spacing of the quads it is drawn with; lighting is computed per vertex.
    size = model.geom_size[planes]
    model.geom_size[planes, 2] = np.maximum(size[:, 2], 2 * size[:, :2].max(axis=1, initial=0) / _FLOOR_QUADS)


def find_cameras(
    model: mujoco.MjModel, image_size: tuple[int, int], wanted: Sequence[int | str]
) -> tuple[CameraModel, ...]:
    """The cameras of a model with these names or numbers.

    Raises:
        InputError: an unknown camera, or one twice.
    """
    height, width = image_size
    names = [model.camera(number).name or f'camera{number}' for number in range(model.ncam)]
    numbers = []
    for camera in wanted:
        try:
            number = names.index(camera) if camera in names else int(camera)
        except ValueError:
            number = -1
        if not 0 <= number < model.ncam:
            listed = ', '.join(f'{number} {name}' for number, name in enumerate(names)) or 'none'
            raise InputError(f'camera: the model has the cameras {listed}; got {camera!r}')
        numbers.append(number)
    if len(set(numbers)) < len(numbers):
        raise InputError(f'cameras: expected different ones, got {", ".join(map(str, wanted))}')
    return tuple(CameraModel(n, names[n], width, height, float(model.cam_fovy[n])) for n in numbers)
