"""When to act: at the contract's rate on a steady clock, shortly after the camera has seen something new."""

from __future__ import annotations

import time

STEER = 0.02  # of a period: how much longer or shorter one may be
GAIN = 0.1  # of the distance to the wished phase, corrected per tick
MARGIN = (0.1, 0.4)  # of a period: how old the newest observation should be at a tick, between these,
SPREADS = 4.0  # and so many times their mean deviation: one that comes late is waited for a whole period
SLOWNESS = 0.03  # of the estimate of that


class Metronome:
    """Ticks of one period each, which drift towards the phase of the observations.

    A free-running clock would meet images that are anything between fresh and a whole period old. Each period
    is made a little longer or shorter instead, until ticks come a margin after the images, as large as their
    jitter demands. With a camera of another rate the corrections cancel out.

    Args:
        period: seconds.
        now: monotonic seconds of the first tick.
    """

    def __init__(self, period: float, now: float):
        self.period = period
        self.next = now
        self._spread = 0.1  # mean deviation from the wished phase, in periods

    def wait(self) -> float:
        """Sleep until the next tick; its time, in monotonic seconds. Ticks that were missed are left out."""
        now = time.monotonic()
        if now < self.next:
            time.sleep(self.next - now)
        tick = self.next
        late = max(0.0, time.monotonic() - tick)
        if late >= self.period:  # suspended or overrun: begin anew, or a burst of ticks would follow
            tick += late
        self.next = tick + self.period
        return tick

    def steer(self, age: float | None) -> None:
        """Correct the next tick; `age` in seconds is how long the newest observation had waited at this one."""
        if age is None:
            return
        margin = min(max(SPREADS * self._spread, MARGIN[0]), MARGIN[1])
        # The newest may also be one that the tick just missed: half a period around the wish.
        error = (age / self.period - margin + 0.5) % 1.0 - 0.5
        self._spread += SLOWNESS * (abs(error) - self._spread)
        self.next -= min(max(GAIN * error, -STEER), STEER) * self.period
