"use strict";
/* What all pages share. Data enter the page as text nodes and as attributes set one by one, never as
 * markup; links are made by Page.link from relative paths only. */
var Page = (function () {
  var SVG = "http://www.w3.org/2000/svg";

  function fill(node, attributes, children) {
    Object.keys(attributes || {}).forEach(function (name) {
      var value = attributes[name];
      if (value === null || value === undefined || value === false) return;
      if (typeof value === "function") node.addEventListener(name, value);
      else node.setAttribute(name, value === true ? "" : String(value));
    });
    children.forEach(function (child) {
      if (child === null || child === undefined) return;
      node.appendChild(child instanceof Node ? child : document.createTextNode(String(child)));
    });
    return node;
  }

  /* el("td", {class: "n", click: f}, "text", node ...) */
  function el(name, attributes) {
    return fill(document.createElement(name), attributes, Array.prototype.slice.call(arguments, 2));
  }
  function svg(name, attributes) {
    return fill(document.createElementNS(SVG, name), attributes,
                Array.prototype.slice.call(arguments, 2));
  }
  function clear(node) {
    while (node.firstChild) node.removeChild(node.firstChild);
    return node;
  }

  function data(id) {
    return JSON.parse(document.getElementById(id).textContent);
  }
  /* The empty place of that name; null: this page has none. */
  function place(id) {
    var node = document.getElementById(id);
    return node && clear(node);
  }

  /* Relative whatever the data say: no scheme and no host can come out of this. */
  function href(path) {
    return "./" + path.split("/").map(encodeURIComponent).join("/");
  }
  function link(path, text) {
    return el("a", { href: href(path) }, el("bdi", {}, text));
  }

  function isNumber(x) {
    return typeof x === "number" && isFinite(x);
  }
  /* Four significant digits at most, and no more than tell something. */
  function number(x, digits) {
    if (!isNumber(x)) return "–";
    if (x === 0) return "0";
    var size = Math.abs(x);
    digits = digits || 4;
    if (size >= 1e6 || size < 1e-3)
      return x.toExponential(Math.max(digits - 2, 0)).replace(/\.?0*e\+?/, "e");
    if (size >= 1000) return String(Math.round(x));
    return String(+x.toPrecision(digits));
  }
  function fixed(x, digits) {
    return isNumber(x) ? x.toFixed(digits) : "–";
  }
  function count(n) {
    return String(n).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
  }

  /* Hours as a person says them. */
  function duration(hours) {
    if (!isNumber(hours)) return "–";
    if (hours >= 1) return number(hours, 3) + " h";
    return hours * 60 >= 1 ? number(hours * 60, 2) + " min" : number(hours * 3600, 2) + " s";
  }

  /* Numbers by size, and before words. */
  function compare(a, b) {
    var x = a === "" ? NaN : Number(a), y = b === "" ? NaN : Number(b);
    if (!isNaN(x) && !isNaN(y)) return x - y;
    if (!isNaN(x) || !isNaN(y)) return isNaN(x) ? 1 : -1;
    return String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0;
  }

  /* A menu: options are [value, text]. */
  function menu(label, options, value, change) {
    var node = el("select", { change: function () { change(node.value); } });
    options.forEach(function (option) {
      node.appendChild(el("option", { value: option[0], selected: option[0] === value }, option[1]));
    });
    return el("label", {}, el("span", { class: "data" }, label), node);
  }
  function tick(label, value, change) {
    var node = el("input", { type: "checkbox", checked: value,
                             change: function () { change(node.checked); } });
    return el("label", { class: "tick" }, node, label);
  }
  function slider(label, most, step, value, change) {
    var node = el("input", { type: "range", min: 0, max: most, step: step, value: value,
                             input: function () { change(Number(node.value)); } });
    return el("label", {}, label, node);
  }
  function button(text, click) {
    return el("button", { type: "button", class: "button", click: click }, text);
  }

  function colour(i) {
    return "var(--c" + (i % 10) + ")";
  }
  /* Beyond ten colours lines are told apart by their dashes too. */
  function dash(i) {
    return [null, "6 3", "2 3", "8 3 2 3"][Math.floor(i / 10) % 4];
  }
  /* Class of a square: x from 0 (worst) to 1 (best). */
  function heat(x) {
    return "heat h" + Math.round(20 * Math.min(1, Math.max(0, isNaN(x) ? 0 : x)));
  }

  function mean(list) {
    return list.reduce(function (sum, x) { return sum + x; }, 0) / list.length;
  }
  /* Of a sample. */
  function deviation(list) {
    var m = mean(list);
    if (list.length < 2) return NaN;
    return Math.sqrt(list.reduce(function (s, x) { return s + (x - m) * (x - m); }, 0) /
                     (list.length - 1));
  }

  return { el: el, svg: svg, clear: clear, data: data, place: place, href: href, link: link,
           isNumber: isNumber, number: number, duration: duration, fixed: fixed, count: count, compare: compare,
           menu: menu, tick: tick, slider: slider, button: button, colour: colour, dash: dash,
           heat: heat, mean: mean, deviation: deviation };
})();
