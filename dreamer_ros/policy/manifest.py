"""The manifest of a policy, and the golden vector that proves a policy file works.

It imports neither torch nor onnxruntime: exporter, trainer, agent and robot all use it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.run_key import RunKey
from dreamer_ros.schema import load_json
from dreamer_ros.spec import RobotSpec

GOLDEN_STEPS = 2
GOLDEN_TOLERANCE = 2e-3


@dataclasses.dataclass(frozen=True)
class Golden:
    """The actions that a policy must compute for the inputs of `golden_inputs`.

    Attributes:
        seed: of the inputs.
        action: GOLDEN_STEPS × A values, with the state carried from step to step.
    """

    seed: int
    action: tuple[tuple[float, ...], ...]

    def to_dict(self) -> dict:
        return {'seed': self.seed, 'action': [list(row) for row in self.action]}

    @classmethod
    def from_dict(cls, data: dict) -> Golden:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(int(data['seed']), tuple(tuple(float(x) for x in row) for row in data['action']))


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Describes a policy file: the latched message on `policy`, and `policies/latest.json` in a run directory.

    Attributes:
        version: counts up from 1 in one run.
        uri: path, file:// or http(s):// address of the ONNX file.
        sha256, size: of the file's bytes.
        spec_hash: `RobotSpec.hash` of the robots it was trained for.
        control_period: seconds between two actions.
        golden: actions by which a runner checks that it computes the same as the trainer; also inside the file.
        signature: hexadecimal digits of an ed25519 signature of `signed_bytes`; empty without one.
        proof: that it was announced by a trainer with the run's key, see `announced`; empty without one.
    """

    version: int
    uri: str
    sha256: str
    size: int
    spec_hash: str
    control_period: float
    golden: Golden
    signature: str = ''
    proof: str = ''

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def at(self, uri: str) -> Manifest:
        """The same policy in another place."""
        return dataclasses.replace(self, uri=uri)

    def signed_bytes(self) -> bytes:
        """The signed content: everything except the uri, since the same file may lie in several places."""
        fields = dataclasses.asdict(self)
        del fields['uri'], fields['signature'], fields['proof']
        return json.dumps(fields, sort_keys=True).encode()

    def announced(self, key: RunKey) -> Manifest:
        """With a proof that covers everything, the uri too: a robot sends its token there."""
        return dataclasses.replace(self, proof=key.proof(self._proven_bytes()))

    def proven(self, key: RunKey) -> bool:
        """Whether somebody with the key announced it."""
        return key.proves(self._proven_bytes(), self.proof)

    def _proven_bytes(self) -> bytes:
        return dataclasses.replace(self, proof='').to_json().encode()

    @classmethod
    def of_file(cls, path: Path, data: bytes, version: int, spec: RobotSpec, golden: Golden) -> Manifest:
        """The manifest of a policy file with this content."""
        digest = hashlib.sha256(data).hexdigest()
        return cls(version, str(path), digest, len(data), spec.hash, spec.control_period, golden)

    @classmethod
    def from_json(cls, text: str, source: str = 'policy manifest') -> Manifest:
        """Parse what `to_json` wrote; `source` names the topic or file in the error.

        Raises:
            InputError: not JSON, or a key is missing or of another type.
        """
        data = load_json(text, source)
        try:
            manifest = cls(
                version=int(data['version']),
                uri=str(data['uri']),
                sha256=str(data['sha256']).lower(),
                size=int(data['size']),
                spec_hash=str(data['spec_hash']),
                control_period=float(data['control_period']),
                golden=Golden.from_dict(data['golden']),
                signature=str(data.get('signature', '')),
                proof=str(data.get('proof', '')),
            )
            for word in (manifest.uri, manifest.sha256, manifest.spec_hash):
                word.encode()  # lone surrogates, which no terminal and no log can show, raise
            return manifest
        except (ValueError, TypeError, KeyError, ArithmeticError) as error:  # ArithmeticError: version Infinity
            names = ', '.join(field.name for field in dataclasses.fields(cls) if field.default == dataclasses.MISSING)
            raise InputError(
                f'{source}: expected JSON with {names}, got {text[:80]!r} ({type(error).__name__}: {error})'
            ) from error


def golden_inputs(seed: int, step: int, spec: RobotSpec, noise_size: int) -> dict:
    """The inputs of one golden step, without `state`, for a batch of one.

    Returns:
        image u8[1,H,W,channels], vector f32[1,N], is_first bool[1] (True at step 0), noise f32[1,K]. The noise of
        step 0 is zero, so that the deterministic and the sampled path are both covered.
    """
    rng = np.random.Generator(np.random.PCG64([seed, step]))
    # Bytes and uniforms from raw 64-bit draws: numpy promises to keep the PCG64 stream, not `normal`.
    size = math.prod(spec.image_shape)
    raw = rng.bit_generator.random_raw(size + len(spec.vector) + noise_size)
    unit = ((raw >> np.uint64(40)).astype(np.float64) / 2**24).astype(np.float32)
    pixels, vector, noise = np.split(unit, [size, size + len(spec.vector)])
    return {
        'image': (pixels * 255).astype(np.uint8).reshape(1, *spec.image_shape),
        'vector': (2 * vector - 1)[None],
        'is_first': np.array([step == 0]),
        'noise': (2 * noise - 1)[None] if step else np.zeros((1, noise_size), np.float32),
    }


def golden_difference(golden: Golden, action: np.ndarray) -> str | None:
    """None if `action` [GOLDEN_STEPS, A] is the golden one, else a phrase with both."""
    expected = np.asarray(golden.action, np.float32)
    if expected.shape == action.shape and np.allclose(action, expected, rtol=0, atol=GOLDEN_TOLERANCE):
        return None
    return f'expected {np.round(expected, 4).tolist()}, got {np.round(action, 4).tolist()}'
