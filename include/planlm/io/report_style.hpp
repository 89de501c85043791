/// The style sheet of the report page: system fonts, light and dark by the reader's setting, one column on a phone.
///
/// Text has a contrast of at least 4.5 to 1 with what is behind it, lines of charts 3 to 1. The colours of curves
/// differ in lightness as well as in hue, so that they can be told apart by those who do not see all hues.
#pragma once

namespace planlm::detail {

inline constexpr const char* report_style = R"css(
:root { color-scheme: light dark; --paper: #fcfcfb; --panel: #f3f4f3; --ink: #1c2126; --muted: #59616b;
  --grid: #e3e5e8; --rule: #d3d7dc; --base: #7d858f; --accent: #0a62a6; --tint: #e0edf8; --bar: #3f7fb5;
  --on: #ffffff; --warn: #9b3d00;
  --c0: #0a62a6; --c1: #c24e00; --c2: #00805a; --c3: #a8478d; --c4: #6b5a00; --c5: #2f343b; --c6: #2b8cbe; --c7: #b3263e; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --panel: #1d2126; --ink: #e7e9ec; --muted: #a5adb8;
  --grid: #2a2f36; --rule: #363d46; --base: #7b8490; --accent: #74b8f2; --tint: #1d3449; --bar: #5b9bd1;
  --on: #0d1116; --warn: #f3a36b;
  --c0: #62b0f0; --c1: #f28e4b; --c2: #3fc79a; --c3: #e39bd0; --c4: #e3cc5a; --c5: #d5d9de; --c6: #9fc9ff; --c7: #ff8a96; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.75rem 1rem 4rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; letter-spacing: -0.01em; text-wrap: balance; }
h2 { margin: 0 0 0.35rem; font-size: 1.25rem; line-height: 1.3; }
h3 { margin: 0; font-size: 1rem; }
p { margin: 0; max-width: 44rem; }
p, figcaption span { text-wrap: pretty; }
a { color: var(--accent); text-underline-offset: 0.15em; }
code, .chip { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.subtitle { margin-top: 0.5rem; color: var(--muted); }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; margin-top: 1.1rem; font-size: 0.9rem; }
section { margin-top: 2.25rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); }
section > :not(:first-child) { margin-top: 1.25rem; }
section > h2 + .lead { margin-top: 0; color: var(--muted); }

.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 2rem 2.5rem; }
.chart { display: grid; grid-row: span 2; grid-template-rows: auto 1fr; grid-template-rows: subgrid; row-gap: 0.6rem;
  margin: 0; min-width: 0; }
.chart > svg { display: block; width: 100%; height: auto; overflow: visible; }
figcaption { display: flex; flex-direction: column; min-width: 0; gap: 0.15rem; font-size: 0.875rem; color: var(--muted); line-height: 1.45; }
figcaption strong { font-size: 1rem; color: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; margin: auto 0 0; padding: 0.35rem 0 0; list-style: none; color: var(--ink); }
.legend li { display: flex; min-width: 0; align-items: center; gap: 0.35rem; }
.key { width: 22px; height: 8px; flex: none; }
/* A chart alone in its group is drawn larger, a tall one less so; its words and lines are not. */
@media (min-width: 52rem) { .chart:only-child { grid-column: 1 / -1; width: 44rem; } .chart.tall:only-child { width: 32rem; }
  .chart:only-child > svg { --word: 8px; --pen: 0.6; } .chart.tall:only-child > svg { --word: 10.5px; --pen: 0.8; } }

svg { --word: 12px; --pen: 1; }
svg text { font-size: var(--word); fill: var(--muted); }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg .name, svg .figures.chosen { fill: var(--ink); } svg .chosen { font-weight: 600; }
svg .figures { font-variant-numeric: tabular-nums; }
svg .on { fill: var(--on); font-weight: 600; }
.grid { stroke: var(--grid); } .base { stroke: var(--base); }
.reference { stroke: var(--base); stroke-width: 1.25; stroke-dasharray: 4 3; } .reference.row { stroke-dasharray: none; }
.line { fill: none; stroke: var(--c); stroke-width: calc(1.75px * var(--pen)); stroke-linejoin: round; stroke-linecap: round; }
.dense { stroke-width: calc(1px * var(--pen)); stroke-linejoin: bevel; } .dashed { stroke-dasharray: 6 4; }
.dot { fill: var(--c); stroke: transparent; stroke-width: 10; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
.whisker { stroke: var(--base); stroke-width: 1.75; } .whisker.chosen { stroke: var(--accent); stroke-width: 2.25; }
circle.value { fill: var(--base); } circle.chosen { fill: var(--accent); }
.bar { fill: var(--bar); } .bar:hover, .place:hover { fill: var(--accent); }
.map { fill: var(--panel); } .leader { stroke: var(--base); stroke-width: 0.75; } .place { fill: var(--accent); stroke: var(--panel); stroke-width: 1; }

/* A shade at the right edge says that there is more to scroll to. */
.scroll { overflow-x: auto; background: linear-gradient(to left, var(--paper) 40%, transparent) right / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--rule), transparent) right / 0.8rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { padding-bottom: 0.5rem; text-align: left; color: var(--muted); }
th, td { padding: 0.4rem 1.1rem 0.4rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--grid); }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--muted); font-weight: 500; vertical-align: bottom; border-bottom-color: var(--base); }
tbody th { position: sticky; left: 0; background: var(--paper); font-weight: 500; } .left { text-align: left; }
dl { display: grid; grid-template-columns: fit-content(14rem) minmax(0, 1fr); gap: 0.45rem 1.5rem; margin: 0; font-size: 0.9rem; }
dt { color: var(--muted); } dd { margin: 0; } dd code { font-size: 0.85rem; }
.word { display: inline-block; max-width: 100%; }
@media (max-width: 36rem) { dl { display: block; } dd + dt { margin-top: 0.6rem; } tbody th { white-space: normal; min-width: 7.5rem; padding-right: 0.6rem; } }

.chip { display: inline-block; min-width: 2.1rem; padding: 0 0.4rem; border-radius: 0.8rem; background: var(--tint); color: var(--accent);
  font-size: 0.8rem; font-weight: 600; line-height: 1.45rem; text-align: center; flex: none; }
.missed { color: var(--warn); font-size: 0.8rem; font-weight: 600; white-space: nowrap; }
.typical { color: var(--muted); font-size: 0.85rem; line-height: 1.4; unicode-bidi: isolate; }
.sample header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 0.8rem; margin-bottom: 0.4rem; }
.sample header span { color: var(--muted); font-size: 0.85rem; }
.context { margin-bottom: 0.6rem; padding: 0.6rem 0.8rem; max-width: none; border-radius: 0.4rem; background: var(--panel); color: var(--muted);
  font-size: 0.95rem; white-space: pre-line; }
section > .sample + .sample { margin-top: 2.25rem; }
.sample ol { margin: 0; padding: 0; list-style: none; }
.sample li { padding: 0.55rem 0 0.55rem 0.8rem; border-left: 3px solid var(--accent); }
.sample li + li { border-top: 1px solid var(--grid); }
.sample li.off { border-left: 3px dashed var(--warn); } .sample li.free { border-left-color: var(--rule); }
.plan { display: flex; align-items: baseline; gap: 0.5rem; margin-top: 0.25rem; }
@media (min-width: 52rem) { .sample li { display: grid; grid-template-columns: minmax(0, 1fr) 20rem; gap: 0 1.75rem; } .plan { margin-top: 0.1rem; } }
.labels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 0 2.5rem; align-items: start; }
.label { border-bottom: 1px solid var(--grid); min-width: 0; }
summary { cursor: pointer; } .more > summary { margin: 0.75rem 0; color: var(--accent); font-size: 0.9rem; }
.label > summary { display: flex; align-items: center; gap: 0.6rem; padding: 0.4rem 0; list-style: none; }
.label > summary::-webkit-details-marker { display: none; }
.label .typical { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; min-width: 0; }
.label[open] > summary .typical { visibility: hidden; }
.share { flex: none; width: 3.2rem; font-size: 0.85rem; text-align: right; font-variant-numeric: tabular-nums; }
.meter { flex: none; width: 3rem; height: 0.5rem; border-radius: 0.25rem; background: var(--grid); }
.meter span { display: block; height: 100%; border-radius: 0.25rem; background: var(--bar); }
.label ul { margin: 0 0 0.7rem; padding-left: 1.2rem; font-size: 0.9rem; } .label li + li { margin-top: 0.25rem; }
summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media (max-width: 23rem) { body { padding-inline: 0.5rem; } }
@media print { body { max-width: none; padding: 0; } .chart, .sample li, .label { break-inside: avoid; } }
)css";

}  // namespace planlm::detail
