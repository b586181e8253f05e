"""A small policy with every operation of the real ones, for tests of export and runner."""

from __future__ import annotations

import functools
from pathlib import Path

import onnx
import torch
from onnx import TensorProto
from torch import nn
from torch.nn import functional as F

from dreamer_ros.policy.manifest import Golden, Manifest
from dreamer_ros.spec import RobotSpec


def spec(vector=(), image_size=(32, 32), actions=2) -> RobotSpec:
    return RobotSpec(
        name='tiny',
        image_size=image_size,
        vector=tuple(vector),
        action=tuple(f'motor{i}' for i in range(actions)),
        action_low=(-1.0,) * actions,
        action_high=(1.0,) * actions,
        control_period=0.02,
        action_repeat=2,
    )


def manifest(**changes) -> Manifest:
    """Of no policy in particular."""
    values = dict(
        version=3,
        uri='/runs/policy.onnx',
        sha256='ab' * 32,
        size=1000,
        spec_hash='0123456789abcdef',
        control_period=0.02,
        golden=Golden(seed=1, action=((0.5, -0.25),)),
    )
    return Manifest(**{**values, **changes})


class TinyPolicy(nn.Module):
    """Stride-2 encoder, one RSSM step (written-out GRU, categorical latent by Gumbel noise), tanh actor.

    state = [deter, stoch, previous action]; noise = [uniform-izable normals per class, normals per action].
    """

    def __init__(self, spec: RobotSpec, deter=24, groups=4, classes=4, depth=4):
        super().__init__()
        height, width = spec.image_size
        actions, self._deter, self._groups, self._classes = len(spec.action), deter, groups, classes
        stoch = groups * classes
        self.uses_vector = bool(spec.vector)
        self.state_size = deter + stoch + actions
        self.noise_size = stoch + actions
        self.conv1 = nn.Conv2d(3, depth, 4, 2, 1)
        self.conv2 = nn.Conv2d(depth, 2 * depth, 4, 2, 1)
        embed = 2 * depth * (height // 4) * (width // 4) + len(spec.vector)
        self.into = nn.Linear(stoch + actions, deter)
        self.gates = nn.Linear(2 * deter, 3 * deter)
        self.norm = nn.LayerNorm(3 * deter)
        self.posterior = nn.Linear(deter + embed, stoch)
        self.actor = nn.Linear(deter + stoch, 2 * actions)
        self.register_buffer('minimum_std', torch.tensor(0.1))
        for name, parameter in self.named_parameters():
            if name.endswith('bias'):  # equal at first, as in the real networks
                nn.init.zeros_(parameter)

    def forward(self, image, *inputs):
        vector, (is_first, state, noise) = (inputs[0], inputs[1:]) if self.uses_vector else (None, inputs)
        stoch_size = self._groups * self._classes
        state = state * (1.0 - is_first.float())[:, None]
        deter, rest = state[:, : self._deter], state[:, self._deter :]
        x = image.permute(0, 3, 1, 2).float() / 255.0 - 0.5
        x = F.silu(self.conv2(F.silu(self.conv1(x)))).flatten(1)
        if vector is not None:
            x = torch.cat([x, vector], -1)
        hidden = F.silu(self.into(rest))
        reset, candidate, update = self.norm(self.gates(torch.cat([hidden, deter], -1))).chunk(3, -1)
        update = torch.sigmoid(update - 1.0)
        deter = update * torch.tanh(torch.sigmoid(reset) * candidate) + (1.0 - update) * deter
        logits = self.posterior(torch.cat([deter, x], -1))
        stoch_noise, action_noise = noise[:, :stoch_size], noise[:, stoch_size:]
        uniform = (0.5 * (1.0 + torch.erf(stoch_noise * 0.7071067811865476))).clamp(1e-6, 1.0 - 1e-6)
        scores = (logits - torch.log(-torch.log(uniform))).reshape(-1, self._groups, self._classes)
        stoch = F.one_hot(scores.argmax(-1), self._classes).float().flatten(1)
        mean, std = self.actor(torch.cat([deter, stoch], -1)).chunk(2, -1)
        action = (torch.tanh(mean) + action_noise * (F.softplus(std) + self.minimum_std)).clamp(-1.0, 1.0)
        return action, torch.cat([deter, stoch, action], -1)


def tiny_policy(robot: RobotSpec, seed: int = 0) -> TinyPolicy:
    torch.manual_seed(seed)
    return TinyPolicy(robot).eval()


def make_endless(path: Path) -> None:
    """Make a policy of ours count to a million million before it acts, as somebody else's file might."""
    model = onnx.load(str(path))
    del model.metadata_props[-1]  # content_sha256
    for node in model.graph.node:
        node.output[:] = ['acted' if name == 'action' else name for name in node.output]
        node.input[:] = ['acted' if name == 'action' else name for name in node.input]
    value = functools.partial(onnx.helper.make_tensor_value_info)
    shape = [1, 2]
    body = onnx.helper.make_graph(
        [onnx.helper.make_node('Identity', ['go'], ['on']), onnx.helper.make_node('Neg', ['x'], ['y'])],
        'body',
        [value('k', TensorProto.INT64, []), value('go', TensorProto.BOOL, []), value('x', TensorProto.FLOAT, shape)],
        [value('on', TensorProto.BOOL, []), value('y', TensorProto.FLOAT, shape)],
    )
    model.graph.initializer.append(onnx.helper.make_tensor('times', TensorProto.INT64, [], [10**12]))
    model.graph.initializer.append(onnx.helper.make_tensor('begin', TensorProto.BOOL, [], [True]))
    model.graph.node.append(onnx.helper.make_node('Loop', ['times', 'begin', 'acted'], ['action'], body=body))
    onnx.save(model, str(path))
