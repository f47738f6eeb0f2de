"use strict";
/* The sweep's page: curves, maps over hyper-parameters, budget, rungs, and the table of runs. The data
 * are report.json's (docs/sweep-report.md). */
var Sweep = (function () {
  var D = Page.data("sweep-data"), el = Page.el;
  var ROLES = ["model", "method", "task", "seed"];
  var hasExact = D.runs.some(function (r) { return Page.isNumber(r.exact_match); });
  var MOST_LINES = 600;
  D.runs.sort(function (a, b) { return a.group - b.group || Page.compare(a.name, b.name); });

  /* --- What can be asked of a run ------------------------------------------------------------ */

  /* Dimensions: roles by their labels, hyper-parameters by their axes. */
  var dimensions = ROLES.map(function (role) {
    return { name: role, of: function (run) { return D.labels[role][run[role]]; } };
  });
  D.axes.forEach(function (axis) {
    if (axis.role !== "setting") return;
    var clash = ROLES.indexOf(axis.name) >= 0;
    dimensions.push({ name: clash ? axis.name + " (axis)" : axis.name, setting: true, of: function (run) {
      var values = D.settings[run.setting].values;
      return Object.prototype.hasOwnProperty.call(values, axis.name) ? values[axis.name] : "";
    } });
  });
  function dimension(name) {
    return dimensions.find(function (d) { return d.name === name; });
  }
  /* Values that occur, in order; "" (does not concern the run) last. */
  function valuesOf(dim) {
    var seen = new Set();
    D.runs.forEach(function (run) { seen.add(dim.of(run)); });
    return Array.from(seen).sort(function (a, b) {
      return a === "" || b === "" ? (a === "") - (b === "") : Page.compare(a, b);
    });
  }
  /* Roles keep the plan's order, in which they have their colours everywhere. */
  dimensions.forEach(function (dim) { dim.values = dim.setting ? valuesOf(dim) : D.labels[dim.name]; });

  var metrics = { held_out_loss: { name: "held-out loss", lowIsBest: true, scale: 1, digits: 4 },
                  exact_match: { name: "exact match, %", lowIsBest: false, scale: 100, digits: 1 } };
  function metricMenu(value, change) {
    var options = hasExact ? [["exact_match", "exact match"], ["held_out_loss", "held-out loss"]]
                           : [["held_out_loss", "held-out loss"]];
    return Page.menu("metric", options, value, change);
  }
  var firstMetric = hasExact && D.sweep.metric === "exact_match" ? "exact_match" : hasExact ? "exact_match" : "held_out_loss";

  function settingText(run) {
    var values = D.settings[run.setting].values;
    return Object.keys(values).map(function (k) { return k + "=" + values[k]; }).join(", ");
  }
  function nameOf(run) {
    return run.name + "  " + D.labels.method[run.method] + " on " + D.labels.task[run.task] +
      (D.labels.model.length > 1 ? ", " + D.labels.model[run.model] : "") +
      (settingText(run) ? "\n" + settingText(run) : "") + "\nseed " + D.labels.seed[run.seed] + ", " + run.state;
  }
  function open(run) {
    return function () { location.hash = "run=" + encodeURIComponent(run.name); };
  }
  var styles = { waiting: "idle", active: "busy", finished: "good", "ended early": "early",
                 diverged: "bad", failed: "bad" };

  /* Menus that narrow the runs: a value of each of these dimensions, or all. */
  function narrowing(names, chosen, change) {
    return names.map(dimension).filter(function (dim) { return dim.values.length > 1; }).map(function (dim) {
      if (!(dim.name in chosen)) chosen[dim.name] = "all";
      var options = [["all", "all"]].concat(dim.values.map(function (v, i) { return [String(i), v === "" ? "–" : v]; }));
      return Page.menu(dim.name, options, chosen[dim.name], function (value) {
        chosen[dim.name] = value;
        change();
      });
    });
  }
  function passes(run, chosen) {
    return Object.keys(chosen).every(function (name) {
      var dim = dimension(name);
      return chosen[name] === "all" || dim.of(run) === dim.values[Number(chosen[name])];
    });
  }

  /* --- Summary -------------------------------------------------------------------------------- */

  (function () {
    var place = Page.place("summary-place");
    var words = Object.keys(D.counts).filter(function (s) { return D.counts[s] > 0; });
    var bar = el("div", { class: "bar", role: "img", "aria-label": words.map(function (s) {
      return D.counts[s] + " " + s;
    }).join(", ") });
    words.forEach(function (s) {
      var part = el("span", { class: styles[s], title: D.counts[s] + " " + s });
      part.style.flex = String(D.counts[s]);
      bar.appendChild(part);
    });
    place.appendChild(bar);
    if (D.runs.length < D.sweep.n_runs)
      place.appendChild(el("p", { class: "note" }, "The figures below have " + Page.count(D.runs.length) +
        " of the runs, those of the best settings first; runs.csv and report.json have all."));
  })();

  /* --- The table of runs ---------------------------------------------------------------------- */

  var grid = (function () {
    var place = Page.place("runs-place");
    function column(name, title, value, more) {
      return Object.assign({ name: name, title: title, value: value }, more || {});
    }
    function plain(key) { return function (run) { return run[key]; }; }
    function rounded(key) { return function (run) { return Page.number(run[key]); }; }
    var columns = [
      column("run", "run", plain("name"), { cell: function (run) {
        return el("a", { href: "#run=" + encodeURIComponent(run.name) }, run.name);
      } }),
      column("state", "state", plain("state"), { cell: function (run) {
        return el("span", { class: styles[run.state] }, run.state);
      } })];
    dimensions.forEach(function (dim) {
      if (dim.values.length > 1 || dim.name === "method")
        columns.push(column(dim.name, dim.name, dim.of));
    });
    columns.push(
      column("step", "step", plain("step"), { number: true, cell: function (run) {
        return run.n_steps ? run.step + " / " + run.n_steps : String(run.step);
      } }),
      column("loss", "loss", plain("loss"), { number: true, cell: rounded("loss") }),
      column("held_out_loss", "held-out loss", plain("held_out_loss"), { number: true, cell: rounded("held_out_loss") }),
      column("exact_match", "exact match, %", function (run) {
        return Page.isNumber(run.exact_match) ? 100 * run.exact_match : null;
      }, { number: true, shown: hasExact, cell: function (run) {
        return Page.isNumber(run.exact_match) ? Page.fixed(100 * run.exact_match, 1) : "–";
      } }),
      column("percent", "% of model", plain("percent"), { number: true, cell: rounded("percent") }),
      column("hours", "time", plain("hours"), { number: true, cell: function (run) { return Page.duration(run.hours); } }),
      column("host", "host", plain("host"), { shown: false }),
      column("chosen", "best", function (run) { return run.chosen ? "best" : ""; }),
      column("why", "why", plain("why"), { shown: false }));
    var more = el("details", {}, el("summary", {}, "columns"));
    var made = Grid(place, { columns: columns, rows: D.runs, caption: "All runs", page: 25,
                             hint: "words, loss<0.5, state=failed", more: more });
    columns.forEach(function (c) {
      more.appendChild(Page.tick(c.title, c.shown !== false, function (on) {
        c.shown = on;
        made.redraw();
      }));
    });
    made.columns = columns;
    return made;
  })();

  /* The table, narrowed from elsewhere. */
  function showRuns(name, test) {
    grid.show({ name: name, test: test });
    document.getElementById("runs").scrollIntoView();
  }

  /* --- Learning curves ------------------------------------------------------------------------ */

  var KINDS = { train: { name: "training loss", curve: "train", key: "loss" },
                held_out: { name: "held-out loss", curve: "eval", key: "loss" },
                exact: { name: "exact match", curve: "eval", key: "exact_match" } };

  function seriesOf(run, kind, smoothing, colour, dash) {
    var what = KINDS[kind], curve = run[what.curve] || { step: [] };
    var y = curve[what.key] || [];
    return { name: nameOf(run), x: curve.step, y: kind === "train" ? Chart.smooth(y, smoothing) : y,
             colour: colour, dash: dash, open: open(run) };
  }

  (function () {
    var place = Page.place("curves-place"), chosen = Object.create(null), hidden = new Set();
    var some = D.runs.some(function (r) { return r.chosen; });
    var state = { kind: "train", log: true, smoothing: 0, which: some ? "chosen" : "all", by: "method" };
    var box = el("div", {}), legendBox = el("div", {}), note = el("p", { class: "note", role: "status" });

    function runs() {
      var list = state.which === "filtered" ? grid.found : D.runs;
      return list.filter(function (run) {
        return (state.which !== "chosen" || run.chosen) && passes(run, chosen);
      });
    }
    function draw() {
      var dim = dimension(state.by), what = KINDS[state.kind];
      var list = runs().filter(function (run) {
        return run[what.curve] && run[what.curve].step.length > 0 && !hidden.has(dim.values.indexOf(dim.of(run)));
      });
      /* Of too many some from everywhere: runs that follow each other are of one method. */
      var shown = list.filter(function (run, i) {
        return list.length <= MOST_LINES ||
          Math.floor(i * MOST_LINES / list.length) !== Math.floor((i - 1) * MOST_LINES / list.length);
      });
      Page.clear(box);
      Chart.lines(box, { label: what.name + " over steps, " + shown.length + " runs", xName: "step",
        yName: what.name, log: state.log && state.kind !== "exact", series: shown.map(function (run) {
          var i = dim.values.indexOf(dim.of(run));
          return seriesOf(run, state.kind, state.smoothing, Page.colour(i), Page.dash(i));
        }) });
      Page.clear(note).appendChild(document.createTextNode(
        list.length === 0 ? "No run of these has such a curve yet." :
        list.length > MOST_LINES ? Page.count(shown.length) + " of " + Page.count(list.length) + " runs are drawn, taken evenly: choose fewer to see all." :
        Page.count(list.length) + " runs." + (state.smoothing && state.kind === "train" ? " Smoothed." : "")));
    }
    function drawLegend() {
      var dim = dimension(state.by);
      hidden.clear();
      Page.clear(legendBox);
      if (dim.values.length > 1 && dim.values.length <= 60)
        Chart.legend(legendBox, dim.values.map(function (v) { return v === "" ? "–" : v; }), hidden, draw);
    }
    function set(key) {
      return function (value) { state[key] = value; if (key === "by") drawLegend(); draw(); };
    }
    var kinds = [["train", "training loss"], ["held_out", "held-out loss"]];
    if (hasExact) kinds.push(["exact", "exact match"]);
    var controls = el("div", { class: "controls" },
      Page.menu("curve", kinds, state.kind, set("kind")),
      Page.menu("runs", (some ? [["chosen", "best settings"]] : []).concat([["all", "all"], ["filtered", "as filtered below"]]),
                state.which, set("which")));
    narrowing(["task", "model"], chosen, draw).forEach(function (menu) { controls.appendChild(menu); });
    controls.appendChild(Page.menu("colour by", dimensions.filter(function (d) { return d.values.length > 1 || d.name === "method"; })
      .map(function (d) { return [d.name, d.name]; }), state.by, set("by")));
    controls.appendChild(Page.slider("smoothing", 0.98, 0.02, 0, set("smoothing")));
    controls.appendChild(Page.tick("log scale", state.log, set("log")));
    [controls, legendBox, box, note].forEach(function (node) { place.appendChild(node); });
    drawLegend();
    draw();
    grid.changed = function () { if (state.which === "filtered") draw(); };
  })();

  /* --- Maps over hyper-parameters ------------------------------------------------------------- */

  /* Values as columns: as they are, or in eight bins where a random search has many. */
  function binned(dim, runs) {
    var there = new Set(runs.map(dim.of));
    var values = dim.values.filter(function (v) { return there.has(v); });
    var set = values.filter(function (v) { return v !== ""; });
    var numbers = set.map(Number);
    if (values.length <= 16 || numbers.some(isNaN))
      return { names: values.slice(0, 200).map(function (v) { return v === "" ? "not set" : v; }),
               of: function (run) { return values.indexOf(dim.of(run)); } };
    var low = numbers[0], high = numbers[numbers.length - 1], log = low > 0 && high / low > 20;
    var f = log ? Math.log : function (v) { return v; }, back = log ? Math.exp : f, n = 8, names = [];
    function edge(k) { return back(f(low) + (f(high) - f(low)) * k / n); }
    for (var k = 0; k < n; k++) names.push(Page.number(edge(k), 3) + " to " + Page.number(edge(k + 1), 3));
    if (set.length < values.length) names.push("not set");
    return { names: names, of: function (run) {
      var v = dim.of(run);
      if (v === "") return n;
      return Math.min(n - 1, Math.floor((f(Number(v)) - f(low)) / (f(high) - f(low)) * n));
    } };
  }

  (function () {
    var place = Page.place("heat-place"), chosen = Object.create(null);
    var able = dimensions.filter(function (d) { return d.values.length > 1; });
    if (able.length < 2) {
      place.appendChild(el("p", {}, "This sweep varies fewer than two things."));
      return;
    }
    var ordered = able.filter(function (d) { return d.setting; }).concat(able.filter(function (d) { return !d.setting; }));
    var state = { x: ordered[0].name, y: ordered[1].name, how: "mean", metric: firstMetric };
    var controls = el("div", { class: "controls" }), box = el("div", {});

    function drawControls() {
      Page.clear(controls);
      function of(key) { return function (value) { state[key] = value; drawControls(); draw(); }; }
      var names = able.map(function (d) { return [d.name, d.name]; });
      controls.appendChild(metricMenu(state.metric, of("metric")));
      controls.appendChild(Page.menu("across", names, state.x, of("x")));
      controls.appendChild(Page.menu("down", names, state.y, of("y")));
      controls.appendChild(Page.menu("all else", [["mean", "averaged"], ["best", "best"]], state.how, of("how")));
      var rest = able.map(function (d) { return d.name; }).filter(function (n) { return n !== state.x && n !== state.y; });
      Object.keys(chosen).forEach(function (n) { if (rest.indexOf(n) < 0) delete chosen[n]; });
      narrowing(rest, chosen, draw).forEach(function (menu) { controls.appendChild(menu); });
    }
    function draw() {
      var dx = dimension(state.x), dy = dimension(state.y), metric = metrics[state.metric];
      var runs = D.runs.filter(function (run) { return passes(run, chosen); });
      var bx = binned(dx, runs), by = binned(dy, runs), buckets = new Map();
      runs.forEach(function (run) {
        var key = bx.of(run) + "," + by.of(run);
        if (!buckets.has(key)) buckets.set(key, []);
        buckets.get(key).push(run);
      });
      Page.clear(box);
      Chart.map(box, { label: (state.how === "mean" ? "Mean " : "Best ") + metric.name + " over runs with a result; the outlined one is the best",
        xName: state.x, yName: state.y, xs: bx.names, ys: by.names, lowIsBest: metric.lowIsBest,
        cell: function (i, k) {
          var inside = buckets.get(i + "," + k);
          if (!inside) return null;
          var values = inside.filter(function (run) { return run.result && Page.isNumber(run[state.metric]); })
            .map(function (run) { return run[state.metric]; });
          var value = !values.length ? NaN : state.how === "mean" ? Page.mean(values)
            : Math[metric.lowIsBest ? "min" : "max"].apply(null, values);
          return { value: value, text: Page.fixed(metric.scale * value, metric.digits),
                   note: values.length + " of " + inside.length + " runs", open: function () {
                     var set = new Set(inside);
                     showRuns(state.x + " " + bx.names[i] + ", " + state.y + " " + by.names[k],
                              function (run) { return set.has(run); });
                   } };
        } });
    }
    place.appendChild(controls);
    place.appendChild(box);
    drawControls();
    draw();
  })();

  /* --- Budget --------------------------------------------------------------------------------- */

  (function () {
    var place = Page.place("budget-place"), chosen = Object.create(null), hidden = new Set();
    var state = { metric: firstMetric, x: "active_parameters" }, box = el("div", {}), legendBox = el("div", {});
    function xOf(run) {
      return state.x === "active_parameters" || state.x === "percent" ? run[state.x] : Number(dimension(state.x).of(run) || NaN);
    }
    /* Large points: the best setting of every cell. */
    function cells(metric) {
      return D.cells.filter(function (c) { return c.best >= 0; }).map(function (c) {
        var runs = D.runs.filter(function (r) { return r.setting === c.best; });
        var spread = runs.length ? D.settings[c.best][state.metric] : { n: 0 };
        if (!spread.n || hidden.has(c.method) || !passes(runs[0], chosen)) return null;
        var name = D.labels.method[c.method];
        return { x: xOf(runs[0]), y: metric.scale * spread.mean, sd: metric.scale * (spread.sd || 0),
                 colour: Page.colour(c.method), large: true, name: name,
                 text: name + " on " + D.labels.task[c.task] + "\n" + metric.name + " " +
                       Page.fixed(metric.scale * spread.mean, metric.digits) +
                       (Page.isNumber(spread.sd) ? " ± " + Page.fixed(metric.scale * spread.sd, metric.digits) : "") + "\n" + Page.count(runs[0].active_parameters) +
                       " parameters, " + Page.number(runs[0].percent, 3) + " %",
                 open: function () { location.hash = "best-" + c.cell; } };
      });
    }
    function draw() {
      var metric = metrics[state.metric];
      var small = D.runs.filter(function (run) {
        return run.result && Page.isNumber(run[state.metric]) && !hidden.has(run.method) && passes(run, chosen);
      }).slice(0, 4000).map(function (run) {
        return { x: xOf(run), y: metric.scale * run[state.metric], colour: Page.colour(run.method),
                 text: nameOf(run) + "\n" + metric.name + " " + Page.fixed(metric.scale * run[state.metric], metric.digits), open: open(run) };
      });
      var all = small.concat(cells(metric).filter(Boolean));
      Page.clear(box);
      if (!all.length) box.appendChild(el("p", { class: "note" }, "No run has a result yet."));
      else Chart.points(box, { label: metric.name + " against " + state.x, points: all,
        logX: all.every(function (p) { return !(p.x <= 0); }), log: false,
        xName: state.x === "active_parameters" ? "trained parameters that act" : state.x === "percent" ? "% of the model's parameters" : state.x,
        yName: metric.name });
    }
    var able = dimensions.filter(function (d) {
      return d.setting && d.values.length > 1 && d.values.every(function (v) { return v === "" || !isNaN(Number(v)); });
    });
    var controls = el("div", { class: "controls" }, metricMenu(state.metric, function (v) { state.metric = v; draw(); }),
      Page.menu("against", [["active_parameters", "parameters"], ["percent", "% of model"]].concat(able.map(function (d) { return [d.name, d.name]; })),
                state.x, function (v) { state.x = v; draw(); }));
    /* One task at a time: accuracies of different tasks have nothing to do with each other. */
    if (dimension("task").values.length > 1) chosen.task = "0";
    narrowing(["task", "model"], chosen, draw).forEach(function (menu) { controls.appendChild(menu); });
    [controls, legendBox, box].forEach(function (node) { place.appendChild(node); });
    if (D.labels.method.length > 1 && D.labels.method.length <= 60)
      Chart.legend(legendBox, D.labels.method, hidden, draw);
    draw();
  })();

  return { data: D, grid: grid, dimensions: dimensions, settingText: settingText, styles: styles,
           seriesOf: seriesOf, hasExact: hasExact, kinds: KINDS, showRuns: showRuns, open: open };
})();
