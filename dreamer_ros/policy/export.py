"""Writes the torch policy in training to the ONNX file that robots run."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from dreamer_ros.files import write_file
from dreamer_ros.policy.digest import with_digest
from dreamer_ros.policy.manifest import GOLDEN_STEPS, GOLDEN_TOLERANCE, Golden, Manifest, golden_inputs
from dreamer_ros.spec import RobotSpec

# onnxruntime 1.16, which some robots still run, and all later versions read it.
OPSET = 17
# Noise this small must not change a golden action. It stands for the rounding of other machines.
GOLDEN_JITTER = 1e-4
GOLDEN_TRIES = 8


class Exporter:
    """Writes a policy module that is being trained to ONNX files, quickly and often.

    The module is traced and serialised once, on construction. The bytes of every parameter keep their place in the
    serialised graph, because constant folding is off (onnxruntime folds when it loads). Each `write` puts the present
    parameters there. It leaves protobuf alone, which never frees the old bytes of a tensor that is given new ones.

    Args:
        policy: module with `forward(image, [vector,] is_first, state, noise) -> (action, next_state)`, without
            image for a robot without cameras, and with `state_size`, `noise_size` and `uses_vector`; on any device.
            It may have `evaluation_noise` (start, stop), the part of the noise that an evaluation draws as well,
            such as a planner's candidates, and `action_in_state`, the part of the state that is the previous action.
        spec: of the robots it acts for.
    """

    def __init__(self, policy: nn.Module, spec: RobotSpec):
        self._live = policy
        self._spec = spec
        # A copy on the CPU: tracing and the golden vector leave the module in training alone.
        self._policy = copy.deepcopy(policy).cpu().float().eval().requires_grad_(False)
        known = self._policy.state_dict()
        # The tracer merges tensors of equal values, such as all biases before the first update.
        for tensor in known.values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 0.2)
        model = self._trace()
        fixed = {name for name, _ in self._policy.named_buffers()}
        unknown = [tensor.name for tensor in model.graph.initializer if tensor.name not in {*known, *fixed}]
        if unknown:
            # They would keep the values of the first export.
            raise ValueError(f'the trace made constants that are no parameters: {unknown}')
        self._graph = bytearray(model.SerializeToString())
        self._weights = {
            tensor.name: _in_place(tensor, self._graph) for tensor in model.graph.initializer if tensor.name in known
        }

    def write(self, path: str | Path, metadata: dict) -> Manifest:
        """Write the policy as it is now, through a temporary file and a rename.

        Args:
            metadata: `version` (int), and what people should know, such as `system`, `preset` and `step`. Values
                are stored as text.

        Returns:
            The manifest of the file, with its absolute path as the uri.
        """
        path = Path(path).absolute()
        with torch.no_grad():
            self._policy.load_state_dict(self._live.state_dict())
        parameters = self._policy.state_dict()
        for name, place in self._weights.items():
            place[...] = parameters[name].numpy()
        golden = self._golden()
        entries = onnx.ModelProto()
        onnx.helper.set_model_props(
            entries,
            {
                **{key: str(value) for key, value in metadata.items()},
                'spec': self._spec.to_json(),
                'spec_hash': self._spec.hash,
                'evaluation_noise': json.dumps(getattr(self._policy, 'evaluation_noise', (0, 0))),
                'action_in_state': json.dumps(getattr(self._policy, 'action_in_state', (0, 0))),
                'control_period': str(self._spec.control_period),
                'golden': golden.model_dump_json(),
            },
        )
        # Serialised messages can be joined: the file is the graph, its metadata and its digest.
        data = with_digest(self._graph + entries.SerializeToString())
        write_file(path, data)
        digest = hashlib.sha256(data).hexdigest()
        return Manifest.of_file(path, digest, len(data), int(metadata['version']), self._spec, golden)

    def _arguments(self, inputs: dict, state: torch.Tensor) -> tuple:
        """Positional arguments of the policy from numpy inputs and a state."""
        tensors = {**{name: torch.from_numpy(value) for name, value in inputs.items()}, 'state': state}
        return tuple(tensors[name] for name in self._input_names())

    def _input_names(self) -> list:
        image = ['image'] if self._spec.cameras else []
        vector = ['vector'] if self._policy.uses_vector else []
        return [*image, *vector, 'is_first', 'state', 'noise']

    def _trace(self) -> onnx.ModelProto:
        inputs = golden_inputs(0, 1, self._spec, self._policy.noise_size)
        # Two rows: an axis of length one could be taken for a constant.
        inputs = {name: np.concatenate([value, value]) for name, value in inputs.items()}
        arguments = self._arguments(inputs, torch.zeros(2, self._policy.state_size))
        names, outputs = self._input_names(), ['action', 'next_state']
        buffer = io.BytesIO()
        with warnings.catch_warnings(), torch.no_grad():
            # The TorchScript exporter is called legacy, but needs no onnxscript and keeps parameter names.
            warnings.simplefilter('ignore')
            torch.onnx.register_custom_op_symbolic('aten::zeros_like', _zeros_like, OPSET)
            try:
                torch.onnx.export(
                    self._policy,
                    arguments,
                    buffer,
                    dynamo=False,
                    opset_version=OPSET,
                    do_constant_folding=False,
                    input_names=names,
                    output_names=outputs,
                    dynamic_axes={name: {0: 'batch'} for name in [*names, *outputs]},
                )
            finally:
                torch.onnx.unregister_custom_op_symbolic('aten::zeros_like', OPSET)
        model = onnx.load_model_from_string(buffer.getvalue())
        # Shape inference does not see through every operation: say what the outputs are.
        for output, size in zip(model.graph.output, (len(self._spec.action), self._policy.state_size)):
            batch, features = output.type.tensor_type.shape.dim
            batch.dim_param, features.dim_value = 'batch', size
        return model

    @torch.no_grad()
    def _golden(self) -> Golden:
        """Actions for the first golden inputs whose answer does not depend on rounding.

        A sampled category flips where two scores nearly tie, and the action with it. Rows with jittered noise show
        whether that happens.
        """
        best, smallest = None, float('inf')
        for seed in range(GOLDEN_TRIES):
            state, actions, spread = torch.zeros(3, self._policy.state_size), [], 0.0
            for step in range(GOLDEN_STEPS):
                inputs = golden_inputs(seed, step, self._spec, self._policy.noise_size)
                inputs = {name: np.repeat(value, 3, 0) for name, value in inputs.items()}
                jitter = np.random.default_rng(step).uniform(-1, 1, inputs['noise'].shape[1])
                inputs['noise'] += (GOLDEN_JITTER * np.outer([0, 1, -1], jitter)).astype(np.float32)
                action, state = self._policy(*self._arguments(inputs, state))
                spread = max(spread, float((action - action[:1]).abs().max()))
                actions.append(tuple(action[0].tolist()))
            if spread < smallest:
                best, smallest = Golden(seed=seed, action=tuple(actions)), spread
            if spread < GOLDEN_TOLERANCE / 2:
                break
        if best is None:
            raise FloatingPointError('the policy gives actions that are not finite')
        return best


def _in_place(tensor: onnx.TensorProto, graph: bytearray) -> np.ndarray:
    """The values of a tensor inside the serialised graph, as an array to write to."""
    entry = tensor.SerializeToString()
    start = graph.find(entry)
    if start < 0 or graph.find(entry, start + 1) >= 0 or not entry.endswith(tensor.raw_data):
        raise ValueError(f'the serialised graph does not hold {tensor.name} as one piece')
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    offset = start + len(entry) - len(tensor.raw_data)
    return np.frombuffer(graph, dtype, math.prod(tensor.dims), offset).reshape(tensor.dims)


def _zeros_like(graph, like, *_):
    """Zeros that follow their model's batch axis: torch's own rule writes down the traced shape."""
    return graph.op('Sub', like, like)
