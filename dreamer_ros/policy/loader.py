"""Fetch policies by their manifests, and load new versions beside the running one."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text, sha256
from dreamer_ros.paths import share
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.spec import RobotSpec

DOWNLOAD_TIMEOUT = 10.0  # seconds without a byte
DOWNLOAD_LIMIT = 1 << 30  # bytes; no policy is that large
RETRIES = (1.0, 2.0, 4.0, 8.0, 15.0)  # seconds between attempts; the last one again and again
BLOCK = 1 << 16

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
        self._closed = False
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
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join(timeout=1.0)

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._pending or self._closed)
                if self._closed:
                    return
                manifest, self._pending = self._pending, None
            self._load(manifest)

    def _load(self, manifest: Manifest) -> None:
        """Load one policy, however often it takes; give up when it is wrong, or when a newer one came."""
        attempts = 0
        while True:
            try:
                self._done(manifest, load(manifest, self._spec, self._seed, self._check, self._keep), None)
                return
            except Unreachable as error:
                with self._condition:
                    if not attempts:
                        self._problem = f'{error}; trying again until it can be had'
                    patience = RETRIES[min(attempts, len(RETRIES) - 1)]
                    if self._condition.wait_for(lambda: self._pending or self._closed, patience):
                        return
                attempts += 1
            except InputError as error:
                self._done(manifest, None, str(error))
                return
            except Exception as error:  # a thread that died here would freeze the policy silently
                self._done(manifest, None, f'policy {manifest.uri}: {type(error).__name__}: {error}')
                return

    def _done(self, manifest: Manifest, runner: PolicyRunner | None, problem: str | None) -> None:
        with self._condition:
            if runner:
                self._ready = runner
                return
            self._problem = problem
            # The same manifest may come again once its cause is mended.
            if self._seen == manifest.sha256:
                self._seen = None


def load(
    manifest: Manifest,
    spec: RobotSpec | None = None,
    seed: int | None = None,
    check: Check | None = None,
    keep: Keep | None = None,
) -> PolicyRunner:
    """Fetch, verify and warm up the policy a manifest names.

    Args:
        spec: of the robot; a policy made for another spec is refused.
        check: where policies of several specs suit a robot: raises InputError for one that does not; `spec`
            then only names the robot.
        keep: gets the manifest and the file's bytes once all is verified.

    Raises:
        InputError: it is not what the manifest says, or not for this robot.
        Unreachable: it cannot be had now.
    """
    if spec is not None and check is None and manifest.spec_hash != spec.hash:
        raise InputError(
            f'policy {manifest.uri}: expected one for {spec.name} (spec {spec.hash}), '
            f'got one for spec {manifest.spec_hash}'
        )
    data = _fetch(manifest.uri, manifest.size)
    runner = PolicyRunner(manifest.uri, None if check else spec, manifest.sha256, seed, data)
    if check:
        check(runner.spec)
    for name, said, found in (
        ('version', manifest.version, runner.version),
        ('spec_hash', manifest.spec_hash, runner.spec.hash),
    ):
        if said != found:
            raise InputError(f'policy {manifest.uri}: expected {name} {said} as its manifest says, got {found}')
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
    return Path(find_manifest(policy_path(policy)).uri).absolute()


def find_manifest(path: str | Path) -> Manifest:
    """The manifest of a policy that a person names.

    Args:
        path: an ONNX file, or a manifest such as `policies/latest.json` of a run. The manifest of an ONNX file is
            `<name>.manifest.json` beside it, if there is one (`dreamer policy sign` writes it); else it is made
            of what the file says about itself.

    Raises:
        InputError: neither, or the file is no policy of ours.
    """
    manifest = stored_manifest(path)
    if manifest is not None:
        return manifest
    path = Path(path).expanduser().absolute()
    runner = PolicyRunner(path)
    return Manifest(
        runner.version,
        str(path),
        sha256(path),
        path.stat().st_size,
        runner.spec.hash,
        runner.spec.control_period,
        runner.golden,
    )


def stored_manifest(path: str | Path) -> Manifest | None:
    """The same, but None for an ONNX file without a manifest.

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


def _fetch(uri: str, size: int) -> bytes:
    if not 0 < size <= DOWNLOAD_LIMIT:
        raise InputError(f'policy {uri}: expected a size of 1 to {DOWNLOAD_LIMIT} bytes, got {size}')
    try:
        parts = urllib.parse.urlsplit(uri)
        if parts.scheme in ('http', 'https'):
            data = _download(uri, size)
        elif parts.scheme == 'file':
            data = _read(Path(urllib.request.url2pathname(parts.path)), size)
        elif not parts.scheme:
            data = _read(Path(uri), size)
        else:
            raise InputError(f'policy {uri}: expected a path, file://, http:// or https://')
    except InputError:
        raise
    except (ValueError, http.client.InvalidURL) as error:
        raise InputError(f'policy {uri!r}: expected a path or an address ({error})') from error
    except OSError as error:
        reason = getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error
        raise InputError(f'policy {uri}: expected a file that can be read ({reason})') from error
    if len(data) != size:
        got = len(data) if len(data) < size else 'more'
        raise InputError(f'policy {uri}: expected {size} bytes, got {got}')
    return data


def _read(path: Path, size: int) -> bytes:
    with open(path, 'rb') as file:
        return file.read(size + 1)


def _download(uri: str, size: int) -> bytes:
    """At most size + 1 bytes.

    Raises:
        Unreachable: no server, or it fell silent.
        OSError: the server answers that there is no such file.
    """
    data = bytearray()
    try:
        with urllib.request.urlopen(uri, timeout=DOWNLOAD_TIMEOUT) as response:
            while len(data) <= size and (block := response.read1(min(BLOCK, size + 1 - len(data)))):
                data += block
            promised = response.headers.get('Content-Length', '')
    except http.client.InvalidURL:
        raise
    except urllib.error.HTTPError as error:
        if error.code < 500:
            raise
        raise Unreachable(f'policy {uri}: its server answers {error.code} {error.reason}') from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, 'reason', None) or ' '.join(str(error).split()) or type(error).__name__
        raise Unreachable(f'policy {uri}: its server does not answer ({reason})') from error
    if promised.isdecimal() and len(data) < min(size, int(promised)):
        raise Unreachable(f'policy {uri}: the connection ended after {len(data)} of {promised} bytes')
    return bytes(data)
