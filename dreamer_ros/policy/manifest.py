"""The manifest of a policy, and the golden vector that proves a policy file works.

It imports neither torch nor onnxruntime: exporter, trainer, agent and robot all use it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, StringConstraints

from dreamer_ros.files import user_path
from dreamer_ros.run_key import RunKey
from dreamer_ros.schema import Expected, Record, check, load_json
from dreamer_ros.spec import RobotSpec

GOLDEN_STEPS = 2
GOLDEN_TOLERANCE = 2e-3


def _encodable(text: str) -> str:
    text.encode()  # a lone surrogate, which no terminal and no log can show, raises
    return text


_Text = Annotated[str, AfterValidator(_encodable), Expected('a text in UTF-8')]


class Golden(Record):
    """The actions that a policy must compute for the inputs of `golden_inputs`.

    Attributes:
        seed: of the inputs.
        action: GOLDEN_STEPS × A values, with the state carried from step to step.
    """

    seed: int
    action: tuple[tuple[float, ...], ...]


class Manifest(Record):
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
    uri: _Text
    sha256: Annotated[_Text, StringConstraints(to_lower=True)]
    size: int
    spec_hash: _Text
    control_period: float
    golden: Golden
    signature: _Text = ''
    proof: _Text = ''

    def to_json(self) -> str:
        return json.dumps(self.model_dump(), sort_keys=True)

    def at(self, uri: str) -> Manifest:
        """The same policy in another place."""
        return self.model_copy(update={'uri': uri})

    def signed_bytes(self) -> bytes:
        """The signed content: everything except the uri, since the same file may lie in several places."""
        return json.dumps(self.model_dump(exclude={'uri', 'signature', 'proof'}), sort_keys=True).encode()

    def announced(self, key: RunKey) -> Manifest:
        """With a proof that covers everything, the uri too: a robot sends its token there."""
        return self.model_copy(update={'proof': key.proof(self._proven_bytes())})

    def proven(self, key: RunKey) -> bool:
        """Whether somebody with the key announced it."""
        return key.proves(self._proven_bytes(), self.proof)

    def _proven_bytes(self) -> bytes:
        return self.model_copy(update={'proof': ''}).to_json().encode()

    @classmethod
    def of_file(
        cls, path: str | Path, digest: str, size: int, version: int, spec: RobotSpec, golden: Golden
    ) -> Manifest:
        """The manifest of a policy file with this SHA-256 and this many bytes."""
        return cls(
            version=version,
            uri=str(user_path(path).absolute()),
            sha256=digest,
            size=size,
            spec_hash=spec.hash,
            control_period=spec.control_period,
            golden=golden,
        )

    @classmethod
    def from_json(cls, text: str, source: str = 'policy manifest') -> Manifest:
        """Parse what `to_json` wrote; `source` names the topic or file in the error.

        Raises:
            InputError: not JSON, or a key is missing or of another type.
        """
        return check(cls, load_json(text, source), source)


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
