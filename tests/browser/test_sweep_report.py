#!/usr/bin/env python3
"""The page of a sweep in a real browser: test_sweep_report.py TRIMTAB SCREENSHOTS_DIR [--full]

What is asked of it: no error, no message, no request; the numbers are report.json's, which are recomputed here
from the runs; sorting, filters, menus, curves, the keyboard and links work; hostile names stay text; all of it
light and dark, wide and narrow; and without scripts the tables are still there. Exit status 77: no browser."""
import json
import math
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import urllib.parse

from browser import Browser, find

HERE = pathlib.Path(__file__).resolve().parent
STATES = ["waiting", "active", "finished", "ended early", "diverged", "failed"]


def made(trimtab, where, *numbers):
    """A sweep of hostile names, and its report."""
    subprocess.run([sys.executable, HERE / "made_sweep.py", where] + [str(n) for n in numbers], check=True)
    subprocess.run([trimtab, "sweep", "report", where, "--ceiling", "full"], check=True, stdout=subprocess.DEVNULL)
    return Report(where)


class Report:
    def __init__(self, where, name="report"):
        self.dir = pathlib.Path(where) / name
        self.url = (self.dir / "report.html").as_uri()
        self.json = json.loads((self.dir / "report.json").read_text())
        self.runs = sorted(self.json["runs"], key=lambda run: run["name"])

    def label(self, role, run):
        return self.json["labels"][role][run[role]]

    def setting(self, run, axis):
        return self.json["settings"][run["setting"]]["values"].get(axis, "")


def same(found, expected, what):
    assert found == expected, "%s: found %r, expected %r" % (what, found, expected)


def near(found, expected, what, tolerance=1e-9):
    assert math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance), (what, found, expected)


def shown(x):
    """As Page.number: four digits."""
    return "–" if x is None else "%g" % float("%.4g" % x)


# --- report.json itself ------------------------------------------------------------------------------------


def recompute(report):
    """Every cell's best setting, from the runs alone."""
    by_setting = {}
    for run in report.runs:
        by_setting.setdefault(run["setting"], []).append(run)
    for number, runs in by_setting.items():
        setting = report.json["settings"][number]
        done = [run for run in runs if run["result"]]
        same(setting["n_runs"], len(runs), "runs of setting %d" % number)
        for key in ("held_out_loss", "exact_match"):
            values = [run[key] for run in done]
            same(setting[key]["n"], len(values), "results")
            if values:
                near(setting[key]["mean"], statistics.mean(values), key)
            if len(values) > 1:
                near(setting[key]["sd"], statistics.stdev(values), key + " sd", 1e-6)
    for cell in report.json["cells"]:
        mine = [(s, n) for n, s in enumerate(report.json["settings"]) if s["cell"] == cell["cell"]]
        most = max(s["n_results"] for s, _ in mine)
        if most == 0:
            same(cell["best"], -1, "a cell without results")
            continue
        means = [(s["held_out_loss"]["mean"], n) for s, n in mine if s["n_results"] == most]
        same(cell["best"], min(means)[1], "best setting")
    for state in STATES:
        same(report.json["counts"][state], sum(run["state"] == state for run in report.runs), state)


# --- In the browser ----------------------------------------------------------------------------------------


def is_quiet(page, report):
    same(page.noise, [], "messages")
    same([url for url in page.requests if url != report.url], [], "requests")


def choose(page, section, label, value):
    """Sets the menu with that label within a section, as a person would."""
    page.run("""(() => { const label = [...document.querySelectorAll('#%s label')].find(l => l.textContent.startsWith(%s));
        const menu = label.querySelector('select');
        menu.value = [...menu.options].find(o => o.textContent === %s || o.value === %s).value;
        menu.dispatchEvent(new Event('change', {bubbles: true})); })()"""
             % (section, json.dumps(label), json.dumps(value), json.dumps(value)))


def table(page, selector):
    return page.run("[...document.querySelectorAll(%s)].map(r => [...r.cells].map(c => c.innerText.trim()))"
                    % json.dumps(selector + " tr"))


def sections(page, report):
    for place in ("summary", "curves", "heat", "budget", "runs", "run"):
        n = page.run("document.getElementById('%s-place').childElementCount" % place)
        assert n > 0, "%s is empty" % place
    wide = page.run("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, "the page is %d pixels wider than its window" % wide
    same(page.run("document.title"), report.json["sweep"]["name"] + " · Sweep", "title")


def results(page, report):
    """The tables that are there without scripts."""
    head, *rows = table(page, "#results-exact-0")
    same([h.split()[0] for h in head[3:]], report.json["labels"]["task"], "tasks")
    same(len(rows), 1 + len(report.json["labels"]["method"]), "methods")
    for cell in report.json["cells"]:
        text = rows[1 + cell["method"]][3 + cell["task"]]
        spread = report.json["settings"][cell["best"]]["exact_match"]
        expected = "%.1f ± %.1f" % (100 * spread["mean"], 100 * spread["sd"])
        if cell["method"] != report.json["ceiling"]:
            expected += " %+.1f" % (100 * cell["gap_exact_match"])
        assert text.startswith(expected), (text, expected)
    names = [row[0].replace(" ceiling", "") for row in rows[1:]]
    same(names, [n.strip() for n in report.json["labels"]["method"]], "names as they are")


def fact(page, name):
    return page.run("[...document.querySelectorAll('.fact')].find(f => f.querySelector('dt').textContent === %s)"
                    ".querySelector('dd').textContent" % json.dumps(name))


def summary(page, report):
    for state in STATES:
        same(int(fact(page, state)), report.json["counts"][state], state)
    rows = table(page, "#problems")[1:]
    same(sum(int(row[1]) for row in rows), sum(len(p["runs"]) for p in report.json["problems"]), "problems")
    same([row[2] for row in rows], [p["why"] for p in report.json["problems"]], "reasons")


def column(page, name):
    heads = page.run("[...document.querySelectorAll('#runs-place th button')].map(b => b.dataset.column)")
    k = heads.index(name)
    return [row[k] for row in table(page, "#runs-place tbody")]


def filter_runs(page, text):
    page.run("(() => { const box = document.querySelector('#runs-place input[type=search]'); box.value = %s;"
             "box.dispatchEvent(new Event('input')); })()" % json.dumps(text))
    return page.run("Sweep.grid.found.map(r => r.name).sort()")


def press_head(page, name):
    page.run("document.querySelector('#runs-place th button[data-column=%s]').click()" % json.dumps(name))


def runs(page, report):
    first = column(page, "run")
    same(first, [run["name"] for run in report.runs[:25]], "first rows")
    same(column(page, "held_out_loss"), [shown(run["held_out_loss"]) for run in report.runs[:25]], "losses")
    press_head(page, "held_out_loss")
    losses = sorted(run["held_out_loss"] for run in report.runs if run["held_out_loss"] is not None)
    same(column(page, "held_out_loss"), [shown(x) for x in losses[:25]], "sorted upwards")
    press_head(page, "held_out_loss")
    same(column(page, "held_out_loss"), [shown(x) for x in losses[::-1][:25]], "sorted downwards")
    page.run("[...document.querySelectorAll('#runs-place .pages button')][1].click()")
    same(column(page, "held_out_loss"), [shown(x) for x in losses[::-1][25:50]], "second page")

    def names(test):
        return [run["name"] for run in report.runs if test(run)]
    same(filter_runs(page, "state=diverged"), names(lambda r: r["state"] == "diverged"), "one state")
    same(filter_runs(page, 'state="ended early"'), names(lambda r: r["state"] == "ended early"), "quoted")
    same(filter_runs(page, "held_out_loss<0.6 lora"), names(
        lambda r: r["held_out_loss"] is not None and r["held_out_loss"] < 0.6 and report.label("method", r) == "lora"), "both")
    same(filter_runs(page, "train.lr>=0.02 -finished"), names(
        lambda r: float(report.setting(r, "train.lr")) >= 0.02 and r["state"] != "finished"), "numbers and not")
    for hostile in ("(.*[", "</script>", "\\", '"', "<", "__proto__", "constructor=1", "=", "run=", "%s"):
        filter_runs(page, hostile)
    same(filter_runs(page, "no such words"), [], "nothing")
    same(len(filter_runs(page, "")), len(report.runs), "everything")


def heat(page, report):
    choose(page, "heat", "metric", "held-out loss")
    choose(page, "heat", "across", "train.lr")
    choose(page, "heat", "down", "method")
    for how, join in (("averaged", statistics.mean), ("best", min)):
        choose(page, "heat", "all else", how)
        head, *rows = table(page, "#heat-place table")
        same(head[1:], sorted({report.setting(r, "train.lr") for r in report.runs}, key=float), "rates")
        for row, name in zip(rows, report.json["labels"]["method"]):
            for lr, text in zip(head[1:], row[1:]):
                values = [r["held_out_loss"] for r in report.runs if r["result"] and
                          report.label("method", r) == name and report.setting(r, "train.lr") == lr]
                same(text.split()[0], "%.4f" % join(values) if values else "…", "%s at %s" % (name, lr))
    choose(page, "heat", "down", "method.rank")
    same([row[0] for row in table(page, "#heat-place tbody")], ["4", "8", "not set"], "ranks, and full tuning")
    choose(page, "heat", "down", "method")
    choose(page, "heat", "task", "sort")
    page.run("document.querySelector('#heat-place td button').click()")
    name, lr = report.json["labels"]["method"][0], head[1]
    same(page.run("Sweep.grid.found.map(r => r.name).sort()"), [
        r["name"] for r in report.runs if report.label("method", r) == name and
        report.setting(r, "train.lr") == lr and report.label("task", r) == "sort"], "the runs behind a square")
    page.run("[...document.querySelectorAll('#runs-place button')].find(b => b.textContent.startsWith('only')).click()")
    same(page.run("Sweep.grid.found.length"), len(report.runs), "all runs again")


def lines(page, section="curves"):
    return page.run("document.querySelectorAll('#%s-place path.run').length" % section)


def curves(page, report):
    chosen = [r for r in report.runs if r["chosen"] and r["train"]["step"]]
    same(lines(page), len(chosen), "lines of best settings")
    choose(page, "curves", "runs", "all")
    logged = [r for r in report.runs if r["train"]["step"]]
    same(lines(page), min(600, len(logged)), "lines of all runs")
    choose(page, "curves", "task", "sort")
    logged = [r for r in logged if report.label("task", r) == "sort"]
    same(lines(page), len(logged), "lines of a task")
    page.run("document.querySelector('#curves-place .legend button').click()")
    first = report.json["labels"]["method"][0]
    same(lines(page), len([r for r in logged if report.label("method", r) != first]), "without a method")
    same(page.run("document.querySelector('#curves-place .legend button').getAttribute('aria-pressed')"), "false", "pressed")
    page.run("document.querySelector('#curves-place .legend button').click()")
    filter_runs(page, "seed=2 lora")
    choose(page, "curves", "runs", "as filtered below")
    same(lines(page), len([r for r in logged if report.label("method", r) == "lora" and report.label("seed", r) == "2"]), "filtered")
    filter_runs(page, "")
    choose(page, "curves", "curve", "exact match")
    choose(page, "curves", "curve", "held-out loss")
    page.run("(() => { const s = document.querySelector('#curves-place input[type=range]'); s.value = 0.9; s.dispatchEvent(new Event('input')); })()")
    page.run("document.querySelector('#curves-place input[type=checkbox]').click()")
    choose(page, "curves", "colour by", "train.lr")
    assert lines(page) > 0
    choose(page, "curves", "runs", "best settings")
    choose(page, "curves", "task", "all")
    choose(page, "curves", "curve", "training loss")
    choose(page, "curves", "colour by", "method")
    pointing(page, report)


def pointing(page, report):
    """The keyboard reads points; so does the mouse; Enter opens the run."""
    page.run("(() => { const s = document.querySelector('#curves-place input[type=range]'); s.value = 0; s.dispatchEvent(new Event('input')); })()")
    page.run("document.querySelector('#curves-place svg[role=img]').focus()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    text = page.run("document.querySelector('#curves-place .tip').textContent")
    run = next(r for r in report.runs if r["name"] == text.split()[0])
    same(text.split("\n")[-1], "step %d: %s" % (run["train"]["step"][1], shown(run["train"]["loss"][1])), "a point")
    assert page.run("document.querySelector('#curves-place [aria-live]').textContent").startswith(run["name"])
    page.press("ArrowDown")
    assert page.run("document.querySelector('#curves-place .tip').textContent").split()[0] != run["name"]
    page.press("Escape")
    same(page.run("document.querySelector('#curves-place .tip').hidden"), True, "closed by Escape")
    page.press("ArrowRight")
    page.press("Enter")
    page.wait(lambda: page.run("location.hash === '#run=%s' && document.querySelector('#run-place h3').textContent === '%s'"
                               % (run["name"], run["name"])), "Enter did not open the run")
    page.wait(lambda: points_somewhere(page), "pointing at the curves shows nothing")


def points_somewhere(page):
    x, y = page.run("(() => { const s = document.querySelector('#curves-place svg[role=img]'); s.scrollIntoView({block: 'center'});"
                    "const r = s.getBoundingClientRect(); return [r.left + r.width * 0.5, r.top + r.height * 0.5]; })()")
    for k in range(-60, 61, 12):
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y + k)
        if not page.run("document.querySelector('#curves-place .tip').hidden"):
            return True
    return False


def budget(page, report):
    n = page.run("document.querySelectorAll('#budget-place circle.dot:not(.faint)').length")
    same(n, sum(c["task"] == 0 and c["best"] >= 0 for c in report.json["cells"]), "large points")
    choose(page, "budget", "against", "train.lr")
    choose(page, "budget", "metric", "held-out loss")
    choose(page, "budget", "task", "all")
    n = page.run("document.querySelectorAll('#budget-place circle.faint').length")
    same(n, min(4000, sum(r["result"] for r in report.runs)), "small points")


def one_run(page, report):
    for run in report.runs[:1] + [r for r in report.runs if r["state"] == "diverged"][:1] + report.runs[-1:]:
        page.run("location.hash = 'run=' + %s" % json.dumps(run["name"]))
        page.wait(lambda: page.run("document.querySelector('#run-place h3').textContent") == run["name"], "not shown")
        facts = dict(table(page, "#run-place table.facts-of-run"))
        same(facts["state"], run["state"], "state")
        same(facts.get("why", ""), run["why"], "why")
        same(facts["method"], report.label("method", run), "method")
        same(facts["train.lr"], report.setting(run, "train.lr"), "rate")
        same(facts["held-out loss"], shown(run["held_out_loss"]), "held-out loss")
        same(facts["host"], run["host"], "host")
        same(facts["files"].split(), ["directory" if f == "." else f for f in run["files"]] or ["none", "yet"], "files")
        links(page, report, "#run-place a[href]")
    page.run("location.hash = 'run=%3Cimg%20src=x%3E'")
    page.wait(lambda: "<img src=x>" in page.run("document.querySelector('#run-place').textContent"), "unknown run")


def links(page, report, selector="a[href]"):
    """Links to files lead to what is there, links within the page to an element or a run."""
    names = {run["name"]: run for run in report.runs}
    for href in page.run("[...document.querySelectorAll(%s)].map(a => a.getAttribute('href'))" % json.dumps(selector)):
        if href.startswith("#run="):
            assert urllib.parse.unquote(href[5:]) in names, href
        elif href.startswith("#"):
            assert page.run("!!document.getElementById(%s)" % json.dumps(href[1:])), href
        else:
            assert href.startswith("./"), href
            assert (report.dir / urllib.parse.unquote(href)).exists(), href


def accessible(page):
    unnamed = page.run("""[...document.querySelectorAll('button, select, input, a[href], svg[role=img], .scroll')].filter(e =>
        !(e.getAttribute('aria-label') || e.textContent.trim() || (e.closest('label') && e.closest('label').textContent.trim()))
        ).map(e => e.outerHTML.slice(0, 120))""")
    same(unnamed, [], "things without a name")
    same(page.run("document.querySelectorAll('th:not([scope])').length"), 0, "heads without a scope")
    same(page.run("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"),
         page.run("document.querySelectorAll('[id]').length"), "ids once each")
    poor = page.run("""(() => {
        const pixel = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        const paint = (under, over) => { pixel.clearRect(0, 0, 1, 1);
            for (const c of [under, over]) { pixel.fillStyle = c; pixel.fillRect(0, 0, 1, 1); }
            return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3); };
        const light = rgb => { const [r, g, b] = rgb.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (!/rgba\\(0, 0, 0, 0\\)|transparent/.test(c)) return c; } return 'white'; };
        const found = [];
        for (const e of document.querySelectorAll('h1, h2, p, th, td, small, a, dt, dd, label, button, summary, caption')) {
            if (!e.textContent.trim() || !e.getClientRects().length || e.disabled || e.closest('[aria-pressed=false]')) continue;
            const back = ground(e), a = light(paint('white', back)), b = light(paint(back, getComputedStyle(e).color));
            const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (contrast < 4.5) found.push(e.tagName + '.' + e.className + ' ' + contrast.toFixed(2) + ' ' + e.textContent.slice(0, 40));
        }
        return [...new Set(found)].slice(0, 8); })()""")
    same(poor, [], "text that is hard to see")


def harmless(page, report):
    """No element came in with a name, and none would run."""
    same(page.run("document.querySelectorAll('img, iframe, object, embed, link[rel=stylesheet], [onerror], [onclick]').length"), 0, "elements")
    same(page.run("[...document.scripts].filter(s => s.type !== 'application/json' && (s.src || !s.textContent.startsWith('\"use strict\"'))).length"), 0, "scripts")
    assert page.run("document.querySelector('#results').textContent").count("</script><script>alert(1)</script>") >= 1


def guarded(page, report):
    """What the policy is for: markup that came in nevertheless does not run. (Makes noise: comes last.)"""
    page.run("(() => { const s = document.createElement('script'); s.textContent = 'window.came_in = 1'; document.body.appendChild(s);"
             "const i = document.createElement('div'); i.innerHTML = '<img src=\"http://127.0.0.1:9/x\" onerror=\"window.came_in = 2\">';"
             "document.body.appendChild(i); })()")
    page.wait(lambda: sum("Content Security Policy" in n for n in page.noise) >= 2, "the policy says nothing")
    same(page.run("window.came_in"), None, "came in")


def without_scripts(browser, report, shots):
    page = browser.open(report.url, scripts=False)
    results(page, report)
    summary(page, report)
    links(page, report)
    assert page.run("document.querySelectorAll('noscript').length") >= 6
    assert page.run("document.querySelectorAll('td.links a').length") > 0
    page.screenshot(os.path.join(shots, "no-scripts.png"))
    is_quiet(page, report)
    page.close()


def everything(browser, report, shots, name, **how):
    page = browser.open(report.url, **how)
    for part in (sections, results, summary, runs, heat, curves, budget, one_run, links, harmless):
        part(page, report)
    page.run("location.hash = ''")
    accessible(page)
    is_quiet(page, report)
    sections(page, report)
    page.screenshot(os.path.join(shots, name + ".png"))
    guarded(page, report)
    page.close()
    print("ok", name)


def others(browser, trimtab, where, shots):
    """A sweep before its first run; a report elsewhere; another choice of axes."""
    empty = str(where) + ".empty"
    elsewhere = str(where) + " & 'else'/<where>"
    for sweep, arguments in ((empty, []), (empty, ["-o", elsewhere]),
                             (where, ["-o", elsewhere, "--method", "method,method.rank", "--task", ""])):
        subprocess.run([trimtab, "sweep", "report", sweep] + arguments, check=True, stdout=subprocess.DEVNULL)
        report = Report(elsewhere, "") if arguments else Report(sweep)
        page = browser.open(report.url)
        sections(page, report)
        summary(page, report)
        links(page, report)
        is_quiet(page, report)
        page.close()
    halved(browser, trimtab, where)
    assert "lora 4" in report.json["labels"]["method"] and report.json["axes"][1]["role"] == "setting"
    print("ok others")


def halved(browser, trimtab, where):
    """The same runs, as if three of them had come to rungs."""
    path = pathlib.Path(where) / "sweep.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), halving={"eta": 2, "first": 6})))
    manifest = pathlib.Path(where) / "manifest.jsonl"
    lines_of = [dict(json.loads(line), **{"class": "alike"}) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines_of))
    for step, losses in ((6, {"r00000": 2.0, "r00001": 1.0, "r00002": 4.0}), (12, {"r00000": 1.5})):
        rung = pathlib.Path(where) / "rungs" / "alike" / ("step-%010d" % step)
        rung.mkdir(parents=True)
        for name, loss in losses.items():
            (rung / ("%s=%s.metric" % (name, struct.pack(">d", loss).hex()))).touch()
            (rung / (name + (".stopped" if loss > 3 else ".kept"))).touch()
    subprocess.run([trimtab, "sweep", "report", where], check=True, stdout=subprocess.DEVNULL)
    report = Report(where)
    page = browser.open(report.url)
    sections(page, report)
    same(table(page, "#rungs-table tbody"), [["alike", "6", "3", "2", "1", "1", "2"],
                                             ["alike", "12", "1", "1", "0", "1.5", "1.5"]], "rungs")
    same([rung["ended"] for rung in report.json["rungs"]], [1, 0], "rungs in report.json")
    is_quiet(page, report)
    page.close()


def large(browser, trimtab, where, shots):
    """Five thousand runs: the file is bounded, the page answers."""
    report = made(trimtab, where, 21, 4, 6, 400)
    n, size = len(report.runs), os.path.getsize(report.dir / "report.html")
    assert n >= 4000, n
    assert size < 16 << 20, size  # docs/sweep-report.md
    page = browser.open(report.url)
    sections(page, report)
    same(len(filter_runs(page, "state=finished")), report.json["counts"]["finished"], "finished")
    filter_runs(page, "")
    choose(page, "curves", "runs", "all")
    same(lines(page), 600, "at most so many lines")
    choose(page, "heat", "across", "train.lr")
    is_quiet(page, report)
    page.close()
    print("ok large: %d runs, %.1f MB" % (n, size / 1e6))


def main():
    trimtab, shots = sys.argv[1:3]
    if not find():
        print("skipped: no Chromium here (jobs/setup.sh tests installs one)")
        sys.exit(77)
    os.makedirs(shots, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="trimtab-sweep-") as scratch, Browser() as browser:
        report = made(trimtab, scratch + "/sweep")
        recompute(report)
        everything(browser, report, shots, "wide-light")
        everything(browser, report, shots, "narrow-dark", dark=True, width=390, height=844)
        if "--full" in sys.argv:
            everything(browser, report, shots, "wide-dark", dark=True)
            everything(browser, report, shots, "narrow-light", width=390, height=844)
        without_scripts(browser, report, shots)
        others(browser, trimtab, scratch + "/sweep", shots)
        if "--full" in sys.argv:
            large(browser, trimtab, scratch + "/large", shots)


main()
