"""What a trained agent makes of a recorded episode: a film, a picture and their numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dreamer_ros.agents.system import SAMPLED
from dreamer_ros.episodes.assemble import known_return
from dreamer_ros.episodes.episode import Episode, embedded_contract
from dreamer_ros.episodes.episode_reader import read_longest
from dreamer_ros.errors import InputError
from dreamer_ros.files import write_file
from dreamer_ros.training.checkpoint import find_checkpoint
from dreamer_ros.training.learner import Learner
from dreamer_ros.viewing.figures import new_figure, save_figure
from dreamer_ros.viewing.film import HEIGHT, film_with_curves, write_video

COLUMNS = ('truth', 'reconstruction', 'prediction')
STRIP = 10  # moments in the picture's film strip
PANEL = 150  # pixels of height per curve panel
VALIDATION_CONTEXT = 5  # steps of a held-out sequence that are seen before the prediction begins


@dataclasses.dataclass
class EpisodeInspection:
    """What an agent has made of an episode of T steps. Numbers are float64 [T], by name:

    - reconstruction_error, prediction_error: squared difference of the image to the truth, mean over its values
      in [0, 1]; absent without cameras.
    - reward: as recorded; absent if the robot's contract defines none.
    - filtered_reward, predicted_reward: as the model expects it.
    - value: of the filtered states; absent for systems that learn none.
    - discounted_return: what `value` estimates, from the recorded rewards up to the episode's end.
    - bootstrapped_return: the same plus the value of the last step, if the episode was cut by the time limit.
      Both returns are absent without reward or value.

    Attributes:
        context: steps that the prediction has seen; from then on it follows from actions alone.
        film: uint8 [T, H, W, 3] truth | reconstruction | prediction; None without cameras.
    """

    context: int
    period: float  # seconds per step
    numbers: dict[str, np.ndarray]
    film: np.ndarray | None


def inspect_episode(learner: Learner, episode: Episode, context: int = 5) -> EpisodeInspection:
    """Have a learner's agent watch a whole episode, and predict it from its first steps.

    Raises:
        InputError: the episode is not longer than the context.
    """
    if len(episode) < 2:
        raise InputError(f'episode: expected one of at least 2 steps to predict, got {len(episode)}')
    if not 1 <= context < len(episode):
        raise InputError(
            f'--context {context}: expected from 1 to {len(episode) - 1} steps of this episode of {len(episode)}'
        )
    batch = learner.to_batch({key: np.ascontiguousarray(getattr(episode, key))[None] for key in SAMPLED})
    seen = learner.agent.inspect(batch, context)

    def array(tensor) -> np.ndarray:
        return tensor[0].double().cpu().numpy()

    numbers, film = {}, None
    if seen.reconstruction is not None:
        film = seen.film(batch.image)[0]
        for name, made in zip(COLUMNS[1:], (seen.reconstruction, seen.prediction)):
            numbers[f'{name}_error'] = squared_error(episode.image, made[0].cpu().numpy())
    known = known_return(episode.total_reward, embedded_contract(episode.meta)) is not None
    if known:
        numbers['reward'] = episode.reward.astype(np.float64)
    numbers.update(filtered_reward=array(seen.reward), predicted_reward=array(seen.predicted_reward))
    if seen.value is not None:
        numbers['value'] = value = array(seen.value)
    if seen.value is not None and known:
        imagination: Any = learner.config.imagination  # type: ignore[union-attr]  # of whatever has values
        over = 0.0 if imagination.include_start else float(episode.reward[-1])
        cut = over if episode.is_terminal[-1] else value[-1]
        for name, last in (('discounted_return', over), ('bootstrapped_return', cut)):
            numbers[name] = discounted_returns(episode.reward, imagination.discount, last, imagination.include_start)
    return EpisodeInspection(context, learner.spec.control_period, numbers, film)


def dream_bag(run: str | Path, bag: Path, context: int, folder: Path) -> tuple[EpisodeInspection, list[Path]]:
    """Have the agent of a run, or of one of its checkpoints, inspect the longest episode of a bag.

    Returns:
        The inspection, and the files written into `folder`.

    Raises:
        InputError: no such checkpoint, no episode of its robot, or the folder cannot be written.
    """
    checkpoint = find_checkpoint(run)
    learner = Learner.open(checkpoint)
    inspection = inspect_episode(learner, read_longest(bag, learner.spec), context)
    facts = {
        'checkpoint': str(checkpoint),
        'preset': learner.config.preset,
        'updates': learner.updates,
        'robot': learner.spec.name,
        'bag': str(bag),
    }
    title = f'{learner.spec.name}, {learner.config.preset}, {learner.updates} updates'
    return inspection, write_inspection(inspection, folder, title, facts)


def held_out_errors(learner: Learner, samples: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean squared errors over the steps after the first VALIDATION_CONTEXT ones, up to where another episode begins.

    Args:
        samples: sequences of the replay store, longer than the context.

    Returns:
        validation_prediction_error: of images in [0, 1] that follow from the actions alone;
        validation_reconstruction_error: of the same images when the model sees them;
        validation_reward_error: of the rewards that follow from the actions alone.
        Without cameras, the last one only; nothing, if no sequence goes on after the context.
    """
    begun = samples['is_first'].copy()
    begun[:, :VALIDATION_CONTEXT] = False
    counts = ~np.logical_or.accumulate(begun, axis=1)
    counts[:, :VALIDATION_CONTEXT] = False
    if not counts.any():
        return {}
    seen = learner.agent.inspect(learner.to_batch(samples), VALIDATION_CONTEXT)
    truth, errors = samples['image'][counts].astype(np.float32), {}
    for name, made in (('prediction', seen.prediction), ('reconstruction', seen.reconstruction)):
        if made is not None:
            difference = made.cpu().numpy()[counts] - truth
            errors[f'validation_{name}_error'] = float(np.square(difference).mean(dtype=np.float64)) / 255**2
    difference = seen.predicted_reward.float().cpu().numpy()[counts] - samples['reward'][counts]
    errors['validation_reward_error'] = float(np.square(difference).mean(dtype=np.float64))
    return errors


def squared_error(truth: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Mean squared difference per step of images uint8 [T, H, W, C] as values in [0, 1]; float64 [T]."""
    return np.array([np.square((a.astype(np.float32) - b) / 255.0).mean(dtype=np.float64) for a, b in zip(truth, made)])


def discounted_returns(reward: np.ndarray, discount: float, last: float, later: bool) -> np.ndarray:
    """The return from each step of an episode, float64 [T].

    Args:
        reward: on arriving at each step, [T].
        last: the return from the last step.
        later: whether a step's return begins with the reward that follows it, as the values of DreamerV2 and
            DreamerV3 do, or with its own, as those of Dreamer do.
    """
    returns = [last]
    for gain in reversed(reward[1:] if later else reward[:-1]):
        returns.append(float(gain) + discount * returns[-1])
    return np.array(returns[::-1])


def write_inspection(inspection: EpisodeInspection, folder: Path, title: str, facts: dict[str, object]) -> list[Path]:
    """Write dream.json, dream.png and, of a robot with cameras, dream.mp4.

    Args:
        title: over the picture.
        facts: JSON-ready, for dream.json beside the numbers.

    Returns:
        The files.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / 'dream.json', folder / 'dream.png']
        numbers = {name: [float(value) for value in values] for name, values in inspection.numbers.items()}
        facts = {**facts, 'context': inspection.context, 'steps': len(inspection.numbers['filtered_reward'])}
        write_file(paths[0], json.dumps({**facts, **numbers}, indent=1) + '\n')
        save_figure(_picture(inspection, title), paths[1])
        if inspection.film is not None:
            frames = inspection_film(inspection)
            paths.append(write_video(folder / 'dream.mp4', frames, 1.0 / inspection.period))
    except OSError as error:
        raise InputError(f'{folder}: expected a folder that can be written ({error})') from error
    return paths


def inspection_film(inspection: EpisodeInspection) -> np.ndarray:
    """The enlarged film above its curves with a cursor at the shown step; uint8 [T, H, W, 3], even sizes."""
    height, width = inspection.film.shape[1:3]
    scale = -(-HEIGHT // height)
    panels = _panels(inspection)
    figure = new_figure(width * scale, PANEL * len(panels) + 30)
    for column, name in enumerate(COLUMNS):
        figure.text((column + 0.5) / len(COLUMNS), 0.995, name, ha='center', va='top', fontsize='small')
    axes = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    _draw(inspection, panels, axes)
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, 0, 1, 1 - 25 / (PANEL * len(panels) + 30)))
    return np.stack(list(film_with_curves(inspection.film, scale, figure, axes, range(len(inspection.film)))))


# What is drawn: a panel's label, and its curves by their names in the numbers
_CURVES = (
    (
        'image error',
        (
            ('reconstruction_error', 'reconstruction', 'tab:blue', '-'),
            ('prediction_error', 'prediction', 'tab:orange', '-'),
        ),
    ),
    (
        'reward',
        (
            ('reward', 'recorded', 'black', '-'),
            ('filtered_reward', 'filtered', 'tab:blue', '-'),
            ('predicted_reward', 'predicted', 'tab:orange', '-'),
        ),
    ),
    (
        'return',
        (
            ('discounted_return', 'recorded, discounted', 'black', '-'),
            ('bootstrapped_return', 'and the last value', 'black', ':'),
            ('value', 'value', 'tab:blue', '-'),
        ),
    ),
)


def _panels(inspection: EpisodeInspection) -> list:
    """The panels that have curves."""
    found = ((label, [curve for curve in curves if curve[0] in inspection.numbers]) for label, curves in _CURVES)
    return [(label, curves) for label, curves in found if curves]


def _draw(inspection: EpisodeInspection, panels: list, axes) -> None:
    for axis, (label, curves) in zip(axes, panels):
        for name, meaning, colour, line in curves:
            axis.plot(inspection.numbers[name], line, color=colour, label=meaning, linewidth=1)
        axis.axvline(inspection.context - 0.5, color='0.6', linewidth=1)
        axis.set_ylabel(label, fontsize='small')
        axis.tick_params(labelsize='small')
        axis.grid(alpha=0.3)
        axis.legend(fontsize='x-small')
    axes[-1].set_xlabel('step', fontsize='small')


def _picture(inspection: EpisodeInspection, title: str) -> Figure:
    """A film strip over the curves."""
    panels = _panels(inspection)
    strips = inspection.film is not None
    figure = new_figure(1000, 40 + 2 * PANEL * len(panels) + 360 * strips)
    figure.suptitle(title, fontsize='medium')
    axes = figure.subplots(
        len(panels) + strips, 1, squeeze=False, height_ratios=[360] * strips + [2 * PANEL] * len(panels)
    )[:, 0]
    if strips:
        steps = np.linspace(0, len(inspection.film) - 1, STRIP).round().astype(int)
        columns = np.split(inspection.film[steps], len(COLUMNS), axis=2)
        strip = np.concatenate([np.concatenate(list(film), 1) for film in columns], 0)
        axes[0].imshow(strip, interpolation='nearest')
        height, width = columns[0].shape[1:3]
        axes[0].set_xticks([(i + 0.5) * width for i in range(STRIP)], [f'step {step}' for step in steps])
        axes[0].set_yticks([(i + 0.5) * height for i in range(len(COLUMNS))], COLUMNS)
        axes[0].tick_params(length=0, labelsize='small')
    _draw(inspection, panels, axes[strips:])
    return figure
