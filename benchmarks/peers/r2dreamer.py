"""NM512/r2dreamer's update, DreamerV3 or decoder-free, as a benchmark's subject, from a checkout the user names.

Runs the peer's own `Dreamer.update`, eagerly on a CPU, compiled as shipped on a GPU. Only what surrounds it is
replaced: configuration, environment spaces, replay (a fixed batch) and the precision of its autocast, which is
float16 as shipped.
Needs the peer's tensordict and omegaconf in this Python.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

from dreamer_ros.training import process

process.prepare()  # the same allocator and OpenMP settings as ours; before torch is imported

import torch  # noqa: E402

from benchmarks.turns import serve, synthetic, timed  # noqa: E402


class Replay:
    """Always the same batch, as its buffer gives it."""

    def __init__(self, samples: dict, stoch: int, classes: int, deter: int, device: str):
        from tensordict import TensorDict

        tensors = {name: torch.from_numpy(value).to(device) for name, value in samples.items()}
        shape = tensors['reward'].shape
        tensors['action'] = torch.roll(tensors['action'], 1, 1)  # the action before the observation
        for name in ('reward', 'is_last', 'is_terminal'):
            tensors[name] = tensors[name].float().unsqueeze(-1)
        self._data = TensorDict(tensors, batch_size=shape)
        self._initial = (
            torch.zeros(shape[0], stoch, classes, device=device),
            torch.zeros(shape[0], deter, device=device),
        )

    def sample(self):
        return self._data.clone(recurse=False), None, self._initial

    def update(self, *_) -> None:
        pass


def load(path: str, size: dict, loss: str, precision: str, device: str, threads: int, actions: int):
    """Its Dreamer and a replay of synthetic data; `size` is what distinguishes its presets of sizes, `loss` its
    representation loss: `dreamer` with a decoder, `r2dreamer` without.
    """
    process.configure_torch(threads)
    warnings.filterwarnings('ignore')
    sys.path.insert(0, path)
    try:
        import dreamer as peer
        from omegaconf import OmegaConf
    except ModuleNotFoundError as error:
        sys.exit(f'error: the peer in {path} cannot be imported: {error}; it needs: pip install tensordict omegaconf')
    configs = Path(path) / 'configs'
    size = {'act': 'SiLU', 'norm': True, **size}
    root = OmegaConf.create(
        {
            'device': device,
            'seed': 0,
            'env': OmegaConf.load(configs / 'env' / 'dmc_vision.yaml'),
            'model': OmegaConf.merge(
                OmegaConf.load(configs / 'model' / '_base_.yaml'), size, {'compile': device != 'cpu', 'rep_loss': loss}
            ),
        }
    )
    autocast = torch.autocast
    peer.autocast = lambda device_type, dtype: autocast(device_type, torch.bfloat16, enabled=precision == 'bfloat16')
    spaces = SimpleNamespace(spaces={'image': SimpleNamespace(shape=(64, 64, 3))})
    torch.manual_seed(0)
    agent = peer.Dreamer(root.model, spaces, SimpleNamespace(shape=(actions,))).to(device)
    return agent, Replay(synthetic(16, 64, (64, 64), actions), 32, size['discrete'], size['deter'], device)


def main() -> None:
    request = json.loads(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr):  # it prints; answers have standard output to themselves
        agent, replay = load(**request)

    def warm() -> dict:
        for _ in range(2 if request['device'] == 'cpu' else 5):
            agent.update(replay)
        return {'parameters': sum(p.numel() for p in agent._named_params.values())}

    serve({'warm': warm, 'turn': lambda: timed(lambda: agent.update(replay), device=request['device'])})


if __name__ == '__main__':
    main()
