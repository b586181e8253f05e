"""The learner: one update = world model + imagination + actor + critic, and everything a checkpoint must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dreamer_ros.agents.dreamer import Dreamer
from dreamer_ros.agents.system import SAMPLED, Batch, make_agent
from dreamer_ros.config import Config, stored_config
from dreamer_ros.errors import InputError
from dreamer_ros.nets.collective import average_gradients, average_metrics
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.checkpoint import read_checkpoint, write_checkpoint
from dreamer_ros.training.cuda_graph import Gradients, Recording
from dreamer_ros.training.optimizers import Optimizer
from dreamer_ros.training.overlap import Overlap

if TYPE_CHECKING:
    from dreamer_ros.training.parallel import Team

DREAM_CONTEXT = 5  # steps seen before the prediction begins, of sequences that are long enough


def pick_device(name: str) -> torch.device:
    """`auto` takes the GPU where there is one.

    Raises:
        InputError: the named device does not exist here.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f'device {name!r} is not available here: {str(error).splitlines()[0]}') from error
    return device


class Learner:
    """Trains an agent from batches of replayed sequences.

    Args:
        config: the run's config.
        spec: the robot. It must perceive what the config expects.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        seed: of parameters and of all sampling.
        team: processes to share each batch with; this one is their rank 0.

    Attributes:
        updates: number of updates made.
        policy: the running agent; shares the parameters being trained.
    """

    def __init__(self, config: Config, spec: RobotSpec, device: str = 'auto', seed: int = 0, team: Team | None = None):
        self.config, self.spec, self._team = config, spec, team
        self.device = pick_device(device if team is None else team.device(device))
        torch.manual_seed(seed)
        self.agent = make_agent(config, spec).to(self.device)
        self.optimizer = Optimizer(config.optimizer, self.agent.parameter_groups(), self.agent.probes())
        self.policy = self.agent.policy()
        self.gradients: Gradients = self.compute_gradients
        if self.device.type == 'cuda':
            torch.set_float32_matmul_precision('high')  # TF32: its rounding is below that of a sampled gradient
            if self.agent.steady and team is None:
                self.gradients = Recording(self.compute_gradients, list(self.agent.parameters()))
        self.overlap: Overlap | None = None
        if config.schedule.overlap and self.device.type != 'cuda':  # a GPU replays the whole update as one graph
            assert isinstance(self.agent, Dreamer), 'the config says so'
            self.overlap = Overlap(self.agent, self.optimizer, self.autocast)
        self.updates = 0
        self._synchronise()

    def to_batch(self, samples: dict[str, np.ndarray]) -> Batch:
        """Replay samples as device tensors; actions shift from 'taken at' to 'taken before' the observation."""
        tensors = [torch.from_numpy(samples[key]) for key in SAMPLED]
        if self.device.type == 'cuda':
            tensors = [x.pin_memory().to(self.device, non_blocking=True) for x in tensors]
        batch = Batch(*tensors)
        return batch._replace(
            previous_action=_delayed(batch.previous_action), previous_human=_delayed(batch.previous_human)
        )

    def update(self, samples: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """One update on a batch of the replay store; metrics as scalar tensors (reading them synchronises)."""
        batch = self.to_batch(samples)
        return self.train(batch if self._team is None else self._team.share(batch))

    def train(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One update on this process's share of a batch, which is all of it without a team."""
        if self.overlap is None:
            metrics = self.gradients(batch)
            average_gradients(self.agent.parameters())
            metrics.update(self.optimizer.step())
            metrics.update(self.agent.after_update(batch))
        else:
            metrics = self.overlap.update(batch)
        self.updates += 1
        return average_metrics(metrics)

    def compute_gradients(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Compute the gradients of a batch; returns metrics."""
        with self.autocast():
            loss, metrics = self.agent.loss(batch)
        loss.backward()
        return metrics

    def autocast(self) -> torch.autocast:
        """The precision of an update, for the calling thread."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == 'bfloat16')

    def dream(self, samples: dict[str, np.ndarray]) -> np.ndarray:
        """Truth | reconstruction | open-loop prediction side by side, uint8 [B, T, H, 3·cameras·W, 3].

        Raises:
            InputError: the robot has no camera.
        """
        if not self.spec.cameras:
            raise InputError(f'dream of {self.spec.name}: expected a robot with a camera, but it has none')
        batch = self.to_batch(samples)
        context = min(DREAM_CONTEXT, batch.reward.shape[1] - 1)
        return self.agent.inspect(batch, context).film(batch.image)

    def policy_metadata(self, version: int, **more) -> dict:
        """What a policy file says about where it comes from."""
        return {
            'version': version,
            'system': self.config.system,
            'preset': self.config.preset,
            'task': self.spec.name,
            'updates': self.updates,
            **more,
        }

    def state(self) -> tuple[dict[str, torch.Tensor], dict]:
        """Tensors (parameters, optimiser, normaliser, slow critic, random states), and the JSON-ready rest."""
        parts = {
            'agent': self.agent.state_dict(),
            'optimizer': self.optimizer.state_tensors(),
            'overlap': self.overlap.state_tensors() if self.overlap else {},
            'random': {'torch': torch.get_rng_state()},
        }
        if self.device.type == 'cuda':
            parts['random']['cuda'] = torch.cuda.get_rng_state(self.device)
        return {f'{part}.{name}': value for part, own in parts.items() for name, value in own.items()}, {
            'updates': self.updates,
            'optimizer_steps': self.optimizer.steps,
            'config': self.config.to_dict(),
            'spec': self.spec.to_dict(),
        }

    def restore(self, tensors: dict[str, torch.Tensor], state: dict, source: str) -> None:
        """Continue from what `state` gave; `source` names it in errors.

        Raises:
            InputError: the state belongs to another network or robot.
        """

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}

        agent = part('agent.')
        own, saved = ({name: x.shape for name, x in each.items()} for each in (self.agent.state_dict(), agent))
        if own != saved:
            raise InputError(
                f'{source}: expected the network of preset {self.config.preset} for robot {self.spec.name}, got that '
                f'of preset {state["config"]["preset"]} for robot {state["spec"]["name"]} (first difference: '
                f'{min(own.items() ^ saved.items())[0]})'
            )
        self.agent.load_state_dict(agent)
        self.optimizer.load_state_tensors(part('optimizer.'))
        if self.overlap is not None:
            self.overlap.load_state_tensors(part('overlap.'))
        self.optimizer.steps = state['optimizer_steps']
        self.updates = state['updates']
        torch.set_rng_state(tensors['random.torch'])
        if self.device.type == 'cuda' and 'random.cuda' in tensors:
            torch.cuda.set_rng_state(tensors['random.cuda'], self.device)
        self._synchronise()

    def _synchronise(self) -> None:
        """Send the state to the other ranks, if there are any."""
        if self._team is not None:
            self._team.synchronise(*self.state(), self.device.type)

    def save(self, folder: Path, extra: dict | None = None) -> None:
        """Write a checkpoint, whole or not at all.

        Args:
            extra: JSON-ready state of the caller, given back by `load`.
        """
        write_checkpoint(folder, *self.state(), extra or {})

    def load(self, folder: Path) -> dict:
        """Restore a checkpoint; returns the `extra` it was saved with.

        Raises:
            InputError: the checkpoint is damaged, or belongs to another network or robot.
        """
        tensors, state, extra = read_checkpoint(folder)
        self.restore(tensors, state, f'checkpoint {folder}')
        return extra

    @classmethod
    def open(cls, folder: Path, device: str = 'auto') -> Learner:
        """The learner of a checkpoint, with the config and the robot stored in it.

        Raises:
            InputError: the checkpoint is damaged, or an earlier version of this program wrote it.
        """
        tensors, state, _ = read_checkpoint(folder)
        source = f'checkpoint {folder}'
        if 'config' not in state:
            raise InputError(f'{source}: expected the config of its run in it, got none: an earlier version wrote it')
        config = stored_config(state['config'], source)
        learner = cls(config, RobotSpec.from_json(json.dumps(state['spec']), source), device)
        learner.restore(tensors, state, source)
        return learner


def _delayed(x: torch.Tensor) -> torch.Tensor:
    """[B, T, ...] one step later; zeros first."""
    later = torch.zeros_like(x)
    later[:, 1:] = x[:, :-1]
    return later
