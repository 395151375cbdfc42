"""The style of the HTML page: light and dark, narrow and wide, with contrasts of WCAG 2.2 AA."""

#: Colours of text and of what carries meaning, by what they are for. All stand on ``page``, and all
#: but series on ``raised`` too. Series are those of charts: with dashes and markers of their own.
LIGHT = {
    "page": "#ffffff",
    "raised": "#f3f5f8",
    "edge": "#7b8694",
    "rule": "#d3d9e0",
    "text": "#1a2027",
    "quiet": "#4d5865",
    "link": "#0a4fa6",
    "bad": "#a8201a",
    "good": "#0f6130",
    "warn": "#7a4b00",
    "series1": "#0a4fa6",
    "series2": "#a84300",
    "series3": "#6b3fa0",
}

DARK = {
    "page": "#10151b",
    "raised": "#1a2129",
    "edge": "#7d8997",
    "rule": "#36404c",
    "text": "#e8edf3",
    "quiet": "#a9b5c2",
    "link": "#85bcff",
    "bad": "#ff9a90",
    "good": "#77dd98",
    "warn": "#f2c463",
    "series1": "#85bcff",
    "series2": "#ffb072",
    "series3": "#cdb0ff",
}


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


_COLOURS = f"""
:root{{color-scheme:light dark;{_variables(LIGHT)}}}
@media(prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
@media print{{:root{{{_variables(LIGHT)}}}}}
"""

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:1180px;padding:20px 24px 48px;background:var(--page);color:var(--text);
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
h1,h2,h3,h4{line-height:1.25;margin:0;overflow-wrap:anywhere}
h1{font-size:26px}
h2{font-size:20px;margin:32px 0 12px}
h3{font-size:17px;margin:24px 0 8px}
h4{font-size:15px;margin:0 0 4px}
p{margin:6px 0}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,[tabindex]:focus-visible{outline:3px solid var(--link);
 outline-offset:2px}
.skip{position:absolute;left:-999px}
.skip:focus{left:12px;top:8px;background:var(--page);padding:6px 10px}
.meta,.quiet{color:var(--quiet)}
.meta{font-size:14px;overflow-wrap:anywhere}
nav ul{display:flex;flex-wrap:wrap;gap:4px 18px;list-style:none;margin:8px 0 0;padding:0}
.bad{color:var(--bad)}.good{color:var(--good)}.warn{color:var(--warn)}
.sign{display:inline-block;min-width:1.1em;font-weight:700}
code,pre,.id{font-family:ui-monospace,"SFMono-Regular",Menlo,"DejaVu Sans Mono",monospace;
 font-size:13px}
.id{overflow-wrap:anywhere}
.card{border:1px solid var(--rule);border-left:5px solid var(--edge);border-radius:6px;
 background:var(--raised);padding:10px 14px;margin:0 0 10px}
.card.bad-edge{border-left-color:var(--bad)}.card.good-edge{border-left-color:var(--good)}
.card.warn-edge{border-left-color:var(--warn)}
.card h3{margin:2px 0 6px}
.card p{overflow-wrap:anywhere;margin:3px 0}
.reasons{list-style:none;margin:0;padding:0}
.reasons .id{font-weight:700}
.first{font-weight:600}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:5px 16px 5px 0;border-bottom:1px solid var(--rule)}
thead th{color:var(--quiet);font-weight:600;white-space:nowrap}
td.num,th.num{text-align:right;white-space:nowrap}
tbody th{font-weight:400}
.wide{width:100%;min-width:720px}
pre{background:var(--raised);border:1px solid var(--rule);border-radius:6px;padding:10px 12px;
 overflow:auto;margin:6px 0;max-height:560px;line-height:1.45;white-space:pre-wrap;
 overflow-wrap:anywhere}
pre .add{color:var(--good)}pre .del{color:var(--bad)}pre .at{color:var(--link)}
pre .hit{color:var(--bad);font-weight:700}
details{margin:6px 0}
summary{cursor:pointer;padding:2px 0;color:var(--link);overflow-wrap:anywhere}
.figures{display:grid;gap:20px 28px;
 grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr))}
figure{margin:0;min-width:0}
figcaption{font-weight:600;margin-bottom:4px}
svg{width:100%;height:auto;display:block;max-width:560px}
svg text{font:12.5px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--text)}
svg text.quiet{fill:var(--quiet)}
.grid{stroke:var(--rule);fill:none}.axis{stroke:var(--edge);fill:none}
.line{fill:none;stroke-width:2.2}
.line.s2{stroke-dasharray:7 4}.line.s3{stroke-dasharray:2 4}
.line.s1,.mark.s1,.bar.s1,.box.s1{stroke:var(--series1)}
.line.s2,.mark.s2,.bar.s2,.box.s2{stroke:var(--series2)}
.line.s3,.mark.s3,.bar.s3,.box.s3{stroke:var(--series3)}
.mark{fill:none;stroke-width:1.5}.mark.s1{fill:var(--series1)}
.bar{stroke-width:1.5;fill:none}.bar.s1{fill:var(--series1)}
.box{fill:none;stroke-width:1.2}
.halo{stroke:var(--page);stroke-width:7;fill:none}
.median,.wanted{stroke:var(--text);stroke-width:3;fill:none}
footer{margin-top:36px;border-top:1px solid var(--rule);padding-top:10px}
@media(max-width:600px){body{padding:14px 14px 40px}h1{font-size:22px}.card{padding:8px 10px}
 th,td{padding-right:12px}}
@media print{details{display:block}pre{max-height:none}}
@media(forced-colors:active){.line,.mark,.bar,.box,.median,.wanted{stroke:CanvasText}
 .bar.s1,.mark.s1{fill:CanvasText}svg text{fill:CanvasText}}
"""

CSS = _COLOURS + _RULES
