"""Onions that take their time, so that there is a moment to be killed in."""

from __future__ import annotations

import time

from onions import Onion

from synth.sample import Sample


class SlowOnion(Onion):
    """An onion that takes ``seconds`` longer."""

    def __init__(self, shape: tuple[int, int, int] = (8, 10, 8), seconds: float = 0.02, shells: int = 4) -> None:
        super().__init__(shape, shells=shells)
        self.seconds = seconds

    def render(self, params: dict) -> Sample:
        time.sleep(self.seconds)
        return super().render(params)
