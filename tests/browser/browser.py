"""A headless Chromium spoken to over a pipe (its DevTools protocol), with nothing but Python's own library.

    with Browser() as browser:
        page = browser.open("file:///...", dark=True, width=400, scripts=False)
        page.run("document.title"); page.screenshot("shot.png"); page.noise; page.requests
"""
import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

NAMES = ["chromium-headless-shell", "chrome-headless-shell", "chromium", "chromium-browser", "google-chrome"]
PATIENCE = 120  # seconds for one answer, on a machine with other work


def find():
    """The browser to use, or None."""
    return next((path for path in map(shutil.which, [os.environ.get("TT_BROWSER", "")] + NAMES) if path), None)


class Failure(Exception):
    pass


class Browser:
    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="trimtab-browser-")
        to_child, self.write_to = os.pipe()
        self.read_from, from_child = os.pipe()
        def connect():  # the protocol's descriptors are 3 and 4
            os.setsid()
            a, b = os.dup(to_child), os.dup(from_child)
            high = [os.dup(a) if a < 5 else a, os.dup(b) if b < 5 else b]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.child = subprocess.Popen(
            [find(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--mute-audio", "--hide-scrollbars",
             "--remote-debugging-pipe", "--user-data-dir=" + self.profile, "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=connect, close_fds=False)
        os.close(to_child)
        os.close(from_child)
        self.buffer, self.number, self.pages = b"", 0, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()
        os.close(self.write_to)
        os.close(self.read_from)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _message(self, until):
        while b"\0" not in self.buffer:
            left = until - time.monotonic()
            if left <= 0:
                raise Failure("the browser did not answer in %d s" % PATIENCE)
            if select.select([self.read_from], [], [], left)[0]:
                got = os.read(self.read_from, 1 << 20)
                if not got:
                    raise Failure("the browser has gone")
                self.buffer += got
        raw, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(raw)

    def _take(self, message):
        page = self.pages.get(message.get("sessionId"))
        if page and "method" in message:
            page.heard(message["method"], message["params"])

    def call(self, method, session=None, **params):
        self.number += 1
        request = {"id": self.number, "method": method, "params": params}
        if session:
            request["sessionId"] = session
        data = json.dumps(request).encode() + b"\0"
        while data:
            data = data[os.write(self.write_to, data):]
        until = time.monotonic() + PATIENCE
        while True:
            message = self._message(until)
            if message.get("id") == self.number:
                if "error" in message:
                    raise Failure("%s: %s" % (method, message["error"]))
                return message["result"]
            self._take(message)

    def open(self, url, **how):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session, target)
        page.go(url, **how)
        return page


class Page:
    def __init__(self, browser, session, target):
        self.browser, self.session, self.target = browser, session, target
        self.noise, self.requests, self.loaded = [], [], False

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def heard(self, method, params):
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.noise.append("exception: %s" % details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled":
            self.noise.append("console.%s: %s" % (params["type"], [a.get("value") for a in params["args"]]))
        elif method == "Log.entryAdded":
            self.noise.append("log %s: %s" % (params["entry"]["level"], params["entry"]["text"]))
        elif method == "Page.javascriptDialogOpening":
            self.noise.append("dialog: " + params["message"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self.loaded = True

    def go(self, url, dark=False, width=1280, height=900, scripts=True, media="screen"):
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", media=media,
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                            {"name": "prefers-reduced-motion", "value": "reduce"}])
        self.loaded = False
        self.call("Page.navigate", url=url)
        self.wait(lambda: self.loaded, "the page did not load")

    def wait(self, condition, what):
        until = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > until:
                raise Failure(what)
            self.call("Runtime.getIsolateId")  # takes what has happened
            time.sleep(0.02)

    def run(self, script):
        """Value of a JavaScript expression (run even where the page's own scripts are off)."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise Failure("%s: %s" % (script[:200], details.get("exception", {}).get("description", details["text"])))
        return answer["result"].get("value")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode={"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27}[key],
                      **({"text": "\r"} if key == "Enter" and kind == "keyDown" else {}))

    def screenshot(self, path, whole=True, clip=None):
        if whole and not clip:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12000), "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, **({"clip": clip} if clip else {}))
        with open(path, "wb") as stream:
            stream.write(base64.b64decode(shot["data"]))

    def pdf(self, path):
        with open(path, "wb") as stream:
            stream.write(base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"]))

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)
