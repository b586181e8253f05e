"""`dreamer reward …`: a reward from the camera. Label images, train a classifier, check it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dreamer_ros.cli.command import Group, command
from dreamer_ros.errors import InputError
from dreamer_ros.options import Options, Word

if TYPE_CHECKING:
    from dreamer_ros.episodes.episode import Episode
    from dreamer_ros.episodes.frame_labels import FrameLabels

Bags = Annotated[
    tuple[str, ...], Word('BAG', positional=True), Field(description='Bags, folders of bags or runs of one robot.')
]
Labels = Annotated[str, Word('FILE'), Field(default='frame_labels.yaml', description='File of the labels.')]
KEYS = '←→ 1 step  ↑↓ 10 steps  s success from here on  f no success  u unlabelled  n p episode  q end'


def _episodes(paths: tuple[str, ...]) -> Iterator[Episode]:
    """Episodes of bags of one robot with cameras.

    Raises:
        InputError: naming the bag.
    """
    from dreamer_ros.episodes.bag_reader import bags_in, open_bag
    from dreamer_ros.episodes.episode_reader import require_episodes

    shape = None
    for path in (bag for text in paths for bag in bags_in(Path(text))):
        bag = open_bag(path)
        spec = bag.spec()
        if not spec.cameras or spec.image_shape != (shape or spec.image_shape):
            wanted = f'images of {list(shape)}, as in the bags before' if shape else 'a robot with a camera'
            raise InputError(f'bag {path}: expected {wanted}, got {list(spec.image_shape)}')
        shape = spec.image_shape
        for number, episode in enumerate(require_episodes(bag, spec)[0]):
            episode.number = number
            yield episode


class Label(Options):
    """Options of `dreamer reward label`."""

    bags: Bags
    labels: Labels


@command('dreamer reward label runs/rover/episodes')
def label(options: Label) -> None:
    """Look at episodes in the terminal, and mark by keys which steps show success. Every key is saved at once."""
    from dreamer_ros.cli.terminal import keys
    from dreamer_ros.episodes.frame_labels import FrameLabels

    labelling = Labelling(list(_episodes(options.bags)), FrameLabels(Path(options.labels)))
    print(labelling.page())
    for key in keys():
        if key == 'q':
            return
        labelling.press(key)
        print(labelling.page())


class Labelling:
    """Where a person is in some episodes, and what their keys do."""

    def __init__(self, episodes: list[Episode], labels: FrameLabels):
        self._episodes, self._labels = episodes, labels
        self._number = self._step = 0

    def press(self, key: str) -> None:
        """See `KEYS`. Other keys do nothing."""
        episode = self._episodes[self._number]
        moves = {'right': 1, 'left': -1, 'up': 10, 'down': -10}
        if key in moves:
            self._step = min(max(self._step + moves[key], 0), len(episode) - 1)
        elif key in 'np':
            self._number = (self._number + (1 if key == 'n' else -1)) % len(self._episodes)
            self._step = 0
        elif key in 'sfu':
            self._labels.mark(episode, self._step, {'s': True, 'f': False, 'u': None}[key])

    def page(self) -> str:
        """What the terminal shows."""
        import shutil

        from dreamer_ros.cli.terminal import picture
        from dreamer_ros.episodes.frame_labels import WORDS
        from dreamer_ros.frames import side_by_side

        episode = self._episodes[self._number]
        labels = self._labels.of(episode)
        strip = ''.join('.-#'[1 + round(float(part.max()))] for part in _parts(labels))
        image = side_by_side(episode.image[self._step][None])[0]
        return '\n'.join(
            (
                '\x1b[2J\x1b[H' + picture(image, shutil.get_terminal_size().columns),
                f'{episode.name}, episode {self._number + 1} of {len(self._episodes)}, step {self._step} of '
                f'{len(episode) - 1}: {WORDS[int(labels[self._step])]}',
                f'[{strip}] # success, - none, . unlabelled',
                KEYS,
            )
        )


def _parts(labels):
    import numpy as np

    return np.array_split(labels, min(60, len(labels)))


class Train(Options):
    """Options of `dreamer reward train`."""

    bags: Bags
    labels: Labels
    output: Annotated[str, Word('FILE')] = Field('success.onnx', description='File to write.')
    held_out: float = Field(0.25, gt=0, le=0.5, description='Share of the labelled episodes that only test it.')
    updates: int = Field(500, ge=1, description='Updates of 64 images.')
    seed: int = Field(0, ge=0, description='Of the split, the network and the training.')


@command('dreamer reward train runs/rover/episodes')
def train(options: Train) -> None:
    """Train a classifier on labelled images, and say how often it is right in episodes that it has not seen."""
    from dreamer_ros.episodes.frame_labels import UNKNOWN, FrameLabels
    from dreamer_ros.training.reward_classifier import Labelled, evaluate, export, split, train

    labels, episodes = FrameLabels(Path(options.labels)), []
    for episode in _episodes(options.bags):
        known = labels.of(episode)
        rows = known != UNKNOWN
        if rows.any():
            episodes.append(Labelled(episode.name, episode.image[rows], known[rows] == 1))
    kept, held = split(episodes, options.held_out, options.seed)
    network = train(kept, options.updates, options.seed)
    print(f'held-out episodes ({len(held)} of {len(episodes)}): {evaluate(network, held)}')
    held_out = ' '.join(sorted({episode.name for episode in held}))
    export(network, held[0].image.shape[1:], Path(options.output), {'held_out': held_out})
    print(f'{options.output}: for `reward: {{classifier: {Path(options.output).name}}}` in a contract beside it')


class Check(Options):
    """Options of `dreamer reward check`."""

    bags: Bags
    classifier: Annotated[str, Word('FILE')] = Field('success.onnx', description='File of `dreamer reward train`.')
    labels: Labels
    above: float = Field(0.9, ge=0, le=1, description='As in the contract.')
    below: float = Field(0.5, ge=0, le=1, description='As in the contract.')
    steps: int = Field(2, ge=1, description='As in the contract.')


@command('dreamer reward check runs/rover/episodes --classifier success.onnx')
def check(options: Check) -> None:
    """Play a classifier over episodes as a robot would, and compare it with labels and verdicts."""
    import numpy as np

    from dreamer_ros.episodes.frame_labels import UNKNOWN, FrameLabels
    from dreamer_ros.policy.classifier import Classifier, Hysteresis

    labels, right, known_steps, classifier = FrameLabels(Path(options.labels)), 0, 0, None
    for episode in _episodes(options.bags):
        classifier = classifier or Classifier(options.classifier, episode.image.shape[1:])
        decide = Hysteresis(options.above, options.below, options.steps)
        told = np.array([decide(classifier(image)) for image in episode.image])
        known = labels.of(episode)
        rows = known != UNKNOWN
        right, known_steps = right + int((told[rows] == (known[rows] == 1)).sum()), known_steps + int(rows.sum())
        first = f'success from step {int(told.argmax())}' if told.any() else 'no success'
        verdict = f', {episode.meta["verdict_by"]} said {episode.meta["verdict"]}' if 'verdict' in episode.meta else ''
        agrees = f', {(told[rows] == (known[rows] == 1)).mean():.1%} of {rows.sum()} labels' if rows.any() else ''
        print(f'{episode.name}: {len(episode)} steps, {first}{verdict}{agrees}')
    print(f'{right / known_steps:.1%} of {known_steps} labels' if known_steps else 'no labels')


reward = Group(
    (label, train, check),
    'A reward from the camera: label images, train a classifier, check it.',
    'dreamer reward label runs/rover/episodes',
)
