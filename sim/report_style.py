"""The look of a report: one style sheet, light and dark, from 400 px up. Colours are Okabe and Ito's."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --sheet: #f6f7f9; --ink: #16191d; --soft: #59616b; --line: #dde1e6;
  --track: #e8ebef; --policy: #0072b2; --expert: #009e73; --random: #8a929c; --wrong: #cc79a7; --ok: #009e73; --ko: #d55e00;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #cc79a7; --whisker: #16191d; --note: #fff6e5; --note-edge: #e69f00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --sheet: #1c2026; --ink: #e8ebef; --soft: #9aa3ae; --line: #2f353d;
  --track: #2a3038; --policy: #3d9fd9; --expert: #1fb98d; --random: #8a929c; --wrong: #d792b8; --ok: #1fb98d; --ko: #f0793a;
  --s0: #56b4e9; --s1: #f0793a; --s2: #1fb98d; --s3: #d792b8; --whisker: #f4f6f8; --note: #2a2417; --note-edge: #b97f0a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: 1.05rem; font-weight: 600; margin: 0; color: var(--soft); letter-spacing: .01em; }
h2 { font-size: 1.25rem; margin: 44px 0 12px; line-height: 1.25; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: 8px 0; }
code, pre, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .86em; overflow-wrap: anywhere; }
pre { white-space: pre-wrap; background: var(--sheet); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; margin: 8px 0; }
.muted { color: var(--soft); font-weight: 400; }
.small { font-size: .86rem; }
.num { font-variant-numeric: tabular-nums; white-space: nowrap; }

.hero { display: grid; gap: 28px; grid-template-columns: minmax(0, 1fr); margin-top: 14px; }
@media (min-width: 820px) { .hero { grid-template-columns: minmax(260px, 5fr) minmax(0, 7fr); align-items: center; } }
.hero .big { font-size: clamp(3rem, 9vw, 4.6rem); font-weight: 700; line-height: 1; letter-spacing: -.03em; font-variant-numeric: tabular-nums; }
.hero .of { margin: 10px 0 0; color: var(--soft); }
.pill { display: inline-block; margin-top: 14px; padding: 3px 12px; border-radius: 99px; border: 1.5px solid; font-weight: 600; font-size: .92rem; }
.pill.ok { color: var(--ok); } .pill.ko { color: var(--ko); } .pill.unknown { color: var(--soft); }
.rates { display: grid; gap: 12px; }
.rate .label { display: flex; flex-wrap: wrap; justify-content: space-between; column-gap: 14px; font-size: .95rem; }
.rate.lead .label { font-weight: 650; }
svg.bar { display: block; overflow: visible; }
.track { fill: var(--track); } .fill.policy { fill: var(--policy); } .fill.expert { fill: var(--expert); }
.fill.random { fill: var(--random); } .fill.wrong-instruction { fill: var(--wrong); }
.whisker { stroke: var(--whisker); stroke-width: 1.6; }
.tick { stroke-width: 2.5; stroke-dasharray: 3 2; } .tick.random { stroke: var(--soft); } .tick.expert { stroke: var(--expert); stroke-dasharray: none; }

.remarks { background: var(--note); border-left: 4px solid var(--note-edge); border-radius: 0 8px 8px 0; padding: 10px 18px; margin: 30px 0 0; }
.remarks ul { margin: 0; padding-left: 18px; } .remarks li { margin: 4px 0; overflow-wrap: anywhere; }

table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; font-size: .84rem; color: var(--soft); padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: bottom; }
td { padding: 10px 12px 10px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
th:last-child, td:last-child { padding-right: 0; }
th.num, td.num { text-align: right; }
table.tasks td:first-child { width: 34%; } table.tasks td.chart-cell { width: 30%; }
table.tasks h3 { font-weight: 600; }
.scroll { overflow-x: auto; }
table.plain { width: auto; min-width: min(100%, 420px); }
@media (max-width: 719px) {
  table.tasks, table.tasks tbody, table.tasks tr, table.tasks td { display: block; width: 100% !important; }
  table.tasks thead { display: none; }
  table.tasks tr { border-bottom: 1px solid var(--line); padding: 12px 0; }
  table.tasks td { border: 0; padding: 3px 0; text-align: left; }
  table.tasks td[data-label]::before { content: attr(data-label) ": "; color: var(--soft); }
}
.strip { display: flex; flex-wrap: wrap; gap: 2px; margin-top: 5px; }
.strip i { width: 9px; height: 9px; border-radius: 2px; display: block; }
.strip i.ok { background: var(--ok); }
.strip i.ko { border: 1.5px solid var(--ko); background: linear-gradient(135deg, transparent 42%, var(--ko) 42% 58%, transparent 58%); }

details.task { border: 1px solid var(--line); border-radius: 12px; margin: 14px 0; background: var(--sheet); }
details.task > summary { cursor: pointer; padding: 12px 16px; display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; }
details.task > summary::before { content: "▸"; color: var(--soft); } details.task[open] > summary::before { content: "▾"; }
details.task > summary::-webkit-details-marker { display: none; }
details.task > .inside { padding: 0 16px 16px; }
.sides { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); }
.side h4 { margin: 0 0 6px; font-size: .92rem; } .side.ok h4 { color: var(--ok); } .side.ko h4 { color: var(--ko); }
.films { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 150px), 1fr)); }
figure { margin: 0; min-width: 0; } figcaption { font-size: .84rem; line-height: 1.35; margin: 4px 0; overflow-wrap: anywhere; }
video, img { display: block; width: 100%; border-radius: 6px; background: #000; }
.side.ok video, .side.ok img { outline: 2px solid var(--ok); } .side.ko video, .side.ko img { outline: 2px dashed var(--ko); }
.wide { max-width: 900px; margin: 12px 0; } .pictures { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }

.panels { display: grid; gap: 14px 18px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); }
.panel { background: var(--sheet); border: 1px solid var(--line); border-radius: 10px; padding: 8px 10px; }
.panel figcaption { font-weight: 600; }
svg.chart { display: block; width: 100%; height: auto; } svg.chart text { font-size: 11px; fill: var(--soft); }
.grid { stroke: var(--line); stroke-width: 1; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); stroke-dasharray: 5 3; } .line.s2 { stroke: var(--s2); stroke-dasharray: 1.5 3; } .line.s3 { stroke: var(--s3); stroke-dasharray: 8 3 2 3; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .9rem; } .legend svg { vertical-align: middle; }
dl.facts { display: grid; grid-template-columns: minmax(0, 1fr); margin: 0; } dl.facts dt { color: var(--soft); font-size: .86rem; margin-top: 8px; } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
@media (min-width: 640px) { dl.facts { grid-template-columns: 190px minmax(0, 1fr); gap: 6px 16px; } dl.facts dt { margin: 0; } }
footer { margin-top: 48px; color: var(--soft); font-size: .86rem; border-top: 1px solid var(--line); padding-top: 12px; }
"""
