/* page.h: what all sections of a page share: contents with anchors, captions and scopes of tables, and a script
   that sorts tables, turns scans' slices, reads values off ROC curves and opens what is closed before it is
   printed. The page is complete without it. */
#ifndef CROSSVAL_PAGE_H
#define CROSSVAL_PAGE_H
#include "writer.h"

static int html_begins(const char *p, const char *tag)
{
    return strncmp(p, tag, strlen(tag)) == 0;
}

/* A heading's text up to its end as an anchor: letters and digits, others as single hyphens. */
static void put_anchor(writer *w, const char *text)
{
    int hyphen = 0, any = 0;
    for (; *text && *text != '<'; text++) {
        char c = *text;
        if (c >= 'A' && c <= 'Z') c = (char)(c - 'A' + 'a');
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
            if (hyphen && any) put(w, "-");
            put_bytes(w, &c, 1);
            hyphen = 0;
            any = 1;
        } else hyphen = 1;
    }
}

/* The contents: a link for each <h2> of the body. */
static inline void put_contents(writer *w, const char *body)
{
    put(w, "<nav class=\"toc\" aria-label=\"Contents\"><ul>\n");
    for (const char *p = body; (p = strstr(p, "<h2>")) != NULL;) {
        p += 4;
        put(w, "<li><a href=\"#");
        put_anchor(w, p);
        put(w, "\">");
        put_bytes(w, p, strcspn(p, "<"));
        put(w, "</a></li>\n");
    }
    put(w, "</ul></nav>\n");
}

/* The body, its sections' plain HTML, with what each of them would have to repeat: an id in every <h2>; a
   <p class="cap"> before a table in a <div class="scroll"> as the table's <caption>; these divs reached by the
   keyboard; the scope of every <th>. */
static void put_body(writer *w, const char *body)
{
    const char *caption = NULL, *p = body;
    size_t caption_size = 0;
    int in_head = 0;
    while (*p) {
        const size_t text = strcspn(p, "<");
        size_t tag;
        put_bytes(w, p, text);
        p += text;
        tag = strcspn(p, ">");
        if (!*p) break;
        if (html_begins(p, "<p class=\"cap\">")) {
            const char *end = strstr(p, "</p>"), *next = end ? end + 4 : p;
            next += *next == '\n';
            if (end && html_begins(next, "<div class=\"scroll\"><table")) {
                caption = p + 15;
                caption_size = (size_t)(end - caption);
                p = next;
                continue;
            }
        } else if (html_begins(p, "<h2>")) {
            put(w, "<h2 id=\"");
            put_anchor(w, p + 4);
            put(w, "\">");
            p += 4;
            continue;
        } else if (html_begins(p, "<div class=\"scroll")) {
            put(w, "<div tabindex=\"0\"");
            p += 4;
            continue;
        } else if (html_begins(p, "<thead")) {
            in_head = 1;
        } else if (html_begins(p, "<tbody")) {
            in_head = 0;
        } else if (html_begins(p, "<th>") || html_begins(p, "<th ")) {
            const char *span = strstr(p, "colspan"), *scope = strstr(p, "scope");
            if (!scope || scope > p + tag) {
                put(w, span && span < p + tag ? "<th scope=\"colgroup\"" : in_head ? "<th scope=\"col\""
                                                                                  : "<th scope=\"row\"");
                p += 3;
                continue;
            }
        }
        put_bytes(w, p, tag + (p[tag] != '\0'));
        if (html_begins(p, "<table") && caption) {
            put(w, "<caption>");
            put_bytes(w, caption, caption_size);
            put(w, "</caption>");
            caption = NULL;
        }
        p += tag + (p[tag] != '\0');
    }
}

static void put_script(writer *w)
{
    put(w,
  "<script>\n(function(){'use strict';\n"
  "function all(s,f,r){(r||document).querySelectorAll(s).forEach(f)}\n"
  "addEventListener('beforeprint',function(){all('details',function(d){d.open=true})});\n"
  "function make(t,o,after){var e=Object.assign(document.createElement(t),o);after.after(e);return e}\n"
  /* Numbers by size, what is no number last, other columns by their text. */
  "all('table.sortable',function(t){all('thead tr:last-child th',function(h,i){\n"
  "h.tabIndex=0;h.title='sort';\n"
  "function sort(){var up=h.getAttribute('aria-sort')!='ascending',b=t.tBodies[0];\n"
  "function key(r){var s=r.cells[i]?r.cells[i].textContent.trim():'',n=parseFloat(s.replace(/^[^\\d.+-]+/,'')"
  ".replace('\\u2212','-'));return /^[^a-z]*[\\d.]/i.test(s)&&n==n?n:s}\n"
  "var rows=Array.from(b.rows).map(function(r){return[key(r),r]});\n"
  "rows.sort(function(x,y){var a=x[0],c=y[0],n=typeof a=='number',m=typeof c=='number';\n"
  "if(n!=m)return n?-1:1;var d=n?a-c:a.localeCompare(c,undefined,{numeric:true});return up?d:-d});\n"
  "rows.forEach(function(r){b.append(r[1])});\n"
  "all('th',function(o){o.removeAttribute('aria-sort')},t.tHead);\n"
  "h.setAttribute('aria-sort',up?'ascending':'descending')}\n"
  "h.onclick=sort;h.onkeydown=function(k){if(k.key=='Enter'||k.key==' '){k.preventDefault();sort()}}},t)});\n");
    put(w,
  "all('.stack',function(s){var n=s.children.length,bars=[],r=make('input',{type:'range',min:1,max:n},s);\n"
  "if(n<2){r.remove();return}r.setAttribute('aria-label','Slice');\n"
  "var plot=r.nextElementSibling;if(plot&&plot.matches('.slices'))all('rect',function(b,i){bars.push(b);"
  "b.onclick=function(){go(i+1)}},plot);\n"
  "function mark(){bars.forEach(function(b,i){b.classList.toggle('on',i==r.value-1)})}\n"
  "function go(i){r.value=i;s.scrollLeft=s.children[i-1].offsetLeft-s.children[0].offsetLeft;mark()}\n"
  "r.oninput=function(){go(+r.value)};\n"
  "s.addEventListener('scroll',function(){var w=s.children[1].offsetLeft-s.children[0].offsetLeft;"
  "r.value=1+Math.round(s.scrollLeft/w);mark()});\n"
  "var key=Array.from(s.children).findIndex(function(d){return d.className=='key'});go(key+1)});\n"
  /* The curve's highest point up to the pointer; plot area and key as svg_roc draws them. */
  "all('svg[aria-label^=\"ROC\"]',function(v){var names={},out=make('p',{className:'small read'},v);\n"
  "out.textContent='Point at the curves to read them.';\n"
  "all('path[d$=\"h26\"]',function(p){names[p.getAttribute('class')]="
  "p.nextElementSibling.textContent.replace(/ [\\d.]+$/,'')},v);\n"
  "v.onpointermove=v.onpointerdown=function(e){var x=(e.clientX-v.getBoundingClientRect().left)*344/v.clientWidth,\n"
  "f=Math.min(1,Math.max(0,(x-44)/290)),say=[];\n"
  "all('path.l:not([d$=\"h26\"])',function(p){var t=0;p.getAttribute('d').slice(1).split('L').forEach("
  "function(q){q=q.split(',');if((q[0]-44)/290<=f+1e-3)t=Math.max(t,(298-q[1])/290)});\n"
  "say.push(names[p.getAttribute('class')]+' '+t.toFixed(2))},v);\n"
  "out.textContent='At a false positive rate of '+f.toFixed(2)+': true positive rate of '+say.join(', ')}});\n"
  "})();\n</script>\n");
}

#endif
