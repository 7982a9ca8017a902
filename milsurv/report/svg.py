"""Figures as reproducible SVG, as a file or within a page."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}


def svg_file(figure: Figure, name: str) -> str:
    """The figure as an SVG document with text as outlines; ``name`` seeds its ids."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata=NOTHING)
    return buffer.getvalue()


def svg_inline(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an ``<svg>`` element with ``label`` as its text alternative and ids that begin with ``name``."""
    return inlined(svg_file(figure, name), name, label)


def inlined(document: str, name: str, label: str) -> Markup:
    """Like :func:`svg_inline`, for a document of :func:`svg_file`."""
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (
                f"{{{SVG}}}metadata",
                f"{{{SVG}}}style",
            ):  # a style element applies to all figures of a page
                parent.remove(child)
    for element in root.iter():
        _prefix_ids(element, f"{name}-")
    root.attrib.pop("width")
    root.attrib.pop("height")
    root.set("role", "img")
    root.set("aria-label", label)
    return Markup(ET.tostring(root, encoding="unicode"))


def _prefix_ids(element: ET.Element, prefix: str) -> None:
    for key, value in element.attrib.items():
        if key == "id":
            element.set(key, prefix + value)
        elif key in ("href", f"{{{XLINK}}}href"):
            element.set(key, value.replace("#", f"#{prefix}", 1))
        else:
            element.set(key, value.replace("url(#", f"url(#{prefix}"))
