"""The table of image encodings, by the names of sensor_msgs/image_encodings.hpp, and how each becomes RGB.

A picture is kept as planes, such as brightness and colour, and resized before it is converted. So only the few pixels
that a policy sees are converted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from dreamer_ros.errors import InputError
from dreamer_ros.schema import Mismatch, Model, Range


class Depth(Model):
    """How the distances of a depth camera become grey."""

    range: Range = Field(description='m that become black and white; what is nearer or farther is cut off')
    invalid: Literal['near', 'far'] = Field(description='what an unknown distance (0 or NaN) counts as')

    @field_validator('range')
    @classmethod
    def _fits(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= bounds[0] < bounds[1]:
            raise Mismatch('', '[near, far] in m that differ and are not negative', list(bounds))
        return bounds

    def grey(self, metres: np.ndarray) -> np.ndarray:
        """uint8 of distances f32 in m; infinity is beyond the range, minus infinity before it."""
        near, far = self.range
        scaled = np.clip((metres - near) * (255.0 / (far - near)), 0, 255)
        scaled[(metres == 0) | np.isnan(metres)] = 0.0 if self.invalid == 'near' else 255.0
        return (scaled + 0.5).astype(np.uint8)

    def grey_of_counts(self, counts: np.ndarray, units: tuple[float, float] | None) -> np.ndarray:
        """uint8 of distances as 16-bit numbers, see `_table`."""
        return _table(self, units)[counts]


@functools.lru_cache(maxsize=16)
def _table(depth: Depth, units: tuple[float, float] | None) -> np.ndarray:
    """uint8[65536]: the grey of each 16-bit number n, which is n mm, or a / (n - b) m for units (a, b)."""
    counts = np.arange(1 << 16, dtype=np.float64)
    if units is None:
        return depth.grey(counts / 1000.0)
    with np.errstate(divide='ignore'):
        metres = units[0] / (counts - units[1])
    metres[0] = np.nan
    return depth.grey(metres)


class Picture(NamedTuple):
    """An image before it is resized.

    Attributes:
        size: width and height.
        planes: each of one or three channels, and how many columns and rows of the image one of its pixels covers.
        convert: makes uint8 [H, W, 3] of the planes, once they have one size.
    """

    size: tuple[int, int]
    planes: tuple[tuple[Image.Image, int, int], ...]
    convert: Callable[..., np.ndarray]


class Encoding(NamedTuple):
    """One row of the table.

    Attributes:
        row: bytes of a row, per pixel.
        rows: rows of data, per row of the image.
        even: by what width and height must be divisible.
        read: makes a Picture of u8[rows, step], width, height, whether more than half of both is needed, and whether
            16-bit numbers begin with their upper byte.
    """

    row: int
    rows: float
    even: tuple[int, int]
    read: Callable[[np.ndarray, int, int, bool, bool], Picture]


def rgb_picture(image: Image.Image) -> Picture:
    """A Picture of RGB or 8-bit grey."""
    return Picture(image.size, ((image, 1, 1),), _with_colours)


def _with_colours(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


# Readers


def _packed(mode: str, channels: str) -> Callable:
    """Whole pixels, as Pillow's raw mode `channels`."""

    def read(data: np.ndarray, width: int, height: int, fine: bool, big_endian: bool) -> Picture:
        step = data.shape[1]
        return rgb_picture(Image.frombytes(mode, (width, height), data, 'raw', channels, step, 1))

    return read


def _upper_bytes(data: np.ndarray, width: int, big_endian: bool) -> np.ndarray:
    """The upper 8 bits of 16-bit numbers, of as many columns."""
    return data[:, 0 if big_endian else 1 : 2 * width : 2]


def _grey16(data: np.ndarray, width: int, height: int, fine: bool, big_endian: bool) -> Picture:
    return rgb_picture(_plane(_upper_bytes(data, width, big_endian)))


def _plane(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(values))


def _yuv(size: tuple[int, int], luma: np.ndarray, u: np.ndarray, v: np.ndarray, columns: int, rows: int) -> Picture:
    """Brightness and colour, of which one pixel covers so many columns and rows."""
    return Picture(size, ((_plane(luma), 1, 1), (_plane(u), columns, rows), (_plane(v), columns, rows)), _yuv_to_rgb)


def _yuv_to_rgb(luma: Image.Image, u: Image.Image, v: Image.Image) -> np.ndarray:
    """ITU-R BT.601 with brightness from 16 to 235, as cameras and cv_bridge have it."""
    y, blue, red = (np.asarray(plane, np.float32) for plane in (luma, u, v))
    y, blue, red = (y - 16) * 1.164383, blue - 128, red - 128
    rgb = np.stack([y + 1.596027 * red, y - 0.391762 * blue - 0.812968 * red, y + 2.017232 * blue], axis=-1)
    return np.clip(rgb + 0.5, 0, 255).astype(np.uint8)


def _yuv422(luma: int, u: int, v: int) -> Callable:
    """Two pixels in four bytes: brightness at `luma` and two further on, colour at `u` and `v`."""

    def read(data: np.ndarray, width: int, height: int, fine: bool, big_endian: bool) -> Picture:
        rows = data[:, : 2 * width]
        return _yuv((width, height), rows[:, luma::2], rows[:, u::4], rows[:, v::4], 2, 1)

    return read


def _yuv_planes(u: int, v: int, columns: int, rows: int) -> Callable:
    """Brightness, and below it pairs of colours of which each covers so many columns and rows."""

    def read(data: np.ndarray, width: int, height: int, fine: bool, big_endian: bool) -> Picture:
        colours = data[height:].reshape(height // rows, -1)[:, : 2 * width // columns]
        return _yuv((width, height), data[:height, :width], colours[:, u::2], colours[:, v::2], columns, rows)

    return read


def _bayer(pattern: str, bits: int) -> Callable:
    """One colour per pixel: the four of `pattern` in each square of two by two."""
    places = {colour: [divmod(k, 2) for k in range(4) if pattern[k] == colour] for colour in 'rgb'}

    def read(data: np.ndarray, width: int, height: int, fine: bool, big_endian: bool) -> Picture:
        mosaic = data[:, :width] if bits == 8 else _upper_bytes(data, width, big_endian)
        if fine:
            return rgb_picture(_plane(_interpolated(mosaic, places)))
        red, (first, second), blue = ([mosaic[row::2, column::2] for row, column in places[colour]] for colour in 'rgb')
        green = ((first.astype(np.uint16) + second + 1) // 2).astype(np.uint8)
        planes = tuple((_plane(colour), 2, 2) for colour in (*red, green, *blue))
        return Picture((width, height), planes, _stacked)

    return read


def _distances(name: str, depth: Depth) -> Callable:
    """Distances as one of the `DEPTHS`."""
    kind = np.dtype(DEPTHS[name])

    def read(data: np.ndarray, width: int, height: int, fine: bool, big_endian: bool) -> Picture:
        rows = np.ascontiguousarray(data[:, : width * kind.itemsize])
        numbers = rows.view(kind.newbyteorder('>' if big_endian else '<'))
        grey = depth.grey(numbers) if kind.kind == 'f' else depth.grey_of_counts(numbers, None)
        return rgb_picture(Image.fromarray(grey))

    return read


def _stacked(*planes: Image.Image) -> np.ndarray:
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def _interpolated(mosaic: np.ndarray, places: dict[str, list[tuple[int, int]]]) -> np.ndarray:
    """uint8 [H, W, 3]: each missing colour is the mean of its nearest neighbours."""
    height, width = mosaic.shape
    rgb = np.empty((height, width, 3), np.uint8)
    padded = np.pad(mosaic, 1, mode='reflect')
    for channel, colour in enumerate('rgb'):
        known = np.zeros((height + 2, width + 2), np.uint16)
        for row, column in places[colour]:
            known[1 - row :: 2, 1 - column :: 2] = padded[1 - row :: 2, 1 - column :: 2]
        if colour == 'g':
            middle = known[1:-1, 1:-1]
            total = 4 * middle + known[:-2, 1:-1] + known[2:, 1:-1] + known[1:-1, :-2] + known[1:-1, 2:]
        else:
            across = known[:, :-2] + 2 * known[:, 1:-1] + known[:, 2:]
            total = across[:-2] + 2 * across[1:-1] + across[2:]
        rgb[:, :, channel] = (total + 2) // 4
    return rgb


_EVEN, _ANY = (2, 2), (1, 1)
_UYVY = Encoding(2, 1, (2, 1), _yuv422(1, 0, 2))
_YUYV = Encoding(2, 1, (2, 1), _yuv422(0, 1, 3))

ENCODINGS = {
    'rgb8': Encoding(3, 1, _ANY, _packed('RGB', 'RGB')),
    'bgr8': Encoding(3, 1, _ANY, _packed('RGB', 'BGR')),
    'rgba8': Encoding(4, 1, _ANY, _packed('RGB', 'RGBX')),
    'bgra8': Encoding(4, 1, _ANY, _packed('RGB', 'BGRX')),
    'mono8': Encoding(1, 1, _ANY, _packed('L', 'L')),
    'mono16': Encoding(2, 1, _ANY, _grey16),
    'uyvy': _UYVY,
    'yuv422': _UYVY,
    'yuyv': _YUYV,
    'yuv422_yuy2': _YUYV,
    'nv12': Encoding(1, 1.5, _EVEN, _yuv_planes(0, 1, 2, 2)),
    'nv21': Encoding(1, 1.5, _EVEN, _yuv_planes(1, 0, 2, 2)),
    'nv24': Encoding(1, 3, _ANY, _yuv_planes(0, 1, 1, 1)),
    **{
        f'bayer_{pattern}{bits}': Encoding(bits // 8, 1, _EVEN, _bayer(pattern, bits))
        for pattern in ('rggb', 'bggr', 'gbrg', 'grbg')
        for bits in (8, 16)
    },
}
# Distances, and their types without byte order: mm or m (REP 118).
DEPTHS = {'16UC1': 'u2', 'mono16': 'u2', '32FC1': 'f4'}


def read_image(msg: Any, depth: Depth | None, needed: tuple[int, int]) -> Picture:
    """The Picture in a sensor_msgs/Image.

    Only the upper 8 bits of 16-bit grey and Bayer are used. Transparency is ignored.

    Args:
        depth: of a camera that sees distances.
        needed: least width and height of the planes, where there is a choice.

    Raises:
        InputError: another encoding, or inconsistent sizes.
    """
    name, width, height, step = msg.encoding, msg.width, msg.height, msg.step
    if name not in (DEPTHS if depth else ENCODINGS):
        if name in DEPTHS:
            raise InputError(f'image: {name} holds distances: expected `depth` of the camera in the contract, got none')
        expected = f'{", ".join(DEPTHS)} of a camera with depth' if depth else ', '.join(ENCODINGS)
        raise InputError(f'image: expected encoding {expected}, got {name!r}')
    row, rows, even, read = (int(DEPTHS[name][1]), 1, _ANY, _distances(name, depth)) if depth else ENCODINGS[name]
    data = np.frombuffer(msg.data, np.uint8)
    if not (height and width) or step < width * row or data.size != height * step * rows:
        raise InputError(
            f'image: {width}x{height} {name} with rows of {step} bytes needs {height * step * rows:g} bytes '
            f'and rows of at least {width * row}, got {data.size} bytes'
        )
    if width % even[0] or height % even[1]:
        raise InputError(f'image: expected an even width and height of {name}, got {width}x{height}')
    fine = 2 * needed[0] > width or 2 * needed[1] > height
    return read(data.reshape(-1, step), width, height, fine, bool(msg.is_bigendian))
