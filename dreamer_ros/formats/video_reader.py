"""Frames of mp4 files, in order."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import imageio_ffmpeg
from PIL import Image

from dreamer_ros.errors import InputError

FPS_TOLERANCE = 0.01  # relative difference of a film's frames per second that is accepted


class FilmReader:
    """Reads one film after the other, each from its beginning. Continuing after the last frame read is cheap.

    Args:
        fps: of every film.
    """

    def __init__(self, fps: float):
        self._fps = fps
        self._path: Path | None = None
        self._frames: Iterator[Image.Image] = iter(())
        self._next = 0  # number of the frame that comes next

    def frames(self, path: Path, name: str, first: int, count: int) -> Iterator[Image.Image]:
        """RGB frames in a row.

        Args:
            name: of the film, for errors.
            first: number of the first one.

        Raises:
            InputError: the film is missing, damaged, too short, or of other frames per second.
        """
        if path != self._path or first < self._next:
            self.close()
            self._path, self._frames, self._next = path, self._decode(path, name), 0
        try:
            while self._next < first + count:
                frame = next(self._frames, None)
                if frame is None:
                    raise InputError(f'{name}: expected at least {first + count} frames, got {self._next}')
                self._next += 1
                if self._next > first:
                    yield frame
        except InputError:
            self.close()
            raise

    def close(self) -> None:
        """End the process that decodes."""
        if isinstance(self._frames, Generator):
            self._frames.close()
        self._path, self._frames = None, iter(())

    def _decode(self, path: Path, name: str) -> Generator[Image.Image]:
        if not path.is_file():
            raise InputError(f'{name}: expected a film of that name, but it does not exist')
        # With the demuxer named, ffmpeg opens no playlist that is called .mp4. Frames are neither doubled nor dropped
        # to even their times.
        frames = imageio_ffmpeg.read_frames(
            str(path.absolute()),
            input_params=['-f', 'mov', '-protocol_whitelist', 'file'],
            output_params=['-fps_mode', 'passthrough'],
        )
        try:
            about = next(frames)
            if abs(about['fps'] / self._fps - 1) > FPS_TOLERANCE:
                raise InputError(f'{name}: expected {self._fps:g} frames per second, got {about["fps"]:g}')
            for frame in frames:
                yield Image.frombytes('RGB', about['size'], frame)
        except InputError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, StopIteration) as error:  # ffmpeg gave up
            words = ('Error', 'Invalid', 'not found')
            told = (line.strip() for line in str(error).splitlines() if any(word in line for word in words))
            reason = next(told, type(error).__name__)
            raise InputError(f'{name}: expected a film that can be decoded, got a damaged one ({reason})') from error
        finally:
            frames.close()
