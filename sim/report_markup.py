"""HTML and SVG from Python, where text cannot become markup by accident.

`el` escapes every child and attribute that is not `Markup`, so an instruction may hold ``<script>``.
"""

from html import escape

VOID = {"meta", "img", "br"}


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


type Child = Markup | str | float | int | None | list["Child"]


def el(name: str, *children: Child, **attributes: object) -> Markup:
    """One element.

    Attributes that are None or False are left out, True stands alone, a trailing underscore is dropped
    (``class_``) and other underscores become hyphens (``aria_label``); names with capitals are kept (``viewBox``).
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Children one after another, escaped where they are plain text; None is nothing, lists are flattened."""
    return Markup("".join(_text(child) for child in children))


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, list):
        return join(*child)
    return child if isinstance(child, Markup) else escape(str(child))


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
