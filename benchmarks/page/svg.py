"""Small inline SVG: panels whose colours are classes, so that they follow the page's light or dark style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 340, 270  # one column of a phone; a panel is never scaled below 0.9
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 30, 42
LINE = 17  # of the names below the axes


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from low to high."""
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(count).tick_values(low, high) if low - 1e-9 <= tick <= high + 1e-9]


@dataclass
class Panel:
    """One set of axes. ``x`` and ``y`` are the ranges shown, in data units."""

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    names: tuple[str, str]
    height: int = HEIGHT
    parts: list[str] = field(default_factory=list)
    names_shown: int = 0

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Data → picture units."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def line(self, xs: Sequence[float], ys: Sequence[float], kind: str, says: str = "") -> None:
        """A line of class ``kind``."""
        points = " ".join("{:.1f},{:.1f}".format(*self.at(x, y)) for x, y in zip(xs, ys, strict=True))
        self.parts.append(f'<polyline class="line {kind}" points="{points}"><title>{escape(says)}</title></polyline>')

    def band(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], kind: str) -> None:
        """The area between two lines."""
        outline = [*zip(xs, lows, strict=True), *reversed(list(zip(xs, highs, strict=True)))]
        points = " ".join("{:.1f},{:.1f}".format(*self.at(x, y)) for x, y in outline)
        self.parts.append(f'<polygon class="band {kind}" points="{points}"/>')

    def dot(self, x: float, y: float, kind: str, says: str = "", radius: float = 4) -> None:
        """A dot that says its values when pointed at."""
        across, down = self.at(x, y)
        self.parts.append(
            f'<circle class="dot {kind}" cx="{across:.1f}" cy="{down:.1f}" r="{radius:g}"><title>{escape(says)}</title></circle>'
        )

    def label(self, text: str, kind: str) -> None:
        """A line's name, below the axes, where it crosses nothing."""
        y = self.height + 10 + LINE * self.names_shown
        self.parts.append(
            f'<circle class="dot {kind}" cx="{LEFT + 4}" cy="{y - 4}" r="4"/>'
            f'<text class="{kind}" x="{LEFT + 14}" y="{y}">{escape(text)}</text>'
        )
        self.names_shown += 1

    def svg(self) -> str:
        """The panel with its axes."""
        axes = [f'<text class="title" x="{LEFT}" y="14">{escape(self.title)}</text>']
        for tick in ticks(*self.x):
            x, _ = self.at(tick, self.y[0])
            axes.append(f'<text x="{x:.1f}" y="{self.height - BOTTOM + 17}" text-anchor="middle">{tick:g}</text>')
        for tick in ticks(*self.y):
            _, y = self.at(self.x[0], tick)
            axes.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            axes.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        middle, centre = (LEFT + WIDTH - RIGHT) / 2, (TOP + self.height - BOTTOM) / 2
        axes.append(f'<text x="{middle}" y="{self.height - 6}" text-anchor="middle">{escape(self.names[0])}</text>')
        axes.append(
            f'<text transform="translate(11 {centre}) rotate(-90)" text-anchor="middle">{escape(self.names[1])}</text>'
        )
        return picture(self.title, "".join(axes + self.parts), self.height + LINE * self.names_shown)


def picture(title: str, content: str, height: float) -> str:
    """An ``svg`` element with a name that a screen reader says."""
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
        f'height="{height:g}">{content}</svg>'
    )
