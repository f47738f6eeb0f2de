"use strict";
/* Charts in SVG, drawn anew at every width: lines, points, bars. Colours are those of the page's style, so
 * that they follow light, dark and print. Every chart can be read with the keyboard: arrows go from
 * point to point and line to line, and what they reach is told in words. */
var Chart = (function () {
  var svg = Page.svg, el = Page.el;

  /* --- Scales ------------------------------------------------------------------------------- */

  function linearTicks(low, high, n) {
    var step = Math.pow(10, Math.floor(Math.log10((high - low) / n)));
    [2, 5, 10].some(function (more) {
      if ((high - low) / step <= n) return true;
      step = Math.pow(10, Math.round(Math.log10(step) - 0.2)) * more;
      return (high - low) / step <= n;
    });
    var ticks = [];
    for (var k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++)
      ticks.push(+(k * step).toPrecision(12));
    return ticks;
  }
  function logTicks(low, high, n) {
    var ticks = [], decades = Math.log10(high / low);
    var parts = decades > n ? [1] : decades > 2 ? [1, 3] : decades > 0.7 ? [1, 2, 5] : null;
    if (!parts) return linearTicks(low, high, n);
    var skip = Math.max(1, Math.ceil(decades / n));
    for (var d = Math.floor(Math.log10(low)); d <= Math.ceil(Math.log10(high)); d++)
      if (d % skip === 0)
        parts.forEach(function (part) {
          var tick = part * Math.pow(10, d);
          if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(+tick.toPrecision(6));
        });
    return ticks;
  }
  /* Values to pixels [from, to]; log only where all are positive. */
  function scale(values, from, to, log, tight) {
    var low = Infinity, high = -Infinity;
    values.forEach(function (v) {
      if (!Page.isNumber(v) || (log && v <= 0)) return;
      if (v < low) low = v;
      if (v > high) high = v;
    });
    if (!(low <= high)) { low = log ? 0.1 : 0; high = 1; }
    if (low === high) {
      low = log ? low / 1.5 : low - (Math.abs(low) * 0.1 || 1);
      high = log ? high * 1.5 : high + (Math.abs(high) * 0.1 || 1);
    }
    var f = log ? Math.log10 : function (v) { return v; };
    var pad = tight ? 0 : 0.04 * (f(high) - f(low));
    var a = f(low) - pad, b = f(high) + pad;
    var map = function (v) { return from + (f(v) - a) / (b - a) * (to - from); };
    map.fits = function (v) { return Page.isNumber(v) && (!log || v > 0); };
    map.ticks = function (n) {
      return log ? logTicks(Math.pow(10, a), Math.pow(10, b), n) : linearTicks(a, b, n);
    };
    return map;
  }

  /* --- Frame -------------------------------------------------------------------------------- */

  function frame(root, size, x, y, options) {
    var g = svg("g", {}), nx = Math.max(3, Math.floor(size.width / 90));
    y.ticks(Math.max(3, Math.floor(size.height / 55))).forEach(function (tick) {
      g.appendChild(svg("path", { class: "grid", d: "M" + size.left + " " + y(tick) + "H" + size.right }));
      g.appendChild(svg("text", { x: size.left - 6, y: y(tick) + 4, "text-anchor": "end" }, Page.number(tick)));
    });
    x.ticks(nx).forEach(function (tick) {
      g.appendChild(svg("path", { class: "grid", d: "M" + x(tick) + " " + size.top + "V" + size.bottom }));
      g.appendChild(svg("text", { x: x(tick), y: size.bottom + 16, "text-anchor": "middle" },
                        Page.number(tick)));
    });
    g.appendChild(svg("path", { class: "axis", d: "M" + size.left + " " + size.top + "V" + size.bottom +
                                                  "H" + size.right }));
    g.appendChild(svg("text", { x: (size.left + size.right) / 2, y: size.bottom + 33,
                                "text-anchor": "middle" }, options.xName));
    g.appendChild(svg("text", { transform: "translate(13 " + (size.top + size.bottom) / 2 + ") rotate(-90)",
                                "text-anchor": "middle" }, options.yName));
    root.appendChild(g);
  }

  function layout(box, wanted) {
    var width = Math.max(280, box.clientWidth || 720);
    var height = wanted || Math.min(420, Math.max(240, Math.round(width * 0.45)));
    return { width: width, height: height, left: 58, right: width - 12, top: 10, bottom: height - 42 };
  }

  /* A chart in place: draw(root, size) returns what can be pointed at, as a list of
   * {x, y, group, text, node}. */
  function chart(place, label, draw, height) {
    var box = el("div", { class: "chart" });
    var tip = el("div", { class: "tip", hidden: true });
    var live = el("div", { class: "visually-hidden", "aria-live": "polite" });
    var marks = [], at = -1, root = null, ring = null;
    place.appendChild(box);

    function hide() {
      if (at >= 0 && marks[at].node) marks[at].node.classList.remove("on");
      tip.hidden = true;
      ring.setAttribute("visibility", "hidden");
      at = -1;
    }
    function show(i, aloud) {
      if (at >= 0 && marks[at].node) marks[at].node.classList.remove("on");
      at = i;
      var mark = marks[i], scaleOf = box.clientWidth / layout(box, height).width;
      if (mark.node) {
        mark.node.classList.add("on");
      }
      ring.setAttribute("cx", mark.x);
      ring.setAttribute("cy", mark.y);
      ring.setAttribute("visibility", "visible");
      Page.clear(tip).appendChild(document.createTextNode(mark.text));
      tip.hidden = false;
      var left = mark.x * scaleOf + 14;
      if (left + tip.offsetWidth > box.clientWidth) left = mark.x * scaleOf - tip.offsetWidth - 14;
      tip.style.left = Math.max(0, left) + "px";
      tip.style.top = Math.max(0, mark.y * scaleOf - 14) + "px";
      if (aloud) Page.clear(live).appendChild(document.createTextNode(mark.text.replace(/\n/g, ", ")));
    }
    function nearest(event) {
      var area = root.getBoundingClientRect(), factor = root.viewBox.baseVal.width / area.width;
      var x = (event.clientX - area.left) * factor, y = (event.clientY - area.top) * factor;
      var best = -1, least = 40 * 40;
      marks.forEach(function (mark, i) {
        var d = (mark.x - x) * (mark.x - x) + (mark.y - y) * (mark.y - y);
        if (d < least) { least = d; best = i; }
      });
      return best;
    }
    /* The next line's point that is closest in x. */
    function neighbour(step) {
      var groups = [], here = marks[at];
      marks.forEach(function (m) { if (groups[groups.length - 1] !== m.group) groups.push(m.group); });
      var wanted = groups[(groups.indexOf(here.group) + step + groups.length) % groups.length], best = at;
      var least = Infinity;
      marks.forEach(function (m, i) {
        if (m.group === wanted && Math.abs(m.x - here.x) < least) { least = Math.abs(m.x - here.x); best = i; }
      });
      return best;
    }
    function key(event) {
      if (!marks.length) return;
      var step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], line = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") return hide();
      if (!step && !line && event.key !== "Enter") return;
      event.preventDefault();
      if (event.key === "Enter") { if (at >= 0 && marks[at].open) marks[at].open(); return; }
      show(at < 0 ? 0 : step ? (at + step + marks.length) % marks.length : neighbour(line), true);
    }

    function redraw() {
      var size = layout(box, height);
      Page.clear(box);
      root = svg("svg", { viewBox: "0 0 " + size.width + " " + size.height, role: "img", tabindex: 0,
                          "aria-label": label, keydown: key, blur: hide, pointerleave: hide,
                          pointermove: function (event) {
                            var i = nearest(event);
                            if (i < 0) { if (at >= 0) hide(); } else if (i !== at) show(i, false);
                          },
                          click: function (event) {
                            var i = nearest(event);
                            if (i >= 0 && marks[i].open) marks[i].open();
                          } });
      at = -1;
      marks = draw(root, size, box) || [];
      ring = svg("circle", { r: 5, fill: "none", stroke: "currentColor", "stroke-width": 1.5,
                             visibility: "hidden" });
      root.appendChild(ring);
      box.appendChild(root);
      box.appendChild(tip);
      box.appendChild(live);
      tip.hidden = true;
    }
    redraw();
    var width = box.clientWidth;
    if (window.ResizeObserver)
      new ResizeObserver(function () {
        if (!box.isConnected || Math.abs(box.clientWidth - width) < 4) return;
        width = box.clientWidth;
        redraw();
      }).observe(box);
    return { box: box, redraw: redraw };
  }

  /* --- Lines -------------------------------------------------------------------------------- */

  /* options: {label, xName, yName, log, height, series: [{name, colour, dash, x, y, group, open}]} */
  function lines(place, options) {
    return chart(place, options.label, function (root, size, box) {
      var xs = [], ys = [], marks = [];
      options.series.forEach(function (s) { xs.push.apply(xs, s.x); ys.push.apply(ys, s.y); });
      var x = scale(xs, size.left, size.right, false, true), y = scale(ys, size.bottom, size.top, options.log);
      frame(root, size, x, y, options);
      box.classList.toggle("many", options.series.length > 80);
      options.series.forEach(function (s, k) {
        var path = "", pen = "M", node = svg("path", { class: "run", stroke: s.colour,
                                                        "stroke-dasharray": s.dash || null });
        s.x.forEach(function (step, i) {
          if (!y.fits(s.y[i])) { pen = "M"; return; }
          var px = x(step).toFixed(1), py = y(s.y[i]).toFixed(1);
          path += pen + px + " " + py;
          pen = "L";
          marks.push({ x: +px, y: +py, group: k, node: node, open: s.open,
                       text: s.name + "\n" + options.xName + " " + step + ": " + Page.number(s.y[i]) });
        });
        if (s.x.length === 1 && path) path += "h0.1";
        node.setAttribute("d", path || "M0 0");
        root.appendChild(node);
      });
      return marks;
    }, options.height);
  }

  /* --- Points ------------------------------------------------------------------------------- */

  /* points: [{x, y, sd, colour, shape, text, large, open}] */
  function points(place, options) {
    return chart(place, options.label, function (root, size) {
      var shown = options.points;
      var ends = [];
      shown.forEach(function (p) { ends.push(p.y, p.y - (p.sd || 0), p.y + (p.sd || 0)); });
      var x = scale(shown.map(function (p) { return p.x; }), size.left, size.right, options.logX);
      var y = scale(ends, size.bottom, size.top, options.log);
      frame(root, size, x, y, options);
      var marks = [], named = [];
      shown.slice().sort(function (a, b) { return (a.large ? 1 : 0) - (b.large ? 1 : 0); }).forEach(function (p, k) {
        if (!x.fits(p.x) || !y.fits(p.y)) return;
        var px = x(p.x), py = y(p.y);
        if (p.sd && y.fits(p.y - p.sd))
          root.appendChild(svg("path", { d: "M" + px + " " + y(p.y - p.sd) + "V" + y(p.y + p.sd),
                                         stroke: p.colour, "stroke-width": 1.5 }));
        root.appendChild(svg("circle", { cx: px, cy: py, r: p.large ? 6 : 3, fill: p.colour,
                                         class: p.large ? "dot" : "dot faint" }));
        var isFree = named.every(function (n) { return Math.abs(n.y - py) > 13 || Math.abs(n.x - px) > 110; });
        if (p.large && p.name && isFree)
          root.appendChild(svg("text", { x: Math.min(px + 9, size.right - 4), y: py - 7,
                                         "text-anchor": px > size.right - 90 ? "end" : "start" }, p.name));
        if (p.large && isFree) named.push({ x: px, y: py });
        marks.push({ x: px, y: py, group: p.large ? 1 : 0, text: p.text, open: p.open });
      });
      return marks;
    }, options.height);
  }

  /* --- Bars --------------------------------------------------------------------------------- */

  /* bars: [{name, value, colour, text}], upright, from zero. */
  function bars(place, options) {
    return chart(place, options.label, function (root, size) {
      var n = options.bars.length, step = (size.right - size.left) / Math.max(1, n);
      var y = scale(options.bars.map(function (b) { return b.value; }).concat([0]), size.bottom, size.top, false);
      var x = function (i) { return size.left + (i + 0.5) * step; };
      x.ticks = function () { return []; };
      frame(root, size, x, y, options);
      var every = Math.max(1, Math.ceil(n * 40 / (size.right - size.left))), marks = [];
      options.bars.forEach(function (b, i) {
        var top = y(Math.max(0, b.value)), bottom = y(Math.min(0, b.value));
        if (!Page.isNumber(b.value)) return;
        root.appendChild(svg("rect", { x: x(i) - 0.4 * step, width: 0.8 * step, y: top,
                                       height: Math.max(0.5, bottom - top), fill: b.colour || Page.colour(0) }));
        if (i % every === 0)
          root.appendChild(svg("text", { x: x(i), y: size.bottom + 16, "text-anchor": "middle" }, b.name));
        marks.push({ x: x(i), y: top, group: 0, text: b.text || b.name + ": " + Page.number(b.value) });
      });
      return marks;
    }, options.height);
  }

  /* --- Legend ------------------------------------------------------------------------------- */

  /* names with their colours; pressed ones are hidden: change(set of hidden indices). */
  function legend(place, names, hidden, change) {
    var box = el("div", { class: "legend", role: "group", "aria-label": "Lines shown" });
    names.forEach(function (name, i) {
      var button = el("button", { type: "button", "aria-pressed": String(!hidden.has(i)), title: name,
        click: function () {
          if (hidden.has(i)) hidden.delete(i); else hidden.add(i);
          button.setAttribute("aria-pressed", String(!hidden.has(i)));
          change(hidden);
        } },
        svg("svg", { width: 22, height: 8, "aria-hidden": "true" },
            svg("path", { d: "M0 4H22", "stroke-width": 3, "stroke-dasharray": Page.dash(i), stroke: Page.colour(i) })),
        el("bdi", {}, name));
      box.appendChild(button);
    });
    place.appendChild(box);
    return box;
  }

  /* A running mean that forgets: weight 0 leaves all as it is. */
  function smooth(values, weight) {
    var sum = 0, total = 0;
    return values.map(function (v) {
      if (!Page.isNumber(v)) return v;
      sum = weight * sum + (1 - weight) * v;
      total = weight * total + (1 - weight);
      return sum / total;
    });
  }

  /* --- Maps --------------------------------------------------------------------------------- */

  /* A heat map as a table: {label, xName, yName, xs, ys, cell(i, k) -> null or {value, text, note,
   * open}, lowIsBest}. */
  function map(place, options) {
    var all = [], cells = options.ys.map(function (_, k) {
      return options.xs.map(function (_, i) {
        var cell = options.cell(i, k);
        if (cell && Page.isNumber(cell.value)) all.push(cell.value);
        return cell;
      });
    });
    var low = Math.min.apply(null, all), high = Math.max.apply(null, all);
    var best = options.lowIsBest ? low : high;
    var table = el("table", { class: "map" }, el("caption", { class: "visually-hidden" }, options.label));
    place.appendChild(el("p", { class: "note" }, options.label));
    table.appendChild(el("thead", {}, el("tr", {}, [el("th", { scope: "col" }, el("bdi", {}, options.yName + " \\ " + options.xName))]
      .concat(options.xs.map(function (x) { return el("th", { scope: "col" }, el("bdi", {}, x)); }))
      .reduce(function (f, node) { f.appendChild(node); return f; }, document.createDocumentFragment()))));
    var body = el("tbody", {});
    options.ys.forEach(function (name, k) {
      var row = el("tr", {}, el("th", { scope: "row" }, el("bdi", {}, name)));
      cells[k].forEach(function (cell) {
        if (!cell || !Page.isNumber(cell.value)) {
          row.appendChild(el("td", { class: "none" }, cell ? "…" : "–"));
          return;
        }
        var share = high > low ? (cell.value - low) / (high - low) : 1;
        row.appendChild(el("td", { class: Page.heat(options.lowIsBest && high > low ? 1 - share : share) +
                                          (cell.value === best ? " best" : "") },
          el("button", { type: "button", title: cell.note, click: cell.open }, cell.text,
             cell.note ? el("span", { class: "visually-hidden" }, " " + cell.note) : null)));
      });
      body.appendChild(row);
    });
    table.appendChild(body);
    place.appendChild(el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": options.label }, table));
  }

  return { lines: lines, points: points, bars: bars, legend: legend, smooth: smooth, map: map };
})();
