"""Shows a bag in the Rerun viewer: cameras, actions, rewards and senses on one time line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from dreamer_ros.errors import InputError
from dreamer_ros.viewing.look import Look

APPLICATION = 'dreamer_ros'
IMAGES_AT_ONCE = 256  # per message to the viewer, so that long bags are not held twice


def show(look: Look, save: Path | None = None) -> None:
    """Show a bag in the viewer, or save it as an .rrd file for the viewer.

    Time lines: `time`, the header stamps; `step`, counted over all episodes.

    Raises:
        InputError: the file cannot be written, or the viewer does not start.
    """
    recording = rr.RecordingStream(APPLICATION, recording_id=look.path.name)
    recording.send_recording_name(look.title())
    blueprint = _blueprint(look)
    try:
        if save is None:
            recording.spawn(default_blueprint=blueprint)
        else:
            save.parent.mkdir(parents=True, exist_ok=True)
            recording.save(save, default_blueprint=blueprint)
        _log(recording, look)
        recording.flush()
    except (OSError, RuntimeError) as error:
        what = (
            f'{save}: expected a file that can be written'
            if save
            else ('the Rerun viewer does not start, --save FILE writes what it would show')
        )
        raise InputError(f'{what} ({error})') from error
    recording.disconnect()


def _blueprint(look: Look) -> rrb.Blueprint:
    """Cameras to the left, numbers below each other to the right."""
    cameras = [rrb.Spatial2DView(origin=f'/camera/{name}', name=name) for name in look.spec.cameras]
    groups = ['reward', 'action', *dict.fromkeys(group for senses in look.senses for group in senses)]
    numbers = rrb.Vertical(*(rrb.TimeSeriesView(origin=f'/{group}', name=group) for group in groups))
    views = rrb.Horizontal(rrb.Vertical(*cameras), numbers, column_shares=[2, 3]) if cameras else numbers
    return rrb.Blueprint(
        rrb.Vertical(views, rrb.TextLogView(origin='/episode', name='episodes'), row_shares=[6, 1]),
        rrb.TimePanel(timeline='time'),
    )


def _log(recording: rr.RecordingStream, look: Look) -> None:
    first = 0
    for number, episode in enumerate(look.episodes):
        stamps, steps = episode.stamp, np.arange(first, first + len(episode))
        first += len(episode)

        def at(rows: slice) -> list:
            return [
                rr.TimeColumn('time', timestamp=stamps[rows].astype('datetime64[ns]')),
                rr.TimeColumn('step', sequence=steps[rows]),
            ]

        whole = at(slice(None))
        for place, name in enumerate(look.spec.cameras):
            height, width = episode.image.shape[1:3]
            form = rr.components.ImageFormat(width=width, height=height, color_model='RGB', channel_datatype='U8')
            recording.log(f'camera/{name}', rr.Image.from_fields(format=form), static=True)
            for begin in range(0, len(episode), IMAGES_AT_ONCE):
                rows = slice(begin, begin + IMAGES_AT_ONCE)
                images = np.ascontiguousarray(episode.image[rows, ..., 3 * place : 3 * place + 3])
                recording.send_columns(
                    f'camera/{name}', at(rows), rr.Image.columns(buffer=images.reshape(len(images), -1))
                )
        numbers: dict[str, dict[str, np.ndarray]] = {
            'reward': {'reward': episode.reward, 'return': np.cumsum(episode.reward, dtype=np.float64)},
            'action': dict(zip(look.spec.action, episode.action.T)),
            **look.senses[number],
        }
        for group, columns in numbers.items():
            for name, values in columns.items():
                recording.send_columns(
                    f'{group}/{_entity(name)}', whole, rr.Scalars.columns(scalars=values.astype(np.float64))
                )
        for k in (0, len(episode) - 1):
            recording.set_time('time', timestamp=np.datetime64(int(stamps[k]), 'ns'))
            recording.set_time('step', sequence=int(steps[k]))
            recording.log('episode', rr.TextLog(_event(look, number, k)))


def _event(look: Look, number: int, k: int) -> str:
    episode = look.episodes[number]
    if k == 0:
        return f'episode {number} begins: {episode.meta.get("mode", "actions of unknown origin")}'
    end = 'terminal' if episode.is_terminal[k] else 'ends' if episode.is_last[k] else 'is cut'
    return f'episode {number} {end}: {len(episode)} steps, return {episode.total_reward:.2f}'


def _entity(name: str) -> str:
    """A name as one part of an entity path."""
    return name.replace('/', '_')
