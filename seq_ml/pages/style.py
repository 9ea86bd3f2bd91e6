"""The look of every page and figure: one palette, light and dark, and the rules that use it."""

LIGHT = """
:root{--bg:#fff;--ink:#1c2128;--muted:#57606a;--line:#d0d7de;--card:#f6f8fa;--model:#0072b2;
  --baseline:#b35c00;--other:#6e7781;--good:#1a7f37;--warn:#9a6700;--bad:#c8352b}
"""
DARK = """
@media (prefers-color-scheme:dark){:root{--bg:#0d1117;--ink:#e6edf3;--muted:#9da7b3;
  --line:#3d444d;--card:#161b22;--model:#56b4e9;--baseline:#e69f00;--other:#9da7b3;
  --good:#57ab5a;--warn:#d4a72c;--bad:#f47067}}
"""
FIGURE = """
.figure{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;width:100%;max-width:480px;
  height:auto;display:block}
.figure text{fill:var(--ink);paint-order:stroke;stroke:var(--bg);stroke-width:3px;
  stroke-linejoin:round} .figure .dim{fill:var(--muted)}
.figure .head{font-weight:600;font-size:13px} .figure .grid{stroke:var(--line);fill:none}
.figure .axis{stroke:var(--muted);fill:none} .figure .model{stroke:var(--model);fill:var(--model)}
.figure .baseline{stroke:var(--baseline);fill:var(--baseline)}
.figure .other{stroke:var(--other);fill:var(--other)} .figure .line{fill:none;stroke-width:2}
.figure .whisker{stroke-width:1.5;opacity:.6} .figure .bar{stroke:none}
"""
_BASE = (
    LIGHT
    + DARK
    + """
*{box-sizing:border-box} html{color-scheme:light dark}
body{font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;color:var(--ink);
  background:var(--bg);max-width:62rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:.2rem 0 1rem} a{color:var(--model)}
table{border-collapse:collapse;font-size:.9rem;min-width:60%}
th,td{padding:.35rem .7rem .35rem 0;border-bottom:1px solid var(--line);text-align:left;
  vertical-align:top}
"""
)
PAGE = (
    _BASE
    + FIGURE
    + """
h2{font-size:1.2rem;margin:2.4rem 0 .5rem;padding-top:.9rem;border-top:1px solid var(--line)}
p{margin:.5rem 0;max-width:46rem} .eyebrow,.foot{color:var(--muted);font-size:.85rem;margin:0}
.foot{margin-top:3rem}
.verdict{background:var(--card);border:1px solid var(--line);border-left:5px solid var(--warn);
  border-radius:6px;padding:.8rem 1rem;font-size:1.08rem}
.verdict.good{border-left-color:var(--good)} .verdict b{display:block;color:var(--warn)}
.verdict.good b{color:var(--good)} .verdict p{margin:.2rem 0 0}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(15rem,1fr));gap:.6rem;margin:1rem 0}
dl div{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.55rem .8rem}
dt{color:var(--muted);font-size:.82rem} dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:.8rem 0} th{color:var(--muted);font-weight:600}
td{white-space:nowrap} td.long{white-space:normal;min-width:15rem}
td.number{font-variant-numeric:tabular-nums} td small{display:block;color:var(--muted)}
td .good{color:var(--good)} td .warn{color:var(--warn)} td .bad{color:var(--bad)}
td .bar{background:var(--model);height:.8rem;display:block} .wide td.long{min-width:9rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));
  gap:1rem 1.5rem;margin:1rem 0} ul{padding-left:1.2rem;max-width:46rem} li{margin:.25rem 0}
summary{cursor:pointer;font-size:1.2rem;font-weight:600}
details{margin-top:2.4rem;padding-top:.9rem;border-top:1px solid var(--line)}
details h2{border:0;font-size:1rem;margin:1.2rem 0 0;padding:0}
@media print{details{display:block}}
"""
)
DATA_DOCS = (
    _BASE
    + """
body{max-width:1200px} h2,h4{font-size:1.15rem} h5,h6{font-size:1rem;margin:0}
table{width:100%;margin:.5rem 0 1rem} th,td{padding:.3rem .6rem;overflow-wrap:anywhere}
th,td:first-child{white-space:nowrap} td ul{margin:0;padding-left:1.1rem}
nav ol,nav ul{list-style:none;margin:0;padding:0}
.breadcrumb{display:flex;gap:.5rem;padding:1rem 0} .breadcrumb li+li::before{content:"/ "}
.container-fluid>.row{display:flex;gap:2rem;align-items:flex-start}
.container-fluid>.row>.col-lg-2{flex:0 0 13rem;position:sticky;top:1rem}
.container-fluid>.row>.col-lg-10,.container-fluid>.row>.col-12{flex:1;min-width:0}
.ge-section .row{display:block}
.card{border:1px solid var(--line);border-radius:6px;margin-bottom:1rem}
.card-header,.alert{background:var(--card);padding:.4rem .7rem} .card-body{padding:.4rem .7rem}
.sticky>.card.mb-3,.collapse,thead[hidden]{display:none} .collapse:target{display:block}
.badge{background:var(--card);border-radius:3px;padding:0 .3rem} .text-success{color:var(--good)}
.text-danger{color:var(--bad)} .text-warning{color:var(--warn)}
.fas{font-style:normal;font-weight:bold} .fa-check-circle::before{content:"✓"}
.fa-times::before{content:"✗"} .fa-exclamation-triangle::before{content:"!"}
@media (max-width:800px){.container-fluid>.row{display:block}}
"""
)
"""For the pages of Great Expectations: the few rules that their Bootstrap markup needs."""
