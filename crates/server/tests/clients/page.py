"""The page in headless Chromium: what a person does with it, at two widths, and what axe says of it.

python3 page.py http://127.0.0.1:PORT AXE_JS [FOLDER_OF_SCREENSHOTS]
"""

import base64
import json
import pathlib
import sys
import tempfile
import time
import urllib.request

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

base, axe = sys.argv[1].rstrip("/"), pathlib.Path(sys.argv[2]).read_text()
screenshots = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None


def browser(width, height):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    # Without a network Chromium's own requests would only fail.
    for flag in ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--lang=en", "--force-device-scale-factor=1",
                 "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync"]:
        options.add_argument(flag)
    if width < 500:
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1}})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    driver.set_window_size(width, height)
    return driver


driver = browser(1440, 900)


def find(css):
    return driver.find_element(By.CSS_SELECTOR, css)


def all_of(css):
    return driver.find_elements(By.CSS_SELECTOR, css)


def until(what, seconds=60):
    # What is looked at may be replaced while it is looked at: then it is looked for again.
    ignored = [NoSuchElementException, StaleElementReferenceException]
    return WebDriverWait(driver, seconds, 0.02, ignored).until(lambda _: what())


def open_page(view="draw"):
    driver.get(f"{base}/#{view}")
    until(lambda: driver.execute_script("return document.documentElement.dataset.ready"))


def shot(name):
    if screenshots:
        until(lambda: "shown" not in find("#toast").get_attribute("class"))
        time.sleep(0.5)
        driver.save_screenshot(str(screenshots / f"{name}.png"))


def check_axe(where):
    driver.execute_script(axe)
    found = driver.execute_async_script("axe.run().then(arguments[0])")["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not serious, where + ": " + json.dumps([(one["id"], [node["html"] for node in one["nodes"]]) for one in serious])


def draw(prompt, n, seed=None):
    find("#prompt").clear()
    find("#prompt").send_keys(prompt)
    find("#n").clear()
    find("#n").send_keys(str(n))
    if seed is not None:
        find("#seed").clear()
        find("#seed").send_keys(str(seed))
    cards = len(all_of(".job"))
    find("#prompt").send_keys(Keys.CONTROL, Keys.ENTER)
    until(lambda: len(all_of(".job")) > cards)


def finished():
    return not all_of("#stage .job:first-child .waiting") and all_of("#stage .job:first-child .tile img")


# Draw, and see it while it is drawn.
open_page()
draw("two red cats on a blue background", 4, 7)
until(lambda: all_of(".job:first-child .waiting img") or finished())
until(finished)
assert len(all_of("#stage .job:first-child .tile")) == 4
shot("serve-draw")
check_axe("draw")
# The model is in memory now: from the click to the picture on the page.
lags = []
for seed in range(5):
    find("#n").clear()
    find("#n").send_keys("1")
    find("#seed").clear()
    find("#seed").send_keys(str(seed))
    lags.append(driver.execute_async_script("""
        const done = arguments[0], start = performance.now(), stage = document.getElementById('stage');
        document.getElementById('go').click();
        const old = stage.firstElementChild;
        (function look() {
          const card = stage.firstElementChild, image = card !== old && card.querySelector('button.tile img');
          if (image && image.complete && image.naturalWidth) done(performance.now() - start); else requestAnimationFrame(look);
        })();"""))
print("click to picture, ms:", [round(lag) for lag in lags])

# A long one shows previews, and can be cancelled.
find("#prompt").clear()
draw("a turtle on a yellow background", 32)
until(lambda: all_of(".job:first-child .waiting img"))
find(".job:first-child .job-head button").click()
until(lambda: not all_of(".job:first-child progress"))
assert "cancelled" in find(".job:first-child .state").text

# A favourite, by the dialog and by the keyboard.
draw("a star under the night sky", 2, 3)
until(finished)
find("#stage .job:first-child .tile").click()
until(lambda: find("#viewer").get_attribute("open") is not None)
shot("serve-picture")
check_axe("picture")
find("#viewer-favourite").click()
until(lambda: find("#viewer-favourite").get_attribute("aria-pressed") == "true")
find("#viewer-caption").click()
until(lambda: all_of("#viewer-note .caption"))
find("#viewer-close").click()

# The gallery: by words, favourites, several deleted.
open_page("gallery")
until(lambda: len(all_of("#pictures .tile")) >= 7)
find("#query").send_keys("a star at night", Keys.ENTER)
until(lambda: "star" in find("#pictures .tile").get_attribute("title"))
shot("serve-search")
find("#query").clear()
find("#query").send_keys(Keys.ENTER)
find("#favourites").click()
until(lambda: len(all_of("#pictures .tile")) == 1)
find("#favourites").click()
until(lambda: len(all_of("#pictures .tile")) >= 7)
# Answers in another order than the questions: the last question counts.
driver.execute_script("""
    const real = window.fetch;
    let late = 1;
    window.lateAnswers = 0;
    window.fetch = async (...given) => {
      const answer = await real(...given);
      if (late-- > 0) { await new Promise((go) => setTimeout(go, 600)); setTimeout(() => window.lateAnswers++, 100); }
      return answer;
    };""")
find("#favourites").click()
find("#favourites").click()
until(lambda: driver.execute_script("return window.lateAnswers") == 1)
assert len(all_of("#pictures .tile")) >= 7 and int(find("#gallery-count").text) >= 7
shot("serve-gallery")
check_axe("gallery")
before = int(find("#gallery-count").text)
find("#select").click()
for tile in all_of("#pictures .tile")[-2:]:
    tile.click()
find("#delete-selected").click()
until(lambda: int(find("#gallery-count").text) == before - 2)
find("#select").click()

# Edit with the brush.
driver.execute_script("scrollTo(0, 0)")
all_of("#pictures .tile")[0].click()
find("#viewer-edit").click()
until(lambda: find("#frame").is_displayed() and find("#edit-go").is_enabled())
canvas = find("#canvas-mask")
ActionChains(driver).move_to_element(canvas).click_and_hold().move_by_offset(60, 40).move_by_offset(-30, 30).release().perform()
shot("serve-edit")
check_axe("edit")
find("#edit-go").click()
until(lambda: len(all_of("#edit-results .tile img")) == 2)
assert find("#compare").is_displayed()
slider = find("#compare-slider")
slider.send_keys(Keys.ARROW_RIGHT)
shot("serve-compare")
# Extend it.
driver.execute_script("document.querySelector('[name=tool][value=outpaint]').click()")
find("#side-left").clear()
find("#side-left").send_keys("32")
find("#edit-go").click()
until(lambda: len(all_of("#edit-results .job")) == 2)
until(lambda: len(all_of("#edit-results .job:first-child .tile img")) == 2)
wide = find("#edit-results .job:first-child .tile img")
until(lambda: wide.get_property("naturalWidth") == 96)

# A dropped PNG gives its settings back.
picture = json.load(urllib.request.urlopen(f"{base}/api/pictures?text=two+red+cats&limit=1"))["pictures"][0]
png = urllib.request.urlopen(f"{base}/files/{picture['id']}.png").read()
open_page()
driver.execute_script("""
    const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "a.png", { type: "image/png" }));
    dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));""", base64.b64encode(png).decode())
until(lambda: find("#prompt").get_property("value") == picture["prompt"])
assert find("#seed").get_property("value") == picture["seed"]

# Chinese, dark, and all still there after a reload.
find("#language").click()
until(lambda: find("#go").text.startswith("开始绘画"))
until(lambda: find("#stage .state").text.startswith("种子"))
find("#theme").click()
driver.refresh()
until(lambda: driver.execute_script("return document.documentElement.dataset.ready"))
until(lambda: find("#go").text.startswith("开始绘画"))
assert len(all_of("#stage .job")) >= 3 and find("html").get_attribute("data-theme") == "dark"
check_axe("dark, Chinese")
shot("serve-dark-zh")
errors = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE" and "favicon" not in entry["message"]]
assert not errors, errors
driver.quit()

# On a phone nothing is wider than the screen.
driver = browser(390, 844)
for view in ["draw", "edit", "gallery"]:
    open_page(view)
    time.sleep(0.2)
    width = driver.execute_script("return document.documentElement.scrollWidth")
    assert width <= 390, (view, width)
    check_axe(f"phone, {view}")
open_page()
draw("a hat", 2)
until(finished)
shot("serve-phone")
driver.quit()
print("page: passed")
