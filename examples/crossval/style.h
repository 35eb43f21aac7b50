/* The page's style: one sheet for screens, dark screens, phones and paper. */
#ifndef CROSSVAL_STYLE_H
#define CROSSVAL_STYLE_H
#include "writer.h"

/* One colour has one meaning on the whole page: a group (--hh, --hc; also the maps' two directions), a model
   (--resnet, --swa, --qnet) or an input (--crop, --full). HH's is Okabe & Ito's vermilion; the others were
   searched for so that any two differ by 15 (light page) or 12 (dark) in CIEDE2000 for all three kinds of
   colour blindness as Machado et al. (2009) simulate them, and by 3:1 in contrast from the page. Lines of
   models and inputs also differ by their dashes. */
static void put_css(writer *w)
{
    put(w,
  ":root{--ink:#1c2430;--muted:#5b6574;--line:#d5dae1;--paper:#fff;--card:#f5f7f9;"
  "--resnet:#8a8f98;--swa:#a6398a;--qnet:#15255c;--hh:#d55e00;--hc:#5b94e8;--crop:#0a7f63;"
  "--full:#5e4400;--link:#0b57a8;--none:#b9c0c9;--warn:#fdf6e7;--warnline:#d9a520}\n@media(prefers-color-scheme:dark){"
  ":root{--ink:#e5e9ee;--muted:#a3adba;--line:#3a4350;--paper:#14181e;--card:#1d232b;"
  "--resnet:#848b96;--swa:#e9a0d8;--qnet:#eef2ff;--hh:#f0813a;--hc:#3f88e8;--crop:#4fb783;"
  "--full:#f2d95c;--link:#8ab4f8;--none:#5b6574;--warn:#2b2517;--warnline:#b98d1c}}\n*{box-sizing:border-box}html{"
  "-webkit-text-size-adjust:100%}\nbody{margin:0;background:var(--paper);"
  "color:var(--ink);font:16px/1.6 system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica "
  "Neue','Liberation Sans',Arial,sans-serif}\nmain{max-width:68rem;margin:0 auto;"
  "padding:2.5rem 1.25rem 4rem}\np,li,figcaption{max-width:46rem}h1,h2,h3{"
  "line-height:1.25;text-wrap:balance}\nh1{font-size:1.9rem;margin:.2rem 0 1.2rem;"
  "letter-spacing:-.01em}\nh2{font-size:1.35rem;margin:3rem 0 1rem;padding-top:1.1rem;"
  "border-top:1px solid var(--line)}\nh3{font-size:1.05rem;margin:2rem 0 .5rem}\n.small,"
  "figcaption,.key{font-size:.9375rem;color:var(--muted)}.kicker{margin:0;"
  "color:var(--muted)}\n.verdict{font-size:1.15rem;line-height:1.6;border-left:4px solid "
  "var(--qnet);margin:0 0 1.5rem;padding:.2rem 0 .2rem 1.1rem;max-width:48rem}\n");
    put(w,
  ".tile i,.verdict i{font-style:normal;white-space:nowrap}.tiles{display:grid;"
  "grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:.75rem;margin:1.5rem 0}\n"
  ".tile{background:var(--card);border-radius:8px;padding:.8rem 1rem}.tile b{"
  "display:block;font-size:1.7rem;line-height:1.3;font-weight:650}.tile span{"
  "display:block;color:var(--muted);font-size:.9375rem;line-height:1.4}\n.care{"
  "background:var(--warn);border-left:4px solid var(--warnline);border-radius:0 8px 8px "
  "0;padding:.7rem 1.1rem;margin:1.5rem 0;max-width:48rem}.care ul{margin:.3rem 0;"
  "padding-left:1.1rem}\n.scroll{overflow-x:auto;background:linear-gradient(90deg,"
  "var(--paper) 30%,transparent) 0 0/2rem 100% no-repeat local,linear-gradient(270deg,"
  "var(--paper) 30%,transparent) 100% 0/2rem 100% no-repeat local,linear-gradient(90deg,"
  "var(--line),transparent) 0 0/.7rem 100% no-repeat scroll,linear-gradient(270deg,"
  "var(--line),transparent) 100% 0/.7rem 100% no-repeat scroll}\n.wide{"
  "font-size:.9375rem}.wide th,.wide td{padding:.36rem .38rem}.pin tr>:first-child{"
  "position:sticky;left:0;background:var(--paper);background-clip:padding-box}.pin tr.best>:first-child{"
  "background-color:var(--card)}\ntable{border-collapse:collapse;"
  "font-variant-numeric:tabular-nums;border-top:2px solid var(--ink);border-bottom:2px "
  "solid var(--ink);margin:.4rem 0}\nth,td{padding:.36rem .7rem;text-align:left;"
  "white-space:nowrap;vertical-align:baseline}\nth{font-weight:600}thead tr:last-child "
  "th{border-bottom:1px solid var(--ink)}\nthead th[colspan]{text-align:center}td.n,th.n{"
  "text-align:right}tbody th{font-weight:600}\ntbody tr.first>*{border-top:1px solid "
  "var(--line)}tr.best>*{background:var(--card)}\ntd.wrap{white-space:normal;"
  "min-width:16rem}td.wrap code{overflow-wrap:anywhere}caption{text-align:left;color:var(--muted);font-size:.9375rem;"
  "position:sticky;left:0;width:min(46rem,100vw - 2.5rem);padding:1.6rem 0 .5rem;white-space:normal}"
  "caption b{color:var(--ink)}\n.sortable thead th{cursor:pointer}.sortable [aria-sort]::after{"
  "content:' \\25b4'}.sortable [aria-sort=descending]::after{content:' \\25be'}.toc ul{"
  "list-style:none;margin:1.5rem 0 0;padding:0;display:flex;flex-wrap:wrap;gap:.3rem 1.4rem}"
  "h2{scroll-margin-top:.5rem}.read{margin:.2rem 0;min-height:3.2em}input{"
  "accent-color:var(--link)}\n.cap{margin:2rem 0 .5rem;color:var(--muted);font-size:.9375rem}.cap b{"
  "color:var(--ink)}\nfigure{margin:1.8rem 0}figcaption{margin-top:.6rem}figcaption b{"
  "color:var(--ink)}\n.panels{display:grid;grid-template-columns:repeat(auto-fit,"
  "minmax(17.5rem,1fr));gap:1.2rem 1.8rem}\n.panels h3{margin:0 0 .2rem;font-size:1rem;"
  "font-weight:600}.panel{min-width:0;max-width:31rem}.two{"
  "grid-template-columns:repeat(auto-fit,minmax(max(17.5rem,40%),1fr))}\n");
    put(w,
  "svg{display:block;width:100%;height:auto;font-family:inherit;font-size:12px}svg text{"
  "fill:var(--ink)}svg .m{fill:var(--muted)}\nsvg .g{stroke:var(--line);stroke-width:1}"
  "svg .a{stroke:var(--muted);stroke-width:1;fill:none}\nsvg .d{stroke:var(--muted);"
  "stroke-width:1;stroke-dasharray:4 4;fill:none}\nsvg .l{fill:none;stroke-width:2;"
  "stroke-linejoin:round}svg .t{fill:none;stroke-width:1;opacity:.4}\n.c0{"
  "stroke:var(--resnet)}.c1{stroke:var(--swa)}.c2{stroke:var(--qnet)}.c3{stroke:var(--crop)}"
  ".c4{stroke:var(--full)}\nsvg .l.c0{stroke-dasharray:2 3}svg .l.c1{stroke-dasharray:8 3}"
  "svg .l.c4{stroke-dasharray:9 3 2 3}svg .l.solid{"
  "stroke-dasharray:none}\nsvg .b0{fill:var(--resnet)}svg .b1{fill:var(--swa)}svg .b2{"
  "fill:var(--qnet)}\nsvg .box{stroke:var(--ink);stroke-width:1;fill-opacity:.55}svg "
  ".med{stroke:var(--ink);stroke-width:2.5}\nsvg .hh{fill:var(--hh)}svg .hc{"
  "fill:var(--hc)}svg .no{fill:var(--none)}svg .k{fill:var(--paper);opacity:.85}\n.sw{"
  "display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .35em 0 0;print-color-adjust:exact}\n"
  ".cuts{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.7rem}\n"
  ".cuts figure{margin:0}.cuts img{width:100%;height:auto;image-rendering:pixelated}"
  ".cuts .odd img{outline:3px solid var(--warnline)}\n"
  ".cams{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(22rem,100%),1fr));"
  "gap:1.6rem}\n.cam{margin:0;min-width:0}.cam figcaption{margin:.35rem 0}.wrong{"
  "color:var(--ink);background:var(--warn);border:1px solid var(--warnline);border-radius:4px;"
  "padding:0 .35em;white-space:nowrap}\n.sheet "
  "img{display:block;width:100%;min-width:44rem}.bar{max-width:22rem;margin:.8rem 0}\n"
  ".sets{columns:19rem;column-gap:2rem}.sets table{width:100%;break-inside:avoid;"
  "margin:0 0 1.4rem;font-size:.9375rem;border-width:1px}.sets td,.sets th{"
  "padding:.12rem .4rem}.sets td{white-space:normal;overflow-wrap:anywhere}\na{"
  "color:var(--link)}code{font-size:.9em}\n@media(min-width:48rem){.side{display:grid;"
  "grid-template-columns:minmax(0,29rem) 1fr;column-gap:1.8rem;align-items:end}.side "
  "figcaption{padding-bottom:2rem}}\n@media(max-width:30rem){main{padding:1.25rem 1rem "
  "3rem}h1{font-size:1.5rem}.verdict{font-size:1.05rem}.tiles{grid-template-columns:1fr "
  "1fr}.tile{padding:.65rem .8rem}.tile b{font-size:1.4rem}th,td{padding:.34rem .5rem}"
  "td.wrap{min-width:0;overflow-wrap:anywhere}}\n"
  "@media print{:root{--ink:#000;--muted:#444;--paper:#fff;--card:#f3f3f3;--line:#ccc;"
  "--resnet:#8a8f98;--swa:#a6398a;--qnet:#15255c;--hh:#d55e00;--hc:#5b94e8;--crop:#0a7f63;"
  "--full:#5e4400;--link:#0b57a8;--none:#b9c0c9;--warn:#fff}body{font-size:10.5pt}main{max-width:none;padding:0}"
  ".scroll{overflow:visible}.sheet img{min-width:0}h2,h3,caption,.cap{break-after:avoid}"
  ".read,.stack+input{display:none}figure,table,.tile,.care,.cam,.panel{break-inside:avoid}th,td{padding:.2rem .4rem}"
  ".wide{font-size:8.5pt}}\n");
}

#endif
