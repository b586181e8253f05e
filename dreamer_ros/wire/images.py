"""Images of robots, raw or compressed, as a policy sees them: cropped, resized, turned, RGB."""

from __future__ import annotations

import array
import io
import math
import struct
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from dreamer_ros.errors import InputError
from dreamer_ros.schema import Count, Model
from dreamer_ros.wire.codecs import fill_stamp
from dreamer_ros.wire.encodings import Depth, Picture, read_image, rgb_picture

COMPRESSED = 'sensor_msgs/msg/CompressedImage'
COMPRESSION = '/compressed'  # image_transport adds this to the name of a topic
# In front of the PNG of compressed_depth_image_transport: a kind, and two numbers of 32-bit distances.
_DEPTH_HEADER = struct.Struct('<iff')


class Crop(Model):
    """The part of an image that is used."""

    x: int = Field(ge=0, description='pixels left of it')
    y: int = Field(ge=0, description='pixels above it')
    width: Count = Field(description='pixels')
    height: Count = Field(description='pixels')


class View(Model):
    """What becomes of a camera's image before the policy sees it."""

    crop: Crop | None = Field(None, description='the part of the image that is used; all of it')
    rotate: Literal[0, 90, 180, 270] = Field(0, description='degrees clockwise by which it is turned, after cropping')
    depth: Depth | None = Field(None, description='how distances become grey, for a depth camera')


PLAIN = View()


def decode_image(message: Any, type_name: str, view: View = PLAIN, size: tuple[int, int] | None = None) -> np.ndarray:
    """A sensor_msgs/Image or CompressedImage (JPEG, PNG, compressedDepth) as the policy sees it.

    Resizing averages the pixels whose centres lie in the area of a new one.

    Args:
        type_name: of the message.
        size: (height, width) of the result; None to keep the size.

    Returns:
        uint8 [height, width, 3], perhaps read-only.

    Raises:
        InputError: an unsupported encoding, damaged data, or a crop beyond the image.
    """
    if type_name == COMPRESSED:
        return fit(open_image(message.data, message.format, view, size), view, size)
    needed = _needed((message.width, message.height), view, size)
    return fit(read_image(message, view.depth, needed), view, size)


def fit(picture: Picture, view: View, size: tuple[int, int] | None) -> np.ndarray:
    """See `decode_image`; without depth, which the picture no longer has."""
    crop = view.crop or Crop(x=0, y=0, width=picture.size[0], height=picture.size[1])
    right, below = crop.x + crop.width, crop.y + crop.height
    if right > picture.size[0] or below > picture.size[1]:
        raise InputError(
            f'image: expected at least {right}x{below} pixels because of crop, got {picture.size[0]}x{picture.size[1]}'
        )
    width, height = _unturned(view, size) or (crop.width, crop.height)
    planes = []
    for plane, columns, rows in picture.planes:
        box = (crop.x / columns, crop.y / rows, right / columns, below / rows)
        if box != (0, 0, width, height) or plane.size != (width, height):
            plane = plane.resize((width, height), Image.Resampling.BOX, box)
        planes.append(plane)
    pixels = picture.convert(*planes)
    return np.ascontiguousarray(np.rot90(pixels, -view.rotate // 90)) if view.rotate else pixels


def _unturned(view: View, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Width and height of the result before it is turned."""
    return size if size is None or view.rotate % 180 else (size[1], size[0])


def _needed(whole: tuple[int, int], view: View, size: tuple[int, int] | None) -> tuple[int, int]:
    """Least width and height in which an image must be decoded, so that each new pixel is made of two by two."""
    inner = _unturned(view, size)
    if inner is None:
        return whole
    crop = (view.crop.width, view.crop.height) if view.crop else whole
    width, height = (math.ceil(2 * whole_ * new / old) if old else 0 for whole_, new, old in zip(whole, inner, crop))
    return width, height


def fill_compressed(
    message: Any, image: np.ndarray, stamp: int, frame_id: str = 'camera', form: Literal['jpeg', 'png'] = 'jpeg'
) -> None:
    """Fill a sensor_msgs/CompressedImage with uint8 [H, W, 3]. PNG loses nothing."""
    fill_stamp(message.header.stamp, stamp)
    message.header.frame_id = frame_id
    message.format = form
    buffer = io.BytesIO()
    options: dict[str, Any] = {'quality': 90} if form == 'jpeg' else {}
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, form, **options)
    message.data = array.array('B', buffer.getvalue())


def open_image(data: Any, name: str, view: View = PLAIN, size: tuple[int, int] | None = None) -> Picture:
    """The picture in the bytes of a JPEG or PNG file, with or without the header of compressedDepth.

    Args:
        name: their declared format.
        view, size: how it will be seen. Of a JPEG no more detail is decoded than that needs.

    Raises:
        InputError: they are neither, or damaged.
    """
    data, units = memoryview(data).cast('B'), None
    if 'compressedDepth' in name and len(data) > _DEPTH_HEADER.size:
        _, *quantisation = _DEPTH_HEADER.unpack_from(data)
        units = tuple(quantisation) if name.startswith('32FC1') else None
        data = data[_DEPTH_HEADER.size :]
    try:
        image = Image.open(io.BytesIO(data), formats=('JPEG', 'PNG'))
        whole = image.size
        image.draft(None, _needed(whole, view, size))
        image.load()
        return _opened(image, whole, view.depth, units)
    except UnidentifiedImageError:
        raise InputError(f'image: expected JPEG or PNG, got {name!r} of {len(data)} bytes') from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f'image: damaged {name!r} ({error})') from error


def _opened(
    image: Image.Image, whole: tuple[int, int], depth: Depth | None, units: tuple[float, float] | None
) -> Picture:
    if image.mode == 'I;16':
        counts = np.asarray(image)
        grey = depth.grey_of_counts(counts, units) if depth else (counts >> 8).astype(np.uint8)
        return rgb_picture(Image.fromarray(grey))
    if depth:
        raise InputError(f'image: expected a PNG of 16 bits, as of a camera with depth, got {image.mode}')
    if image.mode not in ('RGB', 'L'):
        image = image.convert('RGB')
    scale = round(whole[0] / image.width)
    return rgb_picture(image)._replace(size=whole, planes=((image, scale, scale),))
