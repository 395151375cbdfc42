"""A headless Chromium that looks at one page, with a profile of its own and no network."""

import os
import re
import shutil
import subprocess

import pytest

COMMAND = shutil.which("chromium") or shutil.which("chromium-browser")

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1"),
)


def need():
    """Skips the test where there is no browser, and fails it where CI says that there is one."""
    if COMMAND is None and os.environ.get("CI") == "true":
        pytest.fail("chromium is missing: apt-get install chromium\nRequired by CI=true.", False)
    if COMMAND is None:
        pytest.skip("chromium is missing: apt-get install chromium")


def look(folder, page, *flags, dark=False):
    """Runs the browser; returns what it printed."""
    scheme = ["--blink-settings=preferredColorScheme=0"] * dark
    done = subprocess.run(
        [COMMAND, *_FLAGS, f"--user-data-dir={folder}/profile", *scheme, *flags, page.as_uri()],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


def screenshot(folder, page, width, height, *, dark=False):
    """A PNG of the first screen."""
    picture = folder / f"{width}x{height}{'-dark' * dark}.png"
    look(folder, page, f"--window-size={width},{height}", f"--screenshot={picture}", dark=dark)
    return picture


#: Asks the browser where things are, and writes it into the page for `--dump-dom`.
_MEASURE = """
<iframe id="frame" src="{page}" style="width:{width}px;height:{height}px;border:0"></iframe>
<pre id="told"></pre><script>
frame.onload = () => {{
  const page = frame.contentDocument, told = [];
  for (const one of page.querySelectorAll({selector!r})) {{
    const box = one.getBoundingClientRect();
    told.push([Math.round(box.left), Math.round(box.top), Math.round(box.right),
               Math.round(box.bottom)].join(" "));
  }}
  const wide = page.documentElement.scrollWidth;
  document.getElementById("told").textContent = "wide " + wide + ";" + told.join(";");
}};
</script>
"""


def boxes(folder, page, selector, width, height):
    """How wide the page gets in a window, and where its elements are there, as the browser lays
    them out: left, top, right, bottom in CSS pixels.
    """
    outer = folder / "measure.html"
    outer.write_text(_MEASURE.format(page=page.name, width=width, height=height, selector=selector))
    allow = "--allow-file-access-from-files"
    text = look(folder, outer, allow, "--dump-dom", "--virtual-time-budget=5000")
    wide, *found = re.search(r'<pre id="told">wide (.*?)</pre>', text)[1].split(";")
    return int(wide), [tuple(map(int, box.split())) for box in found]
