"""A page of `impasto explain` in headless Chromium: what a person does with it, and what axe says of it.

python3 explain_page.py PAGE_HTML AXE_JS [FOLDER_OF_SCREENSHOTS]
"""

import json
import pathlib
import sys

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

page, axe = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).read_text()
screenshots = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None


def browser(language, dark=False):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--lang={language}", "--disable-gpu",
                 "--force-device-scale-factor=1", "--no-first-run", "--disable-background-networking", "--disable-sync",
                 "--disable-component-update"]:
        options.add_argument(flag)
    if dark:
        options.add_argument("--force-dark-mode")
    options.add_experimental_option("prefs", {"intl.accept_languages": language})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    driver.set_window_size(1120, 900)
    driver.get(page.as_uri())
    WebDriverWait(driver, 60, 0.02).until(lambda _: driver.execute_script("return document.documentElement.dataset.ready"))
    return driver


driver = browser("en-US")


def find(css):
    return driver.find_element(By.CSS_SELECTOR, css)


def all_of(css):
    return driver.find_elements(By.CSS_SELECTOR, css)


def view():
    return driver.execute_script("return document.documentElement.dataset.view")


def shot(name):
    if screenshots:
        driver.save_screenshot(str(screenshots / f"{name}.png"))


def strengths():
    return [float(cell.get_attribute("data-strength") or -1) for cell in all_of("#picture button")]


def check_axe(where):
    driver.execute_script(axe)
    found = driver.execute_async_script("axe.run().then(arguments[0])")["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not serious, where + ": " + json.dumps([(one["id"], [node["html"] for node in one["nodes"]]) for one in serious])


data = json.loads(driver.execute_script("return document.querySelector('script[type=\"application/json\"]').textContent"))
explanation = data["explanation"]
words, patches, grid = explanation["words"], explanation["patches"], explanation["grid"]

# The words are buttons within the whole prompt, the patches buttons over the picture.
assert find("#prompt").text == explanation["prompt"], find("#prompt").text
assert [button.text for button in all_of("#prompt button")] == [word["word"] for word in words]
cells = all_of("#picture button")
assert len(cells) == grid * grid == len(patches)
image = driver.execute_async_script("""const done = arguments[0]; const image = new Image();
    image.onload = () => done([image.naturalWidth, image.naturalHeight]);
    image.src = getComputedStyle(document.querySelector('#picture')).backgroundImage.slice(5, -2);""")
assert image == [data["side"], data["side"]], image

# Pointing at a word shades the patches by its map.
number = max(range(len(words)), key=lambda i: max(words[i]["map"]))
word = all_of("#prompt button")[number]
ActionChains(driver).move_to_element(word).perform()
assert view() == f"word:{number}", view()
shown, values = strengths(), words[number]["map"]
largest = max(values)
assert max(shown) == 1 and shown[values.index(largest)] == 1
for strength, value in zip(shown, values):
    assert abs(strength - min(max(value / largest, 0), 1)) < 2e-3, (strength, value)
shot("explain-word")

# Pointing at a patch names its words, and shows what else was likely.
patch = values.index(largest)
ActionChains(driver).move_to_element(cells[patch]).perform()
assert view() == f"patch:{patch}", view()
listed = [row.text.split("\n")[0] for row in all_of("#detail li:not(.code) > :first-child")]
best = max(range(len(words)), key=lambda i: words[i]["map"][patch])
assert listed[0] == words[best]["word"], listed
tiles = all_of("#detail li.code .tile")
assert len(tiles) == 1 + len(patches[patch]["alternatives"])
assert all(driver.execute_script("return getComputedStyle(arguments[0]).backgroundImage", tile).startswith('url("data:') for tile in tiles)
shot("explain-patch")

# Leaving shows nothing; a click keeps, Escape lets go.
ActionChains(driver).move_to_element(find("h1")).perform()
assert view() == "", view()
word.click()
ActionChains(driver).move_to_element(find("h1")).perform()
assert view() == f"word:{number}" and word.get_attribute("aria-pressed") == "true"
ActionChains(driver).send_keys(Keys.ESCAPE).perform()
assert view() == ""

# All of it with the keyboard: words by Tab, patches by one Tab and the arrows.
driver.execute_script("document.activeElement.blur(); document.querySelector('#prompt button').focus()")
assert view() == "word:0"
ActionChains(driver).send_keys(Keys.TAB * len(words)).perform()
assert view() == "patch:0", view()
ActionChains(driver).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN).perform()
assert view() == f"patch:{grid + 1}", view()
ActionChains(driver).send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT).perform()
assert view() == f"patch:{grid}", view()

# Entropies, and where a code stands.
find("#entropy").click()
ActionChains(driver).move_to_element(find("h1")).perform()
assert view() == "entropy:"
entropies = [patch["entropy"] for patch in patches]
assert strengths()[entropies.index(max(entropies))] == 1
ActionChains(driver).send_keys(Keys.ESCAPE).perform()
# Where a CLIP looks, where one was asked.
clip = explanation.get("clip")
assert find("#clip").is_displayed() == bool(clip)
if clip:
    find("#clip").click()
    ActionChains(driver).move_to_element(find("h1")).perform()
    assert view() == "clip:" and find("#clip").get_attribute("aria-pressed") == "true"
    assert strengths()[data["clip"].index(max(data["clip"]))] == 1
    listed = [row.text for row in all_of("#detail li > :first-child")]
    assert listed[0] == max(clip["words"], key=lambda word: word["relevance"])["word"], listed
    shot("explain-clip")
    ActionChains(driver).send_keys(Keys.ESCAPE).perform()
codes = all_of("#atlas button")
assert len(codes) == len({patch["id"] for patch in patches})
driver.execute_script("arguments[0].scrollIntoView()", codes[0])
ActionChains(driver).move_to_element(codes[0]).perform()
WebDriverWait(driver, 10, 0.02).until(lambda _: view().startswith("code:"))
code = int(view().split(":")[1])
assert [strength == 1 for strength in strengths()] == [patch["id"] == code for patch in patches]

check_axe("light")
find("#language").click()
assert driver.execute_script("return document.documentElement.lang") == "zh-CN"
assert find("h1").text == "这张图为什么是这样"
errors = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
assert not errors, errors
assert driver.execute_script("return performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length") == 0
driver.quit()

driver = browser("zh-CN", dark=True)
assert driver.execute_script("return document.documentElement.lang") == "zh-CN"
driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(25, 22, 19)"
check_axe("dark")
driver.quit()
print(f"the page of {explanation['prompt']!r} works in Chromium: {len(words)} words, {len(patches)} patches")
