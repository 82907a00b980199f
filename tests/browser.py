"""Headless Chromium for tests, driven over the WebDriver protocol with the standard library."""

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The element that an answer of the protocol names.
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"left": "\ue012", "up": "\ue013", "right": "\ue014", "down": "\ue015", "enter": "\ue007"}
KEYS |= {"escape": "\ue00c", "end": "\ue010", "home": "\ue011", "tab": "\ue004"}
# Without them Chromium asks for hosts of its own, and it has no sandbox for root.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1440,900",
)


class Browser:
    """One window."""

    def __init__(self, address: str, session: str) -> None:
        """Take over a session of a driver."""
        self.base = f"{address}/session/{session}"

    def open(self, url: str) -> None:
        """Load a page."""
        _ask("POST", f"{self.base}/url", {"url": url})

    def resize(self, width: int, height: int) -> None:
        """Give the page a size in pixels, also one that is less than a window can have."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)

    def run(self, script: str, *arguments: Any) -> Any:
        """The result of a function's body."""
        return _ask("POST", f"{self.base}/execute/sync", {"script": script, "args": arguments})

    def find(self, selector: str) -> str:
        """The only element that a CSS selector finds."""
        found = _ask("POST", f"{self.base}/elements", {"using": "css selector", "value": selector})
        assert len(found) == 1, f"{len(found)} elements are {selector}"
        return found[0][ELEMENT]

    def click(self, selector: str) -> None:
        """Click as a user does: it fails where something covers the element."""
        _ask("POST", f"{self.base}/element/{self.find(selector)}/click", {})

    def hover(self, selector: str) -> None:
        """Point at the middle of an element."""
        origin = {ELEMENT: self.find(selector)}
        move = {"type": "pointerMove", "duration": 0, "origin": origin, "x": 0, "y": 0}
        mouse = {"type": "pointer", "id": "mouse", "actions": [move]}
        _ask("POST", f"{self.base}/actions", {"actions": [mouse]})

    def type(self, selector: str, text: str) -> None:
        """Type into an element."""
        _ask("POST", f"{self.base}/element/{self.find(selector)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Press keys, by the names in KEYS or as characters."""
        actions = [
            {"type": kind, "value": KEYS.get(key, key)}
            for key in keys
            for kind in ("keyDown", "keyUp")
        ]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        _ask("POST", f"{self.base}/actions", {"actions": [source]})

    def devtools(self, command: str, **parameters: Any) -> Any:
        """What Chromium answers to a command of its developers' protocol."""
        body = {"cmd": command, "params": parameters}
        return _ask("POST", f"{self.base}/goog/cdp/execute", body)

    def prefer(self, scheme: str) -> None:
        """Let the system prefer light or dark colours."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def console(self) -> list[str]:
        """What the page's console has said since the last call, warnings and errors too."""
        entries = _ask("POST", f"{self.base}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries]

    def screenshot(self, path: Path) -> None:
        """Save the window as a PNG file."""
        path.write_bytes(base64.b64decode(_ask("GET", f"{self.base}/screenshot")))


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser of our own, with an empty profile; skips where there is none."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    process = subprocess.Popen(
        [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        address = f"http://127.0.0.1:{_port(process)}"
        options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        body = {"capabilities": {"alwaysMatch": wanted}}
        session = _ask("POST", f"{address}/session", body)["sessionId"]
        try:
            yield Browser(address, session)
        finally:
            _ask("DELETE", f"{address}/session/{session}")
    finally:
        process.terminate()
        process.wait(timeout=20)
        if process.stdout is not None:
            process.stdout.close()


def _port(process: subprocess.Popen[str]) -> int:
    if process.stdout is None:
        raise RuntimeError("the driver has no output")
    start = time.monotonic()
    for line in process.stdout:
        if "started successfully on port" in line:
            return int(line.rstrip(".\n").rpartition(" ")[2])
        if time.monotonic() - start > 30:
            break
    raise RuntimeError("chromedriver did not start")


def _ask(method: str, url: str, body: Any = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    request.method = method
    # No proxy: the driver is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None
