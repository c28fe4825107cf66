"""Formulas, drawn when the site is built: a page needs no script to show them."""

import html
import re

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
FONT = FontProperties(math_fontfamily="cm")
EM = 100  # units of a drawing
LETTERS = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}  # matplotlib's codes of segments, in SVG


def on_page_content(content: str, **_: object) -> str:
    """Return a page with a drawing, in the colour of its text, for each of its formulas."""
    return FORMULA.sub(_drawing, content)


def _drawing(found: re.Match[str]) -> str:
    tag, formula = found[1], html.unescape(found[2]).strip()
    path = TextPath((0, 0), f"${formula}$", size=EM, prop=FONT)
    box = path.get_extents()
    segments = [
        LETTERS[code] + ("" if code == path.CLOSEPOLY else " ".join(f"{x:.1f}" for x in points))
        for points, code in path.iter_segments(simplify=False)
    ]
    return (
        f'<{tag} class="formula"><svg role="img" aria-label="{html.escape(formula)}" '
        f'viewBox="{box.x0:.1f} {-box.y1:.1f} {box.width:.1f} {box.height:.1f}" '
        f'style="height: {box.height / EM:.3f}em; vertical-align: {box.y0 / EM:.3f}em">'
        f'<path transform="scale(1 -1)" d="{"".join(segments)}"/></svg></{tag}>'
    )
