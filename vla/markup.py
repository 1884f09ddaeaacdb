"""HTML and SVG from Python, where text cannot become markup by accident, and the look that all pages share.

`el` escapes every child and attribute that is not `Markup`, so an instruction may hold ``<script>``.
"""

from html import escape

VOID = {"meta", "img", "br"}
# No script, and nothing from any other place: the browser itself enforces that a page is self-contained.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data: file: 'self'; media-src data: file: 'self'"


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


type Child = Markup | str | float | int | list["Child"] | None


def el(name: str, /, *children: Child, **attributes: object) -> Markup:
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


def document(title: str, *body: Child) -> str:
    """A whole page around ``body``: one file that asks nothing of any other place."""
    head = join(
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", title),
        el("style", Markup(STYLE)),
    )
    return f"<!doctype html>\n{el('html', el('head', head), el('body', el('main', *body)), lang='en')}\n"


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


# Light and dark, from 360 px up. The colours are Okabe and Ito's: told apart by people who do not tell red from green.
STYLE = """
:root { color-scheme: light dark;
  --paper: #fff; --sheet: #f6f7f9; --ink: #16191d; --soft: #59616b; --line: #dde1e6; --track: #e8ebef;
  --policy: #0072b2; --expert: #009e73; --random: #8a929c; --wrong: #b5578b; --ok: #00805d; --ko: #c24e00;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #b5578b; --note: #fff6e5; --note-edge: #e69f00; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --sheet: #1c2026; --ink: #e8ebef; --soft: #9aa3ae; --line: #2f353d; --track: #2a3038;
  --policy: #3d9fd9; --expert: #1fb98d; --random: #8a929c; --wrong: #d792b8; --ok: #1fb98d; --ko: #f0793a;
  --s0: #56b4e9; --s1: #f0793a; --s2: #1fb98d; --s3: #d792b8; --note: #2a2417; --note-edge: #b97f0a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: 1.05rem; font-weight: 600; margin: 0; color: var(--soft); overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 44px 0 12px; line-height: 1.25; }
h3 { font-size: 1rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
p { margin: 8px 0; }
code, pre { font: .86em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
pre { white-space: pre-wrap; background: var(--sheet); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 12px; margin: 8px 0; }
summary { cursor: pointer; }
.muted { color: var(--soft); font-weight: 400; }
.small { font-size: .86rem; }
.num { font-variant-numeric: tabular-nums; white-space: nowrap; }

.hero { display: grid; gap: 28px; grid-template-columns: minmax(0, 1fr); margin-top: 14px; }
@media (min-width: 820px) {
  .hero { grid-template-columns: minmax(260px, 5fr) minmax(0, 7fr); align-items: center; } }
.big { font-size: clamp(3rem, 9vw, 4.6rem); font-weight: 700; line-height: 1; letter-spacing: -.03em; }
.hero p { margin: 10px 0 0; color: var(--soft); }
.pill { display: inline-block; margin-top: 14px; padding: 3px 12px; border-radius: 99px; border: 1.5px solid;
  font-weight: 600; font-size: .92rem; color: var(--soft); }
.rates { display: grid; gap: 12px; }
.label { display: flex; flex-wrap: wrap; justify-content: space-between; column-gap: 14px; font-size: .95rem; }
.lead .label { font-weight: 650; }
.ok { color: var(--ok); } .ko { color: var(--ko); } .wrong { color: var(--wrong); }

svg.bar { display: block; overflow: visible; }
.track { fill: var(--track); } .fill.policy { fill: var(--policy); } .fill.expert { fill: var(--expert); }
.fill.random { fill: var(--random); }
.fill.wrong-instruction, .fill.blank-prompt, .fill.shuffled-prompt { fill: var(--wrong); }
.whisker { stroke: var(--ink); stroke-width: 1.6; } .dot { fill: var(--policy); } .zero { stroke: var(--soft); }
.tick { stroke-width: 2.5; } .tick.random { stroke: var(--soft); stroke-dasharray: 3 2; }
.tick.expert { stroke: var(--expert); }

aside { background: var(--note); border-left: 4px solid var(--note-edge); border-radius: 0 8px 8px 0;
  padding: 10px 18px; margin: 30px 0 0; }
aside ul { margin: 0; padding-left: 18px; } aside li { margin: 4px 0; overflow-wrap: anywhere; }

table { border-collapse: collapse; }
th { text-align: left; font-weight: 600; font-size: .84rem; color: var(--soft); padding: 6px 14px 6px 0;
  border-bottom: 1px solid var(--line); vertical-align: bottom; }
td { padding: 10px 14px 10px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
th:last-child, td:last-child { padding-right: 0; }
th.num, td.num { text-align: right; }
table.plain { min-width: min(100%, 420px); }
.scroll { overflow-x: auto; } .scroll + .scroll { margin-top: 24px; }
@media (max-width: 719px) { table.plain { font-size: .88rem; } .plain th, .plain td { padding-right: 9px; } }
table.tasks { width: 100%; } table.tasks td:first-child { width: 32%; min-width: 180px; }
table.tasks .wide-cell { width: 30%; }
table.tasks td.num > span { display: block; }
@media (max-width: 719px) {
  table.tasks, table.tasks tbody, table.tasks tr, table.tasks td { display: block; width: 100% !important; }
  table.tasks thead { display: none; }
  table.tasks tr { border-bottom: 1px solid var(--line); padding: 12px 0; }
  table.tasks td { border: 0; padding: 3px 0; text-align: left; }
  table.tasks td.num { display: inline-block; width: auto !important; margin-right: 18px; }
  table.tasks td.num > span { display: inline; }
  table.tasks td[data-label]::before { content: attr(data-label) ": "; color: var(--soft); font-weight: 400; } }
.strip { display: flex; flex-wrap: wrap; gap: 2px; margin-top: 5px; }
.strip i { width: 9px; height: 9px; border-radius: 2px; } .strip .ok { background: var(--ok); }
.strip .ko { border: 1.5px solid var(--ko);
  background: linear-gradient(135deg, transparent 42%, var(--ko) 42% 58%, transparent 58%); }

.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr));
  align-items: start; }
.card { border: 1px solid var(--line); border-radius: 12px; background: var(--sheet); padding: 12px 16px; }
.card > div { display: grid; gap: 12px; margin-top: 10px;
  grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .84rem; line-height: 1.35; margin: 5px 0; overflow-wrap: anywhere; }
figcaption span { display: block; }
video, img { display: block; width: 100%; border-radius: 6px; background: #000; }
.wide { max-width: 900px; margin: 12px 0; }

.panels { display: grid; gap: 14px 18px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr));
  margin: 8px 0 20px; }
.panel { background: var(--sheet); border: 1px solid var(--line); border-radius: 10px; padding: 8px 10px; }
.panel figcaption { font-weight: 600; } .panel figcaption span { display: inline; }
svg.chart { display: block; width: 100%; height: auto; } svg.chart text { font-size: 11px; fill: var(--soft); }
.grid { stroke: var(--line); stroke-width: 1; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); stroke-dasharray: 5 3; }
.s2 { stroke: var(--s2); stroke-dasharray: 1.5 3; } .s3 { stroke: var(--s3); stroke-dasharray: 8 3 2 3; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .9rem; } .legend svg { vertical-align: middle; }
dl { display: grid; grid-template-columns: minmax(0, 1fr); margin: 12px 0; }
dt { color: var(--soft); font-size: .86rem; margin-top: 8px; } dd { margin: 0; overflow-wrap: anywhere; }
@media (min-width: 640px) { dl { grid-template-columns: 190px minmax(0, 1fr); gap: 6px 16px; } dt { margin: 0; } }
footer { margin-top: 48px; padding-top: 12px; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .86rem; }
"""
