from __future__ import annotations

import array
import io
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image as Picture
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from dreamer_ros.errors import InputError
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.encodings import ENCODINGS, Depth
from dreamer_ros.wire.images import PLAIN, Crop, View, decode_image, fill_compressed

RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'


def area_average(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """f64[height, width, C]: the mean of the pixels whose centres lie in each new pixel."""

    def weights(old: int, new: int) -> np.ndarray:
        place = (np.arange(old) + 0.5) * new / old
        inside = (place > np.arange(new)[:, None]) & (place <= np.arange(1, new + 1)[:, None])
        return inside / inside.sum(1, keepdims=True)

    return np.einsum(
        'ih,jw,hwc->ijc',
        weights(pixels.shape[0], height),
        weights(pixels.shape[1], width),
        pixels.astype(float),
        optimize=True,
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
        np.testing.assert_array_equal(decode_image(message, RAW, PLAIN, (11, 7)), pixels[:, :, :3])
        np.testing.assert_array_equal(
            decode_image(message, RAW, View(crop=Crop(x=1, y=2, width=5, height=8)), (8, 5)), pixels[2:10, 1:6, :3]
        )


@pytest.mark.parametrize('big_endian', [False, True])
def test_grey(big_endian, rng):
    pixels = rng.integers(0, 1 << 16, (6, 5), np.uint16)
    sent = pixels.astype('>u2' if big_endian else '<u2')
    for message in both_ways(raw(sent, 'mono16', 3, big_endian)):
        np.testing.assert_array_equal(
            decode_image(message, RAW, View(crop=Crop(x=1, y=0, width=4, height=6)), (6, 4)),
            np.repeat(pixels[:, 1:, None] >> 8, 3, 2),
        )
    grey = (pixels >> 8).astype(np.uint8)
    for message in both_ways(raw(grey, 'mono8', 1)):
        np.testing.assert_array_equal(decode_image(message, RAW, PLAIN, (6, 5)), np.repeat(grey[:, :, None], 3, 2))


def smooth(height: int, width: int) -> np.ndarray:
    """u8[H, W, 3] of colours that change slowly, so that what an encoding leaves out can be told from the rest."""
    rows, columns = np.linspace(0, 3, height)[:, None], np.linspace(0, 4, width)
    waves = [np.sin(rows + columns), np.cos(rows * 1.3 - columns), np.sin(rows * columns / 3)]
    return (128 + 90 * np.stack(waves, -1)).astype(np.uint8)


def ffmpeg(data: bytes, width: int, height: int, kind: str, wanted: str) -> bytes:
    """The same image by ffmpeg, in another of its formats."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), '-loglevel', 'error', '-f', 'rawvideo', '-s', f'{width}x{height}']
    command += ['-pix_fmt', kind, '-i', '-', '-sws_flags', 'accurate_rnd+full_chroma_int+neighbor']
    command += ['-f', 'rawvideo', '-pix_fmt', wanted, '-']
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


FFMPEG = {
    'uyvy': 'uyvy422',
    'yuv422': 'uyvy422',
    'yuyv': 'yuyv422',
    'yuv422_yuy2': 'yuyv422',
    **{name: name for name in ('nv12', 'nv21', 'nv24')},
}
BAYER = [f'bayer_{pattern}{bits}' for pattern in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16)]


def encoded(name: str, data: bytes, width: int, height: int, padding: int = 0, big_endian: bool = False) -> Image:
    """An Image of an encoding with bytes as ffmpeg gives them, and rows that are longer by `padding`."""
    row = width * ENCODINGS[name].row
    if name == 'nv24' and padding:  # pairs of colours have rows of their own
        colours = np.frombuffer(data, np.uint8)[width * height :].reshape(height, 2 * width)
        rows = np.frombuffer(data, np.uint8)[: width * height].reshape(height, width)
        parts = [np.pad(rows, ((0, 0), (0, padding))), np.pad(colours, ((0, 0), (0, 2 * padding)))]
        content = b''.join(part.tobytes() for part in parts)
    else:
        content = np.pad(np.frombuffer(data, np.uint8).reshape(-1, row), ((0, 0), (0, padding))).tobytes()
    return Image(
        height=height,
        width=width,
        encoding=name,
        step=row + padding,
        is_bigendian=int(big_endian),
        data=array.array('B', content),
    )


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('name', FFMPEG)
def test_yuv_is_what_ffmpeg_makes_of_it(name, padding):
    height, width = 240, 320
    pixels = smooth(height, width)
    data = ffmpeg(pixels.tobytes(), width, height, 'rgb24', FFMPEG[name])
    expected = np.frombuffer(ffmpeg(data, width, height, FFMPEG[name], 'rgb24'), np.uint8).reshape(pixels.shape)
    message = encoded(name, data, width, height, padding)
    whole = decode_image(message, RAW).astype(int)
    assert np.abs(whole - expected).max() <= 2 and np.abs(whole - pixels).mean() < 4
    for view, (top, left, below, right) in (
        (PLAIN, (0, 0, 240, 320)),
        (View(crop=Crop(x=20, y=40, width=240, height=180)), (40, 20, 220, 260)),
    ):
        for size in ((60, 80), (45, 55)):
            seen = decode_image(message, RAW, view, size)
            # Pairs of pixels with one colour do not end where new pixels do.
            assert np.abs(seen - area_average(expected[top:below, left:right], *size)).max() <= 6, (view, size)


@pytest.mark.parametrize('name', BAYER)
@pytest.mark.parametrize('big_endian', [False, True])
def test_bayer_is_what_ffmpeg_makes_of_it(name, big_endian):
    height, width = 240, 320
    pixels = smooth(height, width)
    mosaic = np.empty((height, width), np.uint8)
    for k, colour in enumerate(name[6:10]):
        mosaic[k // 2 :: 2, k % 2 :: 2] = pixels[k // 2 :: 2, k % 2 :: 2, 'rgb'.index(colour)]
    kind, data = name, mosaic
    if name.endswith('16'):
        kind = name + ('be' if big_endian else 'le')
        data = mosaic.astype('>u2' if big_endian else '<u2') * 257
    message = encoded(name, data.tobytes(), width, height, 10, big_endian)
    theirs = np.frombuffer(ffmpeg(data.tobytes(), width, height, kind, 'rgb24'), np.uint8).reshape(pixels.shape)
    whole = decode_image(message, RAW).astype(int)
    assert np.abs(whole - pixels)[1:-1, 1:-1].max() <= 3 and np.abs(whole - theirs)[2:-2, 2:-2].mean() < 2
    for size in ((60, 80), (45, 55), (200, 250)):
        assert np.abs(decode_image(message, RAW, PLAIN, size) - area_average(pixels, *size)).max() <= 8, size


@pytest.mark.parametrize('degrees', [90, 180, 270])
def test_rotation_is_clockwise_and_after_the_crop(degrees, rng):
    pixels = rng.integers(0, 256, (12, 20, 3), np.uint8)
    view = View(crop=Crop(x=2, y=4, width=16, height=8), rotate=degrees)
    turned = np.asarray(Picture.fromarray(pixels[4:12, 2:18]).rotate(-degrees, expand=True))
    np.testing.assert_array_equal(decode_image(raw(pixels, 'rgb8'), RAW, view), turned)
    size = (4, 2) if degrees != 180 else (2, 4)
    seen = decode_image(raw(pixels, 'rgb8'), RAW, view, size)
    assert seen.shape == (*size, 3) and np.abs(seen - area_average(turned, *size)).max() <= 1.01


METRES = np.array([[0.5, 1.0, 2.0, 3.0, 4.5], [0.2, 9.0, np.nan, np.inf, -np.inf]], np.float32)
GREY = {'near': [[0, 32, 96, 159, 255], [0, 255, 0, 255, 0]], 'far': [[0, 32, 96, 159, 255], [0, 255, 255, 255, 0]]}


def seen_depth(message, type_name: str, invalid: str) -> list:
    seen = decode_image(message, type_name, View(depth=Depth(range=(0.5, 4.5), invalid=invalid)))
    assert (seen == seen[:, :, :1]).all()
    return seen[:, :, 0].tolist()


@pytest.mark.parametrize('invalid', ['near', 'far'])
@pytest.mark.parametrize('big_endian', [False, True])
def test_depth(invalid, big_endian):
    order = '>' if big_endian else '<'
    assert seen_depth(raw(METRES.astype(order + 'f4'), '32FC1', 4, big_endian), RAW, invalid) == GREY[invalid]
    # As 16-bit numbers there is no infinity: what is not known is 0.
    known = np.where(np.isfinite(METRES), METRES * 1000, 0).astype(order + 'u2')
    expected = np.where(np.isfinite(METRES), GREY[invalid], 0 if invalid == 'near' else 255).tolist()
    for name in ('16UC1', 'mono16'):
        assert seen_depth(raw(known, name, 2, big_endian), RAW, invalid) == expected


@pytest.mark.parametrize('kind', ['16UC1; compressedDepth', '32FC1; compressedDepth png', '16UC1; png compressed'])
def test_compressed_depth(kind):
    expected = np.where(np.isfinite(METRES), GREY['far'], 255)
    numbers = np.where(np.isfinite(METRES), METRES * 1000, 0).astype(np.uint16)
    a, b = 200.0, -10.0
    if kind.startswith('32'):  # the inverse distance in steps that are fine where it is near
        numbers = np.where(np.isfinite(METRES), a / METRES + b, 0).astype(np.uint16)
    buffer = io.BytesIO()
    Picture.fromarray(numbers).save(buffer, 'PNG')
    header = np.array([0], '<i4').tobytes() + np.array([a, b], '<f4').tobytes() if 'Depth' in kind else b''
    message = CompressedImage(format=kind, data=header + buffer.getvalue())
    for each in both_ways(message):
        assert np.abs(np.array(seen_depth(each, COMPRESSED, 'far')) - expected).max() <= (2 if header != b'' else 0)


def test_depth_needs_depth(rng):
    grey = rng.integers(0, 256, (4, 4), np.uint8)
    with pytest.raises(InputError, match='16UC1 holds distances: expected `depth` of the camera in the contract'):
        decode_image(raw(grey.astype(np.uint16), '16UC1'), RAW)
    view = View(depth=Depth(range=(0.5, 4.5), invalid='far'))
    with pytest.raises(InputError, match="expected encoding 16UC1, mono16, 32FC1 of a camera with depth, got 'mono8'"):
        decode_image(raw(grey, 'mono8'), RAW, view)
    message = CompressedImage()
    fill_compressed(message, np.repeat(grey[:, :, None], 3, 2), 0)
    with pytest.raises(InputError, match='expected a PNG of 16 bits, as of a camera with depth, got RGB'):
        decode_image(message, COMPRESSED, view)
    for data in (b'', bytes(12), bytes(40)):
        with pytest.raises(InputError, match='expected JPEG or PNG'):
            decode_image(CompressedImage(format='16UC1; compressedDepth rvl', data=data), COMPRESSED, view)


@pytest.mark.parametrize('size', [(48, 64), (60, 31), (7, 9), (1, 1)])
def test_resizing_averages_over_areas(size, rng):
    pixels = rng.integers(0, 256, (97, 131, 3), np.uint8)
    seen = decode_image(raw(pixels, 'rgb8'), RAW, View(crop=Crop(x=10, y=7, width=120, height=90)), size)
    assert seen.shape == (*size, 3) and seen.dtype == np.uint8
    # Each of two passes rounds.
    assert np.abs(seen - area_average(pixels[7:97, 10:130], *size)).max() <= 1.01


@pytest.mark.parametrize(
    'kind, mode',
    [('JPEG', 'RGB'), ('JPEG', 'L'), ('PNG', 'RGB'), ('PNG', 'L'), ('PNG', 'RGBA'), ('PNG', 'P'), ('PNG', 'I;16')],
)
def test_compressed_images(kind, mode):
    quality = {'quality': 95, 'subsampling': 0} if kind == 'JPEG' else {}
    ramp = np.linspace(0, 250, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
    picture = Picture.fromarray(ramp)
    if mode == 'I;16':
        picture = Picture.fromarray(ramp[:, :, 0].astype(np.uint16) << 8)
    elif mode != 'RGB':
        picture = picture.convert(mode)
    expected = np.asarray(picture.convert('RGB')) if mode != 'I;16' else np.repeat(ramp[:, :, :1], 3, 2)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **quality)
    message = CompressedImage(format=f'rgb8; {kind.lower()} compressed bgr8', data=buffer.getvalue())
    for each in both_ways(message):
        seen = decode_image(each, COMPRESSED, PLAIN, (40, 30))
        assert seen.shape == (40, 30, 3) and np.abs(seen.astype(int) - expected).max() <= (6 if quality else 0)


@pytest.mark.parametrize('size', [(60, 80), (33, 47), (16, 20), (150, 203)])
def test_of_a_jpeg_no_more_is_decoded_than_is_seen(size):
    pixels = smooth(301, 403)
    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, 'JPEG', quality=95, subsampling=0)
    message = CompressedImage(format='jpeg', data=buffer.getvalue())
    view = View(crop=Crop(x=31, y=50, width=360, height=240))
    assert np.abs(decode_image(message, COMPRESSED, PLAIN, size) - area_average(pixels, *size)).max() <= 5
    seen = decode_image(message, COMPRESSED, view, size)
    assert np.abs(seen - area_average(pixels[50:290, 31:391], *size)).max() <= 5


def test_what_is_compressed_comes_back():
    ramp = np.linspace(0, 250, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
    message = CompressedImage()
    fill_compressed(message, ramp, 1_000_000_002)
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.format) == (1, 2, 'jpeg')
    for each in both_ways(message):
        assert np.abs(decode_image(each, COMPRESSED, PLAIN, (40, 30)).astype(int) - ramp).max() < 12


def test_bad_images(rng):
    pixels = rng.integers(0, 256, (6, 5, 3), np.uint8)
    with pytest.raises(InputError, match="expected encoding rgb8, .*got '8UC3'"):
        decode_image(raw(pixels, '8UC3'), RAW, PLAIN, (6, 5))
    for change in ({'height': 7}, {'step': 14}, {'width': 6}, {'height': 0, 'width': 0, 'step': 0, 'data': []}):
        message = raw(pixels, 'rgb8')
        for key, value in change.items():
            setattr(message, key, value)
        with pytest.raises(InputError, match='image: .* rgb8 with rows of'):
            decode_image(message, RAW, PLAIN, (6, 5))
    with pytest.raises(InputError, match='expected at least 6x6 pixels because of crop, got 5x6'):
        decode_image(raw(pixels, 'rgb8'), RAW, View(crop=Crop(x=1, y=0, width=5, height=6)), (6, 5))


def test_damaged_compressed_images(rng):
    message = CompressedImage()
    fill_compressed(message, rng.integers(0, 256, (40, 40, 3), np.uint8), 0)
    whole = bytes(message.data)
    for data in (b'', b'no picture', whole[: len(whole) // 2], whole[:20]):
        with pytest.raises(InputError, match='image: '):
            decode_image(CompressedImage(format='jpeg', data=data), COMPRESSED, PLAIN, (4, 4))
    gif = io.BytesIO()
    Picture.new('RGB', (9, 9)).save(gif, 'GIF')
    with pytest.raises(InputError, match='expected JPEG or PNG'):
        decode_image(CompressedImage(format='gif', data=gif.getvalue()), COMPRESSED, PLAIN, (4, 4))
    for _ in range(300):  # whatever the bytes, an image or an InputError
        bytes_ = bytearray(whole)
        for place in rng.integers(0, len(bytes_), 5):
            bytes_[place] = rng.integers(256)
        try:
            assert decode_image(CompressedImage(data=bytes(bytes_)), COMPRESSED, PLAIN, (4, 4)).shape == (4, 4, 3)
        except InputError:
            pass
