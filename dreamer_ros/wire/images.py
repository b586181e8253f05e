"""Converts images of robots, raw or compressed, to the policy's input: cropped, resized, RGB."""

from __future__ import annotations

import array
import io
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from dreamer_ros.errors import InputError
from dreamer_ros.schema import Count, Model
from dreamer_ros.wire.codecs import fill_stamp, image_to_array

COMPRESSED = 'sensor_msgs/msg/CompressedImage'


class Crop(Model):
    """The part of an image that is used."""

    x: int = Field(ge=0, description='pixels left of it')
    y: int = Field(ge=0, description='pixels above it')
    width: Count = Field(description='pixels')
    height: Count = Field(description='pixels')


def decode_image(message: Any, type_name: str, crop: Crop | None, size: tuple[int, int] | None) -> np.ndarray:
    """A sensor_msgs/Image or CompressedImage (JPEG or PNG) as the policy sees it.

    Resizing averages the pixels whose centres lie in the area of a new one.

    Args:
        type_name: of the message.
        crop: the part that is used; None for all.
        size: (height, width) of the result; None to keep the size.

    Returns:
        uint8 [height, width, 3], perhaps read-only.

    Raises:
        InputError: an unsupported encoding, damaged data, or a crop beyond the image.
    """
    if type_name == COMPRESSED:
        return fit_image(open_image(message.data, message.format), crop, size)
    pixels = image_to_array(message)
    if crop is None and size in (None, pixels.shape[:2]):
        return pixels
    return fit_image(Image.fromarray(pixels), crop, size)


def fit_image(image: Image.Image, crop: Crop | None, size: tuple[int, int] | None) -> np.ndarray:
    """See `decode_image`.

    Args:
        image: RGB, or grey of 8 or 16 bits.
    """
    crop = crop or Crop(x=0, y=0, width=image.width, height=image.height)
    x, y, width, height = crop.x, crop.y, crop.width, crop.height
    if x + width > image.width or y + height > image.height:
        raise InputError(
            f'image: expected at least {x + width}x{y + height} pixels because of crop, '
            f'got {image.width}x{image.height}'
        )
    if (width, height) != image.size:
        image = image.crop((x, y, x + width, y + height))
    if image.mode == 'I;16':
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if size is not None and (height, width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.BOX)
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def fill_compressed(message: Any, image: np.ndarray, stamp: int, frame_id: str = 'camera') -> None:
    """Fill a sensor_msgs/CompressedImage with uint8 [H, W, 3] as JPEG."""
    fill_stamp(message.header.stamp, stamp)
    message.header.frame_id = frame_id
    message.format = 'jpeg'
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, 'JPEG', quality=90)
    message.data = array.array('B', buffer.getvalue())


def open_image(data: Any, name: str) -> Image.Image:
    """The picture in the bytes of a JPEG or PNG file; `name` is their declared format, for errors.

    Raises:
        InputError: they are neither, or damaged.
    """
    try:
        image = Image.open(io.BytesIO(memoryview(data).cast('B')), formats=('JPEG', 'PNG'))
        image.load()
        return image if image.mode in ('RGB', 'L', 'I;16') else image.convert('RGB')
    except UnidentifiedImageError:
        raise InputError(f'image: expected JPEG or PNG, got {name!r} of {len(data)} bytes') from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f'image: damaged {name!r} ({error})') from error
