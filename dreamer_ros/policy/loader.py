"""Fetch policies by their manifests, and load new versions beside the running one.

A policy is checked three times, and opened once: its bytes by their SHA-256, what it computes by its golden vector,
and, where the robot demands it, who made it by a signature (signing.py).
"""

from __future__ import annotations

import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.paths import share
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.policy.runner import Cancellation, PolicyRunner
from dreamer_ros.spec import RobotSpec
from dreamer_ros.transfer.client import SLOWEST, Client, Failed

LARGEST = 1 << 30  # bytes; no policy is that large
DOWNLOAD_TIME = 600.0  # seconds that a download may take; a slower one is begun again where it stopped
LOAD_TIME = 60.0  # seconds that onnxruntime may take to open a policy and to compute its golden vector
GIVE_UP_TIME = 1.0  # seconds to end in after that
RETRIES = (1.0, 2.0, 4.0, 8.0, 15.0)  # seconds between attempts; the last one again and again

Check = Callable[[RobotSpec], None]
Keep = Callable[[Manifest, bytes], None]


class Unreachable(InputError):
    """A policy that may be had later: its server does not answer, or stopped in the middle."""


class PolicyLoader:
    """Turns manifests into verified runners on a thread of its own; the newest manifest wins.

    The caller's thread submits manifests and polls between two steps:

        loader.submit(manifest)
        ...
        runner = loader.poll() or runner

    A policy that fails to load changes nothing but `poll_problem`, so that the running one stays. While its
    server is away it is asked for again, until a newer one is submitted.

    Args:
        spec: of the robot; policies for another are refused.
        seed: of the exploration noise of the runners.
        check: decides instead of the spec's hash whether a policy suits the robot, see `load`.
        keep: gets what was verified, see `load`.
    """

    def __init__(self, spec: RobotSpec, seed: int | None = None, check: Check | None = None, keep: Keep | None = None):
        self._spec = spec
        self._seed = seed
        self._check = check
        self._keep = keep
        self._condition = threading.Condition()
        self._pending: Manifest | None = None
        self._ready: PolicyRunner | None = None
        self._problem: str | None = None
        self._seen: str | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name='policy-loader', daemon=True)
        self._thread.start()

    def submit(self, manifest: Manifest) -> None:
        """Ask for a policy; replaces one asked for and not yet begun. The last one is not loaded twice."""
        with self._condition:
            if manifest.sha256 == self._seen:
                return
            self._seen = manifest.sha256
            self._pending = manifest
            self._condition.notify()

    def poll(self) -> PolicyRunner | None:
        """The newest runner that became ready since the last call, or None. Never blocks on a load."""
        with self._condition:
            runner, self._ready = self._ready, None
            return runner

    def poll_problem(self) -> str | None:
        """One sentence about the latest failed load, once, or None."""
        with self._condition:
            problem, self._problem = self._problem, None
            return problem

    def close(self) -> None:
        """Stop the thread; a load that has begun is not waited for."""
        self._closed.set()
        with self._condition:
            self._condition.notify()
        self._thread.join(timeout=1.0)

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._pending or self._closed.is_set())
                if self._closed.is_set():
                    return
                manifest, self._pending = self._pending, None
            assert manifest is not None
            with tempfile.TemporaryFile() as begun:  # what came so far, for the next attempt
                self._load(manifest, begun)

    def _load(self, manifest: Manifest, begun: BinaryIO) -> None:
        """Load one policy, however often it takes; give up when it is wrong, or when a newer one came."""
        attempts = 0
        while True:
            try:
                runner = load(manifest, self._spec, self._seed, self._check, self._keep, self._closed, begun)
                with self._condition:
                    self._ready = runner
                return
            except Unreachable as error:
                with self._condition:
                    if not attempts:
                        self._problem = f'{error}; trying again until it can be had'
                    patience = RETRIES[min(attempts, len(RETRIES) - 1)]
                    if self._condition.wait_for(lambda: self._pending or self._closed.is_set(), patience):
                        return
                attempts += 1
            except InputError as error:
                self._refuse(manifest, str(error))
                return
            except Exception as error:  # a thread that died here would freeze the policy silently
                self._refuse(manifest, f'policy {manifest.uri}: {type(error).__name__}: {error}')
                return

    def _refuse(self, manifest: Manifest, problem: str) -> None:
        with self._condition:
            self._problem = problem
            # The same manifest may come again once its cause is mended.
            if self._seen == manifest.sha256:
                self._seen = None


def load(
    policy: str | Path | Manifest,
    spec: RobotSpec | None = None,
    seed: int | None = None,
    check: Check | None = None,
    keep: Keep | None = None,
    stop: threading.Event | None = None,
    begun: BinaryIO | None = None,
) -> PolicyRunner:
    """Fetch, verify and warm up a policy.

    Args:
        policy: its manifest, or the path of its file or of its manifest, see `stored_manifest`.
        spec: of the robot; a policy made for another spec is refused.
        check: where policies of several specs suit a robot: raises InputError for one that does not; `spec`
            then only names the robot.
        keep: gets the manifest and the file's bytes once all is verified.
        stop: ends a download.
        begun: a file with what came of a download before; the rest is written there.

    Raises:
        InputError: it is not what the manifest says, not for this robot, or takes longer than LOAD_TIME to answer.
        Unreachable: it cannot be had now.
    """
    manifest = policy if isinstance(policy, Manifest) else stored_manifest(policy)
    if manifest is None:
        path, digest = str(policy), None
        data = _read(path, LARGEST)
    else:
        path, digest = manifest.uri, manifest.sha256
        if spec is not None and check is None and manifest.spec_hash != spec.hash:
            raise InputError(
                f'policy {path}: expected one for {spec.name} (spec {spec.hash}), got one for spec {manifest.spec_hash}'
            )
        data = _fetch(manifest, stop, begun)
    runner = _open_in_time(path, None if check else spec, digest, seed, data)
    if check:
        check(runner.spec)
    if manifest is not None:
        if manifest.version != runner.version:
            raise InputError(
                f'policy {path}: expected version {manifest.version} as its manifest says, got {runner.version}'
            )
        if keep:
            keep(manifest, data)
    return runner


def policy_path(policy: str) -> Path:
    """The file of a policy that a person names: an ONNX file, a manifest, or a released policy.

    Raises:
        InputError: it is neither a file of those kinds nor a released policy.
    """
    path = Path(policy).expanduser().absolute()
    if path.suffix in ('.onnx', '.json'):
        return path
    known = sorted(file.stem for file in share('models', 'policies').glob('*.onnx'))
    if policy not in known:
        raise InputError(
            f'policy {policy}: expected an ONNX file, a manifest, or one of the released policies: '
            f'{", ".join(known) or "none are installed"}'
        )
    return share('models', 'policies', f'{policy}.onnx')


def policy_file(policy: str) -> Path:
    """The ONNX file of a policy that a person names.

    Raises:
        InputError: there is none.
    """
    path = policy_path(policy)
    manifest = stored_manifest(path)
    file = path if manifest is None else Path(manifest.uri).absolute()
    if not file.is_file():
        raise InputError(f'policy {file}: expected a readable file, found none')
    return file


def stored_manifest(path: str | Path) -> Manifest | None:
    """The manifest of a policy, None for an ONNX file without one.

    Args:
        path: a manifest such as `policies/latest.json` of a run, or an ONNX file, whose manifest is
            `<name>.manifest.json` beside it (`dreamer policy sign` writes it).

    Raises:
        InputError: it cannot be read.
    """
    path = Path(path).expanduser().absolute()
    file = path if path.suffix == '.json' else manifest_path(path)
    if file != path and not file.exists():
        return None
    manifest = Manifest.from_json(read_text(file), str(file))
    if not urllib.parse.urlsplit(manifest.uri).scheme:
        manifest = manifest.at(str(file.parent / manifest.uri))
    return manifest


def manifest_path(policy: Path) -> Path:
    """Where the manifest of an ONNX file lies, if it has one of its own."""
    return policy.with_name(f'{policy.stem}.manifest.json')


def _open_in_time(path: str, spec: RobotSpec | None, digest: str | None, seed: int | None, data: bytes) -> PolicyRunner:
    """A runner, made on a thread that is given up when it takes too long: a policy may hold an endless loop."""
    cancellation = Cancellation()
    outcome: list[PolicyRunner | BaseException] = []

    def work() -> None:
        try:
            outcome.append(PolicyRunner(path, spec, digest, seed, data, cancellation))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, name='policy', daemon=True)
    thread.start()
    thread.join(LOAD_TIME)
    if not outcome:
        cancellation.cancel()
        thread.join(GIVE_UP_TIME)
        raise InputError(f'policy {path}: expected its first actions within {LOAD_TIME:g} s, gave it up')
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _fetch(manifest: Manifest, stop: threading.Event | None, begun: BinaryIO | None) -> bytes:
    uri, size = manifest.uri, manifest.size
    if not 0 < size <= LARGEST:
        raise InputError(f'policy {uri}: expected a size of 1 to {LARGEST} bytes, got {size}')
    try:
        parts = urllib.parse.urlsplit(uri)
        if parts.scheme in ('http', 'https'):
            with tempfile.TemporaryFile() as file:
                data = _download(uri, size, stop, begun or file)
        elif parts.scheme == 'file':
            data = _read(urllib.request.url2pathname(parts.path), size)
        elif not parts.scheme:
            data = _read(uri, size)
        else:
            raise InputError(f'policy {uri}: expected a path, file://, http:// or https://')
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f'policy {uri!r}: expected a path or an address ({error})') from error
    except OSError as error:
        raise InputError(f'policy {uri}: cannot be stored while it is downloaded ({error.strerror})') from error
    if len(data) != size:
        got = len(data) if len(data) < size else 'more'
        raise InputError(f'policy {uri}: expected {size} bytes, got {got}')
    return data


def _read(path: str, limit: int) -> bytes:
    """At most limit + 1 bytes of a file."""
    try:
        with open(Path(path).expanduser(), 'rb') as file:
            return file.read(limit + 1)
    except OSError as error:
        raise InputError(f'policy {path}: expected a readable file ({error.strerror})') from error


def _download(uri: str, size: int, stop: threading.Event | None, file: BinaryIO) -> bytes:
    """At most size + 1 bytes; what came stays in the file."""
    client = Client(stop)
    try:
        client.download(uri, file, size, max(SLOWEST, size / DOWNLOAD_TIME))
    except Failed as error:
        if 400 <= error.status < 500:
            raise InputError(f'policy {uri}: expected a file that can be read ({error.reason})') from error
        raise Unreachable(f'policy {error}') from error
    finally:
        client.close()
    file.seek(0)
    return file.read(size + 1)
