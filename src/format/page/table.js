"use strict";
/* Tables that sort and filter: those that are there already (class sortable), and Grid for thousands
 * of rows, of which it shows a page at a time. */
(function () {
  function textOf(row, column) {
    var cell = row.cells[column], part = cell && cell.querySelector("bdi");
    return cell ? (part || cell).textContent.trim() : "";
  }
  /* "88.0 ± 1.2" sorts as 88, "12 – 14" as 12, "–" last. */
  function keyOf(text) {
    var found = /^[-+]?\d[\d.]*(e[-+]?\d+)?/i.exec(text.replace(/\u202f/g, ""));
    return found ? Number(found[0]) : text;
  }
  function isNothing(text) {
    return text === "" || text === "–" || text === "…";
  }

  function sort(table, column, down) {
    var body = table.tBodies[0], rows = Array.prototype.slice.call(body.rows);
    var keys = new Map(rows.map(function (row) { return [row, textOf(row, column)]; }));
    rows.sort(function (a, b) {
      var x = keys.get(a), y = keys.get(b);
      if (isNothing(x) || isNothing(y)) return isNothing(x) - isNothing(y);
      return (down ? -1 : 1) * Page.compare(keyOf(x), keyOf(y));
    });
    rows.forEach(function (row) { body.appendChild(row); });
  }

  function enhance(table) {
    var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      var name = head.textContent;
      Page.clear(head).appendChild(Page.el("button", { type: "button", click: function () {
        var down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(table, column, down);
      } }, Page.el("bdi", {}, name)));
    });
  }
  Array.prototype.forEach.call(document.querySelectorAll("table.sortable"), enhance);
})();

/* Grid(place, {columns: [{name, title, number, value(row), cell(row), shown}], rows, caption, page})
 * filters by words that must all occur and by comparisons name<value, name>=value, name=value; and
 * by a condition from elsewhere (only). */
function Grid(place, options) {
  var grid = { rows: options.rows, sorted: null, down: false, first: 0, text: "", only: null,
               found: options.rows.slice(), changed: null };
  var size = options.page || 50, el = Page.el;
  var byName = Object.create(null);
  options.columns.forEach(function (column) { byName[column.name.toLowerCase()] = column; });

  var words = new Map();
  function wordsOf(row) {
    if (!words.has(row))
      words.set(row, options.columns.map(function (c) { return c.value(row); }).join("\n")
                       .toLowerCase());
    return words.get(row);
  }

  /* One condition of the filter's text. */
  function condition(part) {
    var found = /^([^<>=\s]+)\s*(<=|>=|<|>|=)(.*)$/.exec(part);
    var column = found && byName[found[1].toLowerCase()];
    if (!column) {
      var no = part[0] === "-" && part.length > 1, word = (no ? part.slice(1) : part).toLowerCase();
      return function (row) { return no !== wordsOf(row).indexOf(word) >= 0; };
    }
    var sign = found[2], wanted = found[3].replace(/^"|"$/g, "");
    return function (row) {
      var value = column.value(row);
      if (value === null || value === undefined || value === "") return false;
      if (sign === "=" && isNaN(Number(wanted)))
        return String(value).toLowerCase() === wanted.toLowerCase();
      var order = Page.compare(value, wanted);
      return sign === "=" ? order === 0 : sign === "<" ? order < 0 : sign === ">" ? order > 0
        : sign === "<=" ? order <= 0 : order >= 0;
    };
  }
  function conditions(text) {
    return (text.match(/[^\s"]*"[^"]*"|\S+/g) || []).map(condition);
  }

  function apply() {
    var all = conditions(grid.text);
    grid.found = grid.rows.filter(function (row) {
      return (!grid.only || grid.only.test(row)) && all.every(function (c) { return c(row); });
    });
    if (grid.sorted) {
      var value = grid.sorted.value, sign = grid.down ? -1 : 1;
      grid.found.sort(function (a, b) {
        var x = value(a), y = value(b);
        var noX = x === null || x === undefined || x === "", noY = y === null || y === undefined || y === "";
        return noX || noY ? noX - noY : sign * Page.compare(x, y);
      });
    }
    grid.first = 0;
    draw();
    if (grid.changed) grid.changed(grid.found);
  }

  var status = el("p", { class: "note", role: "status" });
  var only = el("span", {});
  var head = el("tr", {}), body = el("tbody", {});
  var search = el("input", { type: "search", "aria-label": "Filter", placeholder: options.hint || "",
                             input: function () { grid.text = search.value; apply(); } });
  var before = Page.button("‹ previous", function () { grid.first -= size; draw(); });
  var after = Page.button("next ›", function () { grid.first += size; draw(); });

  function drawHead() {
    Page.clear(head);
    options.columns.forEach(function (column) {
      if (column.shown === false) return;
      var state = grid.sorted !== column ? null : grid.down ? "descending" : "ascending";
      head.appendChild(el("th", { scope: "col", class: column.number ? "n" : null, "aria-sort": state },
        el("button", { type: "button", "data-column": column.name, click: function () {
          grid.down = grid.sorted === column && !grid.down;
          grid.sorted = column;
          apply();
          var again = Array.prototype.find.call(head.querySelectorAll("button"), function (b) {
            return b.getAttribute("data-column") === column.name;
          });
          if (again) again.focus();
        } }, el("bdi", {}, column.title))));
    });
  }
  function drawRow(row) {
    var line = el("tr", {});
    options.columns.forEach(function (column) {
      if (column.shown === false) return;
      var content = column.cell ? column.cell(row) : column.value(row);
      if (content === null || content === undefined || content === "") content = "–";
      line.appendChild(el("td", { class: column.number ? "n" : null },
        content instanceof Node ? content : el("bdi", {}, content)));
    });
    body.appendChild(line);
  }
  function draw() {
    var n = grid.found.length;
    grid.first = Math.max(0, Math.min(grid.first, n - 1));
    grid.first -= grid.first % size;
    Page.clear(body);
    drawHead();
    grid.found.slice(grid.first, grid.first + size).forEach(drawRow);
    Page.clear(status).appendChild(document.createTextNode(
      n === 0 ? "No row fits the filter." : "Rows " + Page.count(grid.first + 1) + " to " +
      Page.count(Math.min(n, grid.first + size)) + " of " + Page.count(n) +
      (n < grid.rows.length ? " that fit, of " + Page.count(grid.rows.length) : "") + "."));
    before.disabled = grid.first === 0;
    after.disabled = grid.first + size >= n;
    Page.clear(only);
    if (grid.only)
      only.appendChild(Page.button("only " + grid.only.name + "  ✕", function () { grid.show(null); }));
  }

  /* Shows only rows that pass: {name, test(row)}; null: all. */
  grid.show = function (condition) {
    grid.only = condition;
    apply();
  };
  grid.redraw = draw;
  grid.search = search;

  place.appendChild(el("div", { class: "controls" }, el("label", {}, "Filter", search), only,
                       options.more || null));
  place.appendChild(status);
  place.appendChild(el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": options.caption },
    el("table", { class: "grid" }, el("caption", { class: "visually-hidden" }, options.caption),
       el("thead", {}, head), body)));
  place.appendChild(el("div", { class: "controls pages" }, before, after));
  draw();
  return grid;
}
