from __future__ import annotations

import array
import io

import numpy as np
import pytest
from PIL import Image as Picture
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from dreamer_ros.errors import InputError
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.images import Crop, decode_image, fill_compressed

RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'


def area_average(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """f64[height, width, C]: the mean of the pixels whose centres lie in each new pixel."""

    def weights(old: int, new: int) -> np.ndarray:
        place = (np.arange(old) + 0.5) * new / old
        inside = (place > np.arange(new)[:, None]) & (place <= np.arange(1, new + 1)[:, None])
        return inside / inside.sum(1, keepdims=True)

    return np.einsum(
        'ih,jw,hwc->ijc', weights(pixels.shape[0], height), weights(pixels.shape[1], width), pixels.astype(float)
    )


def raw(pixels: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False) -> Image:
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1).view(np.uint8)
    rows = np.concatenate([rows, np.full((height, padding), 99, np.uint8)], axis=1)
    return Image(
        height=height,
        width=width,
        encoding=encoding,
        step=rows.shape[1],
        is_bigendian=int(big_endian),
        data=array.array('B', rows.tobytes()),
    )


def both_ways(message):
    """The message as rclpy gives it after the wire, and as a bag reader decodes it."""
    cdr = serialize_message(message)
    return [deserialize_message(cdr, type(message)), decode(cdr, f'sensor_msgs/msg/{type(message).__name__}')]


@pytest.mark.parametrize(
    'encoding, order', [('rgb8', [0, 1, 2]), ('bgr8', [2, 1, 0]), ('rgba8', [0, 1, 2, 3]), ('bgra8', [2, 1, 0, 3])]
)
@pytest.mark.parametrize('padding', [0, 5])
def test_colours_padding_and_crop(encoding, order, padding, rng):
    pixels = rng.integers(0, 256, (11, 7, 4), np.uint8)
    for message in both_ways(raw(pixels[:, :, order], encoding, padding)):
        np.testing.assert_array_equal(decode_image(message, RAW, None, (11, 7)), pixels[:, :, :3])
        np.testing.assert_array_equal(
            decode_image(message, RAW, Crop(x=1, y=2, width=5, height=8), (8, 5)), pixels[2:10, 1:6, :3]
        )


@pytest.mark.parametrize('big_endian', [False, True])
def test_grey(big_endian, rng):
    pixels = rng.integers(0, 1 << 16, (6, 5), np.uint16)
    sent = pixels.astype('>u2' if big_endian else '<u2')
    for message in both_ways(raw(sent, 'mono16', 3, big_endian)):
        np.testing.assert_array_equal(
            decode_image(message, RAW, Crop(x=1, y=0, width=4, height=6), (6, 4)),
            np.repeat(pixels[:, 1:, None] >> 8, 3, 2),
        )
    grey = (pixels >> 8).astype(np.uint8)
    for message in both_ways(raw(grey, 'mono8', 1)):
        np.testing.assert_array_equal(decode_image(message, RAW, None, (6, 5)), np.repeat(grey[:, :, None], 3, 2))


@pytest.mark.parametrize('size', [(48, 64), (60, 31), (7, 9), (1, 1)])
def test_resizing_averages_over_areas(size, rng):
    pixels = rng.integers(0, 256, (97, 131, 3), np.uint8)
    seen = decode_image(raw(pixels, 'rgb8'), RAW, Crop(x=10, y=7, width=120, height=90), size)
    assert seen.shape == (*size, 3) and seen.dtype == np.uint8
    # Each of two passes rounds.
    assert np.abs(seen - area_average(pixels[7:97, 10:130], *size)).max() <= 1.01


@pytest.mark.parametrize(
    'kind, mode',
    [('JPEG', 'RGB'), ('JPEG', 'L'), ('PNG', 'RGB'), ('PNG', 'L'), ('PNG', 'RGBA'), ('PNG', 'P'), ('PNG', 'I;16')],
)
def test_compressed_images(kind, mode):
    quality = {'quality': 95, 'subsampling': 0} if kind == 'JPEG' else {}
    smooth = np.linspace(0, 250, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
    picture = Picture.fromarray(smooth)
    if mode == 'I;16':
        picture = Picture.fromarray(smooth[:, :, 0].astype(np.uint16) << 8)
    elif mode != 'RGB':
        picture = picture.convert(mode)
    expected = np.asarray(picture.convert('RGB')) if mode != 'I;16' else np.repeat(smooth[:, :, :1], 3, 2)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **quality)
    message = CompressedImage(format=f'rgb8; {kind.lower()} compressed bgr8', data=buffer.getvalue())
    for each in both_ways(message):
        seen = decode_image(each, COMPRESSED, None, (40, 30))
        assert seen.shape == (40, 30, 3) and np.abs(seen.astype(int) - expected).max() <= (6 if quality else 0)


def test_what_is_compressed_comes_back():
    smooth = np.linspace(0, 250, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
    message = CompressedImage()
    fill_compressed(message, smooth, 1_000_000_002)
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.format) == (1, 2, 'jpeg')
    for each in both_ways(message):
        assert np.abs(decode_image(each, COMPRESSED, None, (40, 30)).astype(int) - smooth).max() < 12


def test_bad_images(rng):
    pixels = rng.integers(0, 256, (6, 5, 3), np.uint8)
    with pytest.raises(InputError, match="expected encoding rgb8, .*got 'yuv422'"):
        decode_image(raw(pixels, 'yuv422'), RAW, None, (6, 5))
    for change in ({'height': 7}, {'step': 14}, {'width': 6}, {'height': 0, 'width': 0, 'step': 0, 'data': []}):
        message = raw(pixels, 'rgb8')
        for key, value in change.items():
            setattr(message, key, value)
        with pytest.raises(InputError, match='image: .* rgb8 with rows of'):
            decode_image(message, RAW, None, (6, 5))
    with pytest.raises(InputError, match='expected at least 6x6 pixels because of crop, got 5x6'):
        decode_image(raw(pixels, 'rgb8'), RAW, Crop(x=1, y=0, width=5, height=6), (6, 5))


def test_damaged_compressed_images(rng):
    message = CompressedImage()
    fill_compressed(message, rng.integers(0, 256, (40, 40, 3), np.uint8), 0)
    whole = bytes(message.data)
    for data in (b'', b'no picture', whole[: len(whole) // 2], whole[:20]):
        with pytest.raises(InputError, match='image: '):
            decode_image(CompressedImage(format='jpeg', data=data), COMPRESSED, None, (4, 4))
    gif = io.BytesIO()
    Picture.new('RGB', (9, 9)).save(gif, 'GIF')
    with pytest.raises(InputError, match='expected JPEG or PNG'):
        decode_image(CompressedImage(format='gif', data=gif.getvalue()), COMPRESSED, None, (4, 4))
    for _ in range(300):  # whatever the bytes, an image or an InputError
        bytes_ = bytearray(whole)
        for place in rng.integers(0, len(bytes_), 5):
            bytes_[place] = rng.integers(256)
        try:
            assert decode_image(CompressedImage(data=bytes(bytes_)), COMPRESSED, None, (4, 4)).shape == (4, 4, 3)
        except InputError:
            pass
