"use strict";
/* One run, chosen by the address (#run=r00017); and links of the tables that were there before scripts
 * ran. */
(function () {
  var D = Sweep.data, el = Page.el, byName = new Map();
  D.runs.forEach(function (run) { byName.set(run.name, run); });

  /* --- One run -------------------------------------------------------------------------------- */

  var place = Page.place("run-place");
  var input = el("input", { type: "search", "aria-label": "Run", placeholder: "name of a run", size: 12 });
  var form = el("form", { class: "controls", submit: function (event) {
    event.preventDefault();
    location.hash = "run=" + encodeURIComponent(input.value.trim());
  } }, el("label", {}, "run", input), el("button", { type: "submit", class: "button" }, "show"),
    Page.button("‹ before", function () { step(-1); }), Page.button("next ›", function () { step(1); }));
  var box = el("div", {}), current = null;
  place.appendChild(form);
  place.appendChild(box);

  /* To the run before or after in the table above, as sorted and filtered. */
  function step(by) {
    var found = Sweep.grid.found, k = found.indexOf(current);
    var next = found[k < 0 ? 0 : (k + by + found.length) % found.length];
    if (next) Sweep.open(next)();
  }

  function pair(name, value, style) {
    if (value === null || value === undefined || value === "") return null;
    return el("tr", {}, el("th", { scope: "row" }, el("bdi", {}, name)), el("td", { class: style }, value instanceof Node ? value : el("bdi", {}, value)));
  }
  function files(run) {
    var box = el("span", {});
    run.files.forEach(function (name) {
      box.appendChild(name === "." ? Page.link(run.path, "directory") : Page.link(run.path + "/" + name, name));
      box.appendChild(document.createTextNode(" "));
    });
    return run.files.length ? box : "none yet";
  }
  function facts(run) {
    var body = el("tbody", {}), exact = Page.isNumber(run.exact_match) ? Page.fixed(100 * run.exact_match, 1) + " %" : null;
    var rows = [pair("state", run.state, Sweep.styles[run.state]), pair("why", run.why)];
    Sweep.dimensions.forEach(function (dim) { rows.push(pair(dim.name, dim.of(run))); });
    rows.push(pair("step", run.n_steps ? run.step + " of " + run.n_steps : run.step),
      pair("loss of the last step", Page.number(run.loss)), pair("held-out loss", Page.number(run.held_out_loss)),
      pair("exact match", exact), pair("examples", run.n_examples || null),
      pair("parameters", run.parameters ? Page.count(run.active_parameters) + (run.active_parameters < run.parameters ? " of " + Page.count(run.parameters) + " trained" : "") : null),
      pair("of the model", Page.isNumber(run.percent) ? Page.number(run.percent, 3) + " %" : null),
      pair("time", Page.isNumber(run.hours) ? Page.duration(run.hours) : null),
      pair("time predicted", Page.isNumber(run.predicted_hours) ? Page.duration(run.predicted_hours) : null),
      pair("host", run.host), pair("group", run.group),
      pair("shown in the table", run.chosen ? el("a", { href: "#best-" + run.cell }, "yes: its setting is the best") : null),
      pair("files", files(run)));
    rows.forEach(function (row) { if (row) body.appendChild(row); });
    return el("div", { class: "scroll" }, el("table", { class: "facts-of-run" }, body));
  }
  function curves(run, right) {
    var series = [];
    [["train", 0], ["held_out", 1]].forEach(function (k) {
      var s = Sweep.seriesOf(run, k[0], 0, Page.colour(k[1]), Page.dash(0));
      s.name = Sweep.kinds[k[0]].name;
      s.open = null;
      if (s.x.length) series.push(s);
    });
    if (!series.length) {
      right.appendChild(el("p", { class: "note" }, run.train ? "It has logged nothing yet." : "Its curve is not in this page: see metrics.jsonl."));
      return;
    }
    var lines = el("div", {}), hidden = new Set();
    function draw() {
      Page.clear(lines);
      Chart.lines(lines, { label: "losses of " + run.name, xName: "step", yName: "loss", log: true, series: series.filter(function (s, i) { return !hidden.has(i); }) });
    }
    right.appendChild(lines);
    Chart.legend(right, series.map(function (s) { return s.name; }), hidden, draw);
    draw();
  }

  function show(run) {
    current = run;
    input.value = run.name;
    Page.clear(box);
    box.appendChild(el("h3", {}, el("bdi", {}, run.name)));
    var right = el("div", {});
    box.appendChild(el("div", { class: "pair" }, facts(run), right));
    curves(run, right);
  }

  /* --- Addresses ------------------------------------------------------------------------------ */

  function follow() {
    var found = /^#run=(.*)$/.exec(location.hash), name = null;
    if (!found) return;
    try { name = decodeURIComponent(found[1]); } catch (problem) { name = found[1]; }
    if (byName.has(name)) {
      show(byName.get(name));
      document.getElementById("run").scrollIntoView();
    } else {
      Page.clear(box).appendChild(el("p", { class: "note" }, "No run is called “" + name + "” here."));
    }
  }
  window.addEventListener("hashchange", follow);

  /* Links to runs' directories in the tables lead to the run on this page, which has the links. */
  Array.prototype.forEach.call(document.querySelectorAll("td.links a"), function (a) {
    var run = byName.get(a.textContent);
    if (run) a.setAttribute("href", "#run=" + encodeURIComponent(run.name));
  });
  /* And every shown setting to all runs of its cell. */
  D.cells.forEach(function (cell) {
    var head = document.getElementById("best-" + cell.cell);
    if (!head) return;
    head.parentNode.lastElementChild.appendChild(Page.button("all " + cell.n_runs + " runs", function () {
      Sweep.showRuns(D.labels.method[cell.method] + " on " + D.labels.task[cell.task] +
        (D.labels.model.length > 1 ? ", " + D.labels.model[cell.model] : ""), function (run) { return run.cell === cell.cell; });
    }));
  });
  if (D.runs.length) show(D.runs[0]);
  follow();
})();
