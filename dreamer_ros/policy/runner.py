"""Runs an exported policy with numpy and onnxruntime alone."""

from __future__ import annotations

import functools
import hashlib
import math
from pathlib import Path

import numpy as np
import onnxruntime

from dreamer_ros.errors import InputError
from dreamer_ros.files import check_regular, user_path
from dreamer_ros.policy.digest import check_digest
from dreamer_ros.policy.manifest import GOLDEN_STEPS, Golden, Manifest, golden_difference, golden_inputs
from dreamer_ros.schema import check, load_json
from dreamer_ros.spec import RobotSpec

ONNX_TYPES = {
    'image': ('tensor(uint8)', np.uint8),
    'vector': ('tensor(float)', np.float32),
    'is_first': ('tensor(bool)', np.bool_),
    'state': ('tensor(float)', np.float32),
    'noise': ('tensor(float)', np.float32),
    'action': ('tensor(float)', np.float32),
    'next_state': ('tensor(float)', np.float32),
}

LARGEST = 1 << 30  # bytes of a policy file
WORKING_MEMORY = 1 << 30  # bytes that the computations of all policies of a process may take, beside their weights
LARGEST_TENSOR = 10**7  # numbers of an input or output; checked before they are allocated
_BLOCK = 1 << 18  # bytes searched at a time


class Cancellation:
    """Interrupts onnxruntime from another thread. Not every operation can be interrupted."""

    def __init__(self):
        self.load_options = onnxruntime.SessionOptions()
        self.run_options = onnxruntime.RunOptions()

    def cancel(self) -> None:
        """Make loading or running the policy raise InputError."""
        self.run_options.terminate = True
        if hasattr(self.load_options, 'set_load_cancellation_flag'):  # onnxruntime 1.21
            self.load_options.set_load_cancellation_flag(True)


class PolicyRunner:
    """One policy file, verified and warmed up, with the recurrent state of the running episode.

    Not thread-safe: one caller at a time.

    Args:
        path: the ONNX file; names it in errors.
        spec: of the robot; None accepts any.
        sha256: expected hex digest of the file; None for the digest in the file, if there is one.
        seed: seed of the exploration noise; None takes entropy from the system.
        data: the file's bytes, if they were read already.
        cancellation: interrupts loading and `act`.

    Raises:
        InputError: the file is missing, damaged, not an exported policy, made for another robot, or computes
            other actions here than it did in training.

    Attributes:
        spec: RobotSpec that the policy was trained for.
        version: counts up in one run.
        golden: the actions that were verified.
        metadata: str → str as written by the exporter (system, preset, step, …).
        uses_vector: whether `act` reads `vector`.
    """

    def __init__(
        self,
        path: str | Path,
        spec: RobotSpec | None = None,
        sha256: str | None = None,
        seed: int | None = None,
        data: bytes | None = None,
        cancellation: Cancellation | None = None,
    ):
        self.path = str(path)
        if data is None:
            data = read_file(self.path, LARGEST)
        self._size, self._digest = len(data), hashlib.sha256(data).hexdigest()
        if sha256 is None:
            check_digest(data, self.path)
        elif self._digest != sha256.lower():
            raise InputError(f'policy {self.path}: expected sha256 {sha256.lower()}, got {self._digest}')
        check_self_contained(data, self.path)
        self._cancellation = cancellation or Cancellation()
        self._session = open_session(self.path, data, self._cancellation.load_options)
        self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self.spec, self.version, self.golden, self._evaluation_noise, self._action_in_state = self._read_metadata()
        if spec is not None and spec.hash != self.spec.hash:
            raise InputError(
                f'policy {self.path}: expected a policy for {spec.name} (spec {spec.hash}), got one for '
                f'{self.spec.name} (spec {self.spec.hash}): {spec.difference(self.spec)}'
            )
        self._rng = np.random.default_rng(seed)
        self._allocate()
        self._verify(self.golden)
        self.reset()

    def act(self, image: np.ndarray | None, vector: np.ndarray | None, is_first: bool, explore: bool) -> np.ndarray:
        """Answer one observation and advance the recurrent state.

        Args:
            image: u8[H,W,3 per camera], RGB; ignored (may be None) without cameras.
            vector: f32[N]; ignored (may be None) unless `uses_vector`.
            is_first: the observation starts an episode, with an empty state.
            explore: sample from the policy; False takes its mode, or a plan without exploration.

        Returns:
            Action f32[A] in [-1, 1], a new array. It may not be finite, so whoever commands hardware must check it.

        Raises:
            InputError: an image or vector that does not fit the spec.
        """
        inputs = self._inputs
        if self.spec.cameras:
            if image is None or image.shape != inputs['image'].shape[1:] or image.dtype != np.uint8:
                got = 'none' if image is None else f'{image.dtype}{list(image.shape)}'
                raise InputError(
                    f'policy {self.path}: expected an image uint8{list(inputs["image"].shape[1:])}, got {got}'
                )
            inputs['image'][0] = image
        if self.uses_vector:
            if vector is None or np.shape(vector) != inputs['vector'].shape[1:]:
                got = 'none' if vector is None else f'shape {list(np.shape(vector))}'
                raise InputError(
                    f'policy {self.path}: expected a vector of the '
                    f'{len(self.spec.vector)} values {", ".join(self.spec.vector)}, got {got}'
                )
            inputs['vector'][0] = vector
        inputs['is_first'][0] = is_first
        if explore:
            self._rng.standard_normal(out=inputs['noise'], dtype=np.float32)
        else:
            inputs['noise'].fill(0.0)
            self._rng.standard_normal(out=inputs['noise'][0, self._evaluation_noise], dtype=np.float32)
        self._step()
        return self._outputs['action'][0].copy()

    def acted(self, action: np.ndarray) -> None:
        """Tell the action f32[A] that was executed instead of the last answer, by a person or because of limits.

        A policy whose state holds its previous action continues from it.
        """
        place = self._inputs['state'][0, self._action_in_state]
        if place.size:
            place[:] = action

    def manifest(self) -> Manifest:
        """The manifest of this file."""
        return Manifest.of_file(self.path, self._digest, self._size, self.version, self.spec, self.golden)

    def reset(self) -> None:
        """Forget the running episode."""
        self._inputs['state'].fill(0.0)

    def carry_over(self, previous: PolicyRunner) -> None:
        """Continue the episode of `previous` if both share one state layout, as the policies of one run do.

        Otherwise the state starts empty, as after `reset`.
        """
        state, before = self._inputs['state'], previous._inputs['state']
        same = all(self.metadata.get(key) == previous.metadata.get(key) for key in ('system', 'preset'))
        if same and state.shape == before.shape:
            np.copyto(state, before)
        else:
            self.reset()

    def _step(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding, self._cancellation.run_options)
        except Exception as error:  # onnxruntime's exception classes share no public base
            reason = str(error).strip().splitlines()[0]
            raise InputError(f'policy {self.path}: expected an action, but onnxruntime said: {reason}') from error
        np.copyto(self._inputs['state'], self._outputs['next_state'])

    def _read_metadata(self):
        try:
            spec = RobotSpec.from_json(self.metadata['spec'], 'metadata')
            golden = check(Golden, load_json(self.metadata['golden'], 'golden'), 'golden')
            drawn, action = (
                slice(*load_json(self.metadata.get(name, '[0, 0]'), name))
                for name in ('evaluation_noise', 'action_in_state')
            )
            return spec, int(self.metadata['version']), golden, drawn, action
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(
                f'policy {self.path}: expected metadata spec, version and golden as dreamer_ros exports '
                f'them, got {sorted(self.metadata)} ({type(error).__name__}: {error})'
            ) from error

    def _allocate(self) -> None:
        """Bind fixed arrays for a batch of one to the session, so that a step allocates nothing."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.uses_vector = any(node.name == 'vector' for node in inputs)
        used = {'image': bool(self.spec.cameras), 'vector': self.uses_vector}
        wanted = {name: kind for name, (kind, _) in ONNX_TYPES.items() if used.get(name, True)}
        found = {node.name: node.type for node in [*inputs, *outputs]}
        if found != wanted:
            raise InputError(f'policy {self.path}: expected inputs and outputs {wanted}, got {found}')
        binding = self._session.io_binding()
        arrays: dict[str, np.ndarray] = {}
        for node in [*inputs, *outputs]:
            shape = [1, *node.shape[1:]]
            if not all(isinstance(size, int) for size in shape):
                raise InputError(
                    f'policy {self.path}: expected fixed sizes after the batch axis, got {node.name}{node.shape}'
                )
            if math.prod(shape) > LARGEST_TENSOR:
                raise InputError(
                    f'policy {self.path}: expected at most {LARGEST_TENSOR} numbers each, got {node.name}{node.shape}'
                )
            dtype = ONNX_TYPES[node.name][1]
            array = arrays[node.name] = np.zeros(shape, dtype)
            bind = binding.bind_output if node.name in ('action', 'next_state') else binding.bind_input
            bind(node.name, 'cpu', 0, dtype, shape, array.ctypes.data)
        self._binding = binding
        self._outputs = {name: arrays.pop(name) for name in ('action', 'next_state')}
        self._inputs = arrays
        expected = {
            'action': (1, len(self.spec.action)),
            **({'image': (1, *self.spec.image_shape)} if self.spec.cameras else {}),
            **({'vector': (1, len(self.spec.vector))} if self.uses_vector else {}),
        }
        got = {name: ({**self._inputs, **self._outputs})[name].shape for name in expected}
        if got != expected:
            raise InputError(f'policy {self.path}: expected the shapes of its spec {expected}, got {got}')

    def _verify(self, golden: Golden) -> None:
        """Compare with the golden actions, which also warms the session up."""
        actions = np.zeros((GOLDEN_STEPS, len(self.spec.action)), np.float32)
        for step in range(GOLDEN_STEPS):
            inputs = golden_inputs(golden.seed, step, self.spec, self._inputs['noise'].shape[1])
            for name, value in inputs.items():
                if name in self._inputs:
                    self._inputs[name][...] = value
            self._step()
            actions[step] = self._outputs['action'][0]
        difference = golden_difference(golden, actions)
        if difference:
            raise InputError(f'policy {self.path}: the golden vector does not come out: {difference}')


def read_file(path: str, limit: int) -> bytes:
    """At most limit + 1 bytes of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        check_regular(user_path(path))
        with open(user_path(path), 'rb') as file:
            return file.read(limit + 1)
    except OSError as error:
        raise InputError(f'policy {path}: expected a readable file ({error.strerror})') from error


def _holds(data: bytes, word: bytes) -> bool:
    """Whether a word occurs in a file. Only tensors in another file have a `location`."""
    # Block by block, because a search holds the interpreter, which the control loop needs.
    overlap = len(word) - 1
    return any(data.find(word, start, start + _BLOCK + overlap) >= 0 for start in range(0, len(data), _BLOCK))


def check_self_contained(data: bytes, path: str) -> None:
    """Refuse a file whose weights are in other files.

    Raises:
        InputError: it is one.
    """
    if _holds(data, b'location'):
        raise InputError(f'policy {path}: expected all weights within the file, got weights in other files')


@functools.cache
def _limit_memory() -> None:
    """Have all sessions share an arena of WORKING_MEMORY."""
    memory = onnxruntime.OrtMemoryInfo(
        'Cpu', onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    arena = onnxruntime.OrtArenaCfg({'max_mem': WORKING_MEMORY, 'arena_extend_strategy': 1})  # as much as is asked for
    onnxruntime.create_and_register_allocator(memory, arena)


def open_session(path: str, data: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session of one thread.

    Raises:
        InputError: onnxruntime refuses the file.
    """
    # One thread that sleeps when idle: the usual thread pools would starve control loop and simulator.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    options.add_session_config_entry('session.inter_op.allow_spinning', '0')
    # Sampled latents drive activations into denormals, which are many times slower.
    options.add_session_config_entry('session.set_denormal_as_zero', '1')
    options.log_severity_level = 3
    _limit_memory()
    options.add_session_config_entry('session.use_env_allocators', '1')
    # A product of two small constants may be huge.
    options.add_session_config_entry('optimization.constant_folding_max_output_size_in_bytes', str(len(data)))
    try:
        session = onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # onnxruntime's exception classes share no public base
        reason = str(error).strip().splitlines()[0]
        raise InputError(f'policy {path}: expected an ONNX policy file, but onnxruntime said: {reason}') from error
    session._model_bytes = None  # the whole file, kept to change providers later, which never happens here
    return session
