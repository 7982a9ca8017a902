"""Renders the report's Jinja templates: HTML is escaped, text is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from milsurv.cohort.summaries import summarize
from milsurv.evaluation.times import time_text
from milsurv.report import formatting
from milsurv.report.baselines import title

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(("html",), default=False, default_for_string=False),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_FORMATS = ("count", "listed", "number", "p_value", "time", "with_interval")
ENVIRONMENT.filters |= {name: getattr(formatting, name) for name in _FORMATS}
ENVIRONMENT.filters |= {"title_of_baseline": title, "summarize": summarize, "time_text": time_text}


def page(template: str, **context: Any) -> str:
    """A whole template."""
    return ENVIRONMENT.get_template(template).render(context)


def line(template: str, macro: str, **arguments: Any) -> str:
    """A macro of a text template, in one line."""
    return " ".join(lines(template, macro, **arguments))


def lines(template: str, macro: str, **arguments: Any) -> list[str]:
    """The paragraphs of a macro of a text template."""
    found: str = getattr(ENVIRONMENT.get_template(template).module, macro)(**arguments)
    return paragraphs(found)


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, which are separated by blank lines, each in one line."""
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]
