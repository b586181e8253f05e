"""Frames of mp4 files, in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
from PIL import Image

from dreamer_ros.errors import InputError

FPS_TOLERANCE = 0.01  # by how much of it a film's frames per second may differ from what is expected


class FilmReader:
    """Reads one film after the other, each from its beginning; going on where the last reading ended is cheap.

    Args:
        fps: that every film must have.
    """

    def __init__(self, fps: float):
        self._fps = fps
        self._path: Path | None = None
        self._frames: Iterator[bytes] = iter(())
        self._next = 0  # number of the frame that comes next
        self._size = (0, 0)

    def frames(self, path: Path, name: str, first: int, count: int) -> Iterator[Image.Image]:
        """RGB frames in a row.

        Args:
            name: of the film, for errors.
            first: number of the first one.

        Raises:
            InputError: the film is missing, damaged, too short, or of other frames per second.
        """
        if path != self._path or first < self._next:
            self._open(path, name)
        try:
            while self._next < first + count:
                frame = next(self._frames, None)
                if frame is None:
                    raise InputError(f'{name}: expected at least {first + count} frames, got {self._next}')
                self._next += 1
                if self._next > first:
                    yield Image.frombytes('RGB', self._size, frame)
        except InputError:
            self.close()
            raise
        except (OSError, RuntimeError, ValueError) as error:  # ffmpeg gave up
            self.close()
            raise _damaged(name, error) from error

    def close(self) -> None:
        """End the process that decodes."""
        close = getattr(self._frames, 'close', None)
        if close is not None:
            close()
        self._path, self._frames, self._next = None, iter(()), 0

    def _open(self, path: Path, name: str) -> None:
        self.close()
        if not path.is_file():
            raise InputError(f'{name}: expected a film of that name, but it does not exist')
        # The demuxer is named, because ffmpeg would follow what a playlist called .mp4 refers to. Frames come as
        # they are in the file: none doubled or left out to even their times.
        frames = imageio_ffmpeg.read_frames(
            str(path.absolute()),
            input_params=['-f', 'mov', '-protocol_whitelist', 'file'],
            output_params=['-fps_mode', 'passthrough'],
        )
        try:
            about = next(frames)
            fps, self._size = float(about['fps']), about['size']
        except (OSError, RuntimeError, ValueError, KeyError, StopIteration) as error:
            raise _damaged(name, error) from error
        self._path, self._frames = path, frames
        if abs(fps / self._fps - 1) > FPS_TOLERANCE:
            self.close()
            raise InputError(f'{name}: expected {self._fps:g} frames per second, got {fps:g}')


def _damaged(name: str, error: BaseException) -> InputError:
    lines = [line for line in str(error).splitlines() if 'Error' in line or 'Invalid' in line or 'not found' in line]
    return InputError(
        f'{name}: expected a film that can be decoded, got a damaged one '
        f'({lines[0].strip() if lines else type(error).__name__})'
    )
