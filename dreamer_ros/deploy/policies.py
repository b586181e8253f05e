"""Selects the policy that a robot plays: the newest verified one, or after a rollback the one before."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

from dreamer_ros.errors import InputError
from dreamer_ros.files import sha256, write_file
from dreamer_ros.policy.loader import PolicyLoader, load, stored_manifest
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.robot.contract import RobotContract

STOP_PERIOD = 0.1  # seconds between two looks at the stop event
KEPT = 'latest.json'  # manifest of the newest policy, in the folder where it is kept


def kept_policy(folder: Path, warn: Callable[[str], object]) -> Manifest | None:
    """The policy that `Policies` kept in a folder; None if there is none. Warns of a damaged one."""
    if not (folder / KEPT).exists():
        return None
    try:
        manifest = stored_manifest(folder / KEPT)
        if sha256(Path(manifest.uri)) == manifest.sha256:
            return manifest
        warn(f'{manifest.uri}: the policy that was kept is damaged; going on without it')
    except (InputError, OSError) as error:
        warn(f'the policy that was kept cannot be read ({error}); going on without it')
    return None


def authenticate(manifest: Manifest, public_key: str | None) -> None:
    """Refuse a policy that is not signed as its robot's contract demands.

    Raises:
        InputError: it is not.
    """
    if public_key:
        from dreamer_ros.policy.signing import verify

        verify(manifest, public_key)


class Policies:
    """Loads and verifies policies while another one plays. Thread-safe.

    The control loop reads `current` once per tick, so a new version begins between two steps.

    Args:
        contract: of the robot. It refuses policies that do not fit and, if it has a public key, unsigned ones.
        seed: seed of the exploration noise.
        keep: folder in which the newest policy is kept for `kept_policy`; None to keep none.
        complain: gets a sentence when keeping fails.

    Attributes:
        current: the policy that plays; None if there is none yet.
        problem: one sentence about the newest refusal; '' if the newest policy plays.
    """

    def __init__(self, contract: RobotContract, seed: int, keep: Path | None, complain: Callable[[str], None]):
        self._contract, self._seed = contract, seed
        self._folder, self._complain = keep, complain
        self._loader = PolicyLoader(contract.spec, seed, contract.check, self._keep)
        self._lock = threading.Lock()
        self._previous: PolicyRunner | None = None
        self.current: PolicyRunner | None = None
        self.problem = ''

    def close(self) -> None:
        """Load no more."""
        self._loader.close()

    def load(self, policy: str | Manifest, stop: threading.Event) -> None:
        """Load a policy and play it; returns when it plays.

        Args:
            policy: its manifest, or the path of its file or manifest.
            stop: ends the wait for a slow server.

        Raises:
            InputError: it is not for this robot, damaged or not signed, or `stop` was set.
        """
        future: Future = Future()

        def work() -> None:
            try:
                future.set_result(self._load(policy))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name='first-policy', daemon=True).start()
        while not wait([future], STOP_PERIOD).done:
            if stop.is_set():
                raise InputError('the policy was still being loaded when this agent was asked to end')
        self._play(future.result())

    def _load(self, policy: str | Manifest) -> PolicyRunner:
        manifest = stored_manifest(policy) if isinstance(policy, str) else policy
        if manifest is None:
            if self._contract.public_key:
                raise InputError(
                    f'policy {policy}: expected a signature by the key {self._contract.public_key}, but '
                    'it has no manifest; `dreamer policy sign` makes one'
                )
        else:
            authenticate(manifest, self._contract.public_key)
        return load(manifest or policy, self._contract.spec, self._seed, self._contract.check, self._keep)

    def offer(self, manifest: Manifest) -> None:
        """Load a policy in the background; `poll` plays it once it is ready.

        Raises:
            InputError: it is not signed as the contract demands.
        """
        authenticate(manifest, self._contract.public_key)
        self._loader.submit(manifest)

    def poll(self) -> bool:
        """Whether a policy began to play or was refused since the last call; see `current` and `problem`."""
        outcome = self._loader.poll()
        if isinstance(outcome, PolicyRunner):
            self._play(outcome)
        elif outcome is not None:
            self.problem = outcome
        return outcome is not None

    def rollback(self) -> PolicyRunner:
        """Play the previous policy again. The next new one is played as usual.

        Raises:
            InputError: there is no previous one.
        """
        with self._lock:
            if self._previous is None:
                raise InputError('rollback: expected an earlier policy, but none was played before')
            self.current, self._previous = self._previous, self.current
            return self.current

    def _keep(self, manifest: Manifest, data: bytes) -> None:
        if self._folder is None or manifest.uri.startswith(f'{self._folder}/'):
            return
        name = f'policy_{manifest.version:06d}_{manifest.sha256[:8]}.onnx'
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_file(self._folder / name, data)
            write_file(self._folder / KEPT, manifest.at(name).to_json() + '\n')
            for old in self._folder.glob('policy_*.onnx'):
                if old.name != name:
                    old.unlink()
        except OSError as error:
            self._complain(
                f'policy version {manifest.version} plays, but could not be kept in {self._folder} ({error})'
            )

    def _play(self, runner: PolicyRunner) -> None:
        with self._lock:
            self._previous, self.current = self.current, runner
            self.problem = ''
        _give_memory_back()


def _give_memory_back() -> None:
    """Return freed memory to the system: loading a policy briefly takes several times its size."""
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
