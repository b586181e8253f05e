"""Files between a robot and its trainer on another computer: read-only over HTTP, with the standard library."""
