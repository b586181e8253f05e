"""Load new policy versions beside the running one."""
from __future__ import annotations

import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Optional

from dreamer_ros.errors import InputError
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.spec import RobotSpec

DOWNLOAD_TIMEOUT = 10.0  # seconds without a byte


class PolicyLoader:
    """Turns manifests into verified runners on a thread of its own; the newest manifest wins.

    The caller's thread submits manifests and polls between two steps:

        loader.submit(manifest)
        ...
        runner = loader.poll() or runner

    A policy that fails to load changes nothing but `poll_problem`, so that the running one stays.

    Args:
        spec: of the robot; policies for another are refused.
        seed: of the exploration noise of the runners.
    """

    def __init__(self, spec: RobotSpec, seed: Optional[int] = None):
        self._spec = spec
        self._seed = seed
        self._condition = threading.Condition()
        self._pending: Optional[Manifest] = None
        self._ready: Optional[PolicyRunner] = None
        self._problem: Optional[str] = None
        self._seen: Optional[str] = None
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

    def poll(self) -> Optional[PolicyRunner]:
        """The newest runner that became ready since the last call, or None. Never blocks on a load."""
        with self._condition:
            runner, self._ready = self._ready, None
            return runner

    def poll_problem(self) -> Optional[str]:
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
            try:
                runner, problem = load(manifest, self._spec, self._seed), None
            except InputError as error:
                runner, problem = None, str(error)
            except Exception as error:  # a thread that died here would freeze the policy silently
                runner, problem = None, f'policy {manifest.uri}: {type(error).__name__}: {error}'
            with self._condition:
                if runner:
                    self._ready = runner
                else:
                    self._problem = problem
                    # The same manifest may come again once its cause is mended.
                    if self._seen == manifest.sha256:
                        self._seen = None


def load(manifest: Manifest, spec: Optional[RobotSpec] = None, seed: Optional[int] = None) -> PolicyRunner:
    """Fetch, verify and warm up the policy a manifest names.

    Raises:
        InputError: it cannot be had, or is not what the manifest says.
    """
    if spec is not None and manifest.spec_hash != spec.hash:
        raise InputError(f'policy {manifest.uri}: expected one for {spec.name} (spec {spec.hash}), '
                         f'got one for spec {manifest.spec_hash}')
    data = _fetch(manifest.uri, manifest.size)
    return PolicyRunner(manifest.uri, spec, manifest.sha256, seed, data)


def _fetch(uri: str, size: int) -> bytes:
    parts = urllib.parse.urlsplit(uri)
    try:
        if parts.scheme in ('http', 'https'):
            with urllib.request.urlopen(uri, timeout=DOWNLOAD_TIMEOUT) as response:
                data = response.read(size + 1)
        elif parts.scheme == 'file':
            data = Path(urllib.request.url2pathname(parts.path)).read_bytes()
        elif not parts.scheme:
            data = Path(uri).read_bytes()
        else:
            raise InputError(f'policy {uri}: expected a path, file://, http:// or https://')
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error
        raise InputError(f'policy {uri}: expected a file that can be read ({reason})') from error
    if len(data) != size:
        got = len(data) if len(data) < size else 'more'
        raise InputError(f'policy {uri}: expected {size} bytes, got {got}')
    return data
