"""Policies with 8-bit weights: a third of the size, and faster where an inference waits for memory."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from dreamer_ros.episodes.episode import Episode
from dreamer_ros.errors import InputError
from dreamer_ros.files import write_file
from dreamer_ros.policy.digest import KEY, with_digest
from dreamer_ros.policy.manifest import GOLDEN_STEPS, Manifest, golden_inputs
from dreamer_ros.policy.runner import PolicyRunner

OPERATORS = ['MatMul', 'Gemm']  # convolutions stay as they are: they have few weights, each used often


class Difference(NamedTuple):
    """Difference between the actions of two policies for equal observations, in units of half an action's range."""

    steps: int
    mean: float
    largest: float


def quantize(source: Path, target: Path) -> Manifest:
    """Write the int8 variant of a policy file by onnxruntime's dynamic quantisation.

    Weights of linear layers become int8; their inputs are quantised at each step.

    Raises:
        InputError: the source is no policy of ours, or is quantised already.
    """
    runner = PolicyRunner(source)
    if 'quantized' in runner.metadata:
        raise InputError(f'policy {source}: expected one with float weights, got {runner.metadata["quantized"]}')
    with tempfile.TemporaryDirectory() as folder:
        folded, quantized = Path(folder, 'folded.onnx'), Path(folder, 'quantized.onnx')
        _fold(source, folded)
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)  # it recommends the folding that was done
        try:
            # 7 bits: with 8, processors without VNNI instructions overflow.
            quantize_dynamic(
                folded, quantized, op_types_to_quantize=OPERATORS, weight_type=QuantType.QInt8, reduce_range=True
            )
        finally:
            logging.getLogger().setLevel(level)
        model = onnx.load(str(quantized))
    golden = runner.golden.model_copy(update={'action': _golden_actions(model, runner)})
    metadata = {**runner.metadata, 'quantized': 'int8', 'golden': golden.model_dump_json()}
    metadata.pop(KEY, None)  # the digest of the source
    onnx.helper.set_model_props(model, metadata)
    write_file(target.absolute(), with_digest(model.SerializeToString()))
    return PolicyRunner(target).manifest()


def difference(one: Path, other: Path, episodes: Iterable[Episode] = (), steps: int = 200) -> Difference:
    """How much the deterministic actions of two policies differ, each with its own memory.

    Args:
        episodes: recorded observations for both; without any, they see noise.
        steps: how many observations.
    """
    left, right = PolicyRunner(one, seed=0), PolicyRunner(other, seed=0)
    gaps = []
    for image, vector, is_first in _observations(left, episodes, steps):
        actions = [runner.act(image, vector, is_first, explore=False) for runner in (left, right)]
        gaps.append(np.abs(actions[0] - actions[1]).max())
    return Difference(len(gaps), float(np.mean(gaps)), float(np.max(gaps)))


def _observations(runner: PolicyRunner, episodes: Iterable[Episode], steps: int):
    shown = 0
    for episode in episodes:
        for k in range(min(len(episode.reward), steps - shown)):
            yield episode.image[k], episode.vector[k], bool(episode.is_first[k])
            shown += 1
    for k in range(steps if not shown else 0):
        inputs = golden_inputs(k, 0, runner.spec, 0)
        yield inputs['image'][0], inputs['vector'][0], k == 0


def _fold(source: Path, target: Path) -> None:
    """Fold constants: an exported graph transposes and casts its parameters at each step."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=['CPUExecutionProvider'])


def _golden_actions(model: onnx.ModelProto, runner: PolicyRunner):
    """The model's actions for the golden inputs of a runner's policy, GOLDEN_STEPS rows."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    sizes = {node.name: node.shape[1:] for node in session.get_inputs()}
    state, rows = np.zeros((1, *sizes['state']), np.float32), []
    for step in range(GOLDEN_STEPS):
        inputs = golden_inputs(runner.golden.seed, step, runner.spec, sizes['noise'][0])
        given = {name: value for name, value in {**inputs, 'state': state}.items() if name in sizes}
        action, state = session.run(['action', 'next_state'], given)
        rows.append(tuple(action[0].tolist()))
    return tuple(rows)
