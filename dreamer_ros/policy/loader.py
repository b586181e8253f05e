"""Fetches policies by their manifests, and loads new versions while another one runs.

Three things are checked: the file's bytes by their SHA-256, its computation by the golden vector and, if the robot
demands it, its origin by a signature (signing.py).
"""

from __future__ import annotations

import functools
import queue
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text, user_path
from dreamer_ros.paths import share
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.policy.runner import LARGEST, Cancellation, PolicyRunner, read_file
from dreamer_ros.run_key import given_key
from dreamer_ros.spec import RobotSpec
from dreamer_ros.transfer.client import SLOWEST, Client, Failed

DOWNLOAD_TIME = 600.0  # seconds that a download may take; a slower one is resumed
LOAD_TIME = 60.0  # seconds that onnxruntime may take to open a policy and to compute its golden vector
GIVE_UP_TIME = 1.0  # seconds that it has to end after that
RETRIES = (1.0, 2.0, 4.0, 8.0, 15.0)  # seconds between attempts; the last one repeats

Check = Callable[[RobotSpec], None]
Keep = Callable[[Manifest, bytes], None]
Opened = TypeVar('Opened')


class Unreachable(InputError):
    """A policy that may be fetched later: its server does not answer, or stopped in the middle."""


class PolicyLoader:
    """Turns manifests into verified runners on a thread of its own; the newest manifest wins.

    The caller's thread submits manifests and polls between two steps:

        loader.submit(manifest)
        ...
        outcome = loader.poll()

    While the server of a policy is away, the download is tried again until a newer policy is submitted.

    Args:
        spec, seed, check, keep: see `load`.
    """

    def __init__(self, spec: RobotSpec, seed: int | None = None, check: Check | None = None, keep: Keep | None = None):
        self._load_once = functools.partial(load, spec=spec, seed=seed, check=check, keep=keep)
        self._condition = threading.Condition()
        self._pending: Manifest | None = None
        self._outcomes: queue.SimpleQueue[PolicyRunner | str] = queue.SimpleQueue()
        self._seen: str | None = None  # SHA-256 of the last policy submitted
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name='policy-loader', daemon=True)
        self._thread.start()

    def submit(self, manifest: Manifest) -> None:
        """Ask for a policy. It replaces one that is not begun yet; the same one is not loaded twice in a row."""
        with self._condition:
            if manifest.sha256 == self._seen:
                return
            self._seen = manifest.sha256
            self._pending = manifest
            self._condition.notify()

    def poll(self) -> PolicyRunner | str | None:
        """What the next load came to: a runner, or one sentence about what is wrong. None without news."""
        try:
            return self._outcomes.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """Stop the thread, without waiting for a load that has begun."""
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
            with tempfile.TemporaryFile() as begun:  # keeps what came for the next attempt
                self._load(manifest, begun)

    def _load(self, manifest: Manifest, begun: BinaryIO) -> None:
        """Load one policy, with as many attempts as needed, unless it is wrong or a newer one comes."""
        attempts = 0
        while True:
            try:
                self._outcomes.put(self._load_once(manifest, stop=self._closed, begun=begun))
                return
            except Unreachable as error:
                if not attempts:
                    self._outcomes.put(f'{error}; trying again until it can be had')
                patience = RETRIES[min(attempts, len(RETRIES) - 1)]
                with self._condition:
                    if self._condition.wait_for(lambda: self._pending or self._closed.is_set(), patience):
                        return
                attempts += 1
            except InputError as error:
                self._refuse(manifest, str(error))
                return
            except Exception as error:  # if this thread died, no policy would ever be loaded again
                self._refuse(manifest, f'policy {manifest.uri}: {type(error).__name__}: {error}')
                return

    def _refuse(self, manifest: Manifest, problem: str) -> None:
        self._outcomes.put(problem)
        with self._condition:
            # The same manifest may come again once the cause is mended.
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
        spec: of the robot; a policy trained for another spec is refused.
        seed: seed of the exploration noise; None takes entropy from the system.
        check: for robots that suit policies of several specs: raises InputError for a policy that does not fit.
            `spec` is not compared then.
        keep: gets the manifest and the file's bytes after verification.
        stop: ends a download.
        begun: file with the beginning of an earlier download, to which the rest is written.

    Raises:
        InputError: it contradicts its manifest, is not for this robot, or takes longer than LOAD_TIME.
        Unreachable: it cannot be fetched now.
    """
    manifest = policy if isinstance(policy, Manifest) else stored_manifest(policy)
    if manifest is None:
        path, digest = str(policy), None
        data = read_file(path, LARGEST)
    else:
        path, digest = manifest.uri, manifest.sha256
        if spec is not None and check is None and manifest.spec_hash != spec.hash:
            raise InputError(
                f'policy {path}: expected one for {spec.name} (spec {spec.hash}), got one for spec {manifest.spec_hash}'
            )
        data = _fetch(manifest, stop, begun)
    wanted = None if check else spec
    runner = open_in_time(path, lambda cancellation: PolicyRunner(path, wanted, digest, seed, data, cancellation))
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
    """The file that a user's word for a policy means: an ONNX file, a manifest, or a released policy.

    Raises:
        InputError: it is none of these.
    """
    path = user_path(policy).absolute()
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
    """The ONNX file that a user's word for a policy means.

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
    path = user_path(path).absolute()
    file = path if path.suffix == '.json' else manifest_path(path)
    if file != path and not file.exists():
        return None
    manifest = Manifest.from_json(read_text(file), str(file))
    if not urllib.parse.urlsplit(manifest.uri).scheme:
        manifest = manifest.at(str(file.parent / manifest.uri))
    return manifest


def manifest_path(policy: Path) -> Path:
    """Path of the manifest beside an ONNX file."""
    return policy.with_name(f'{policy.stem}.manifest.json')


def open_in_time(path: str, make: Callable[[Cancellation], Opened]) -> Opened:
    """What `make` returns, called on a thread that is abandoned if it takes too long: a file may hold an endless loop.

    Raises:
        InputError: it takes longer than LOAD_TIME.
    """
    cancellation = Cancellation()
    outcome: list[Opened | BaseException] = []

    def work() -> None:
        try:
            outcome.append(make(cancellation))
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
                key = given_key()
                # Nobody else gets to see it.
                token = key.token if key and manifest.proven(key) else ''
                data = _download(uri, size, stop, begun or file, token)
        elif parts.scheme == 'file':
            data = read_file(urllib.request.url2pathname(parts.path), size)
        elif not parts.scheme:
            data = read_file(uri, size)
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


def _download(uri: str, size: int, stop: threading.Event | None, file: BinaryIO, token: str) -> bytes:
    """At most size + 1 bytes. The file keeps what came."""
    client = Client(stop, token)
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
