"""AUTOMATIC1111's client `webuiapi` against a server.

python3 webui_client.py http://127.0.0.1:PORT
"""

import sys
from urllib.parse import urlparse

import webuiapi
from PIL import Image, ImageDraw

address = urlparse(sys.argv[1])
api = webuiapi.WebUIApi(host=address.hostname, port=address.port)
drawn = api.txt2img(prompt="a red turtle", seed=7, batch_size=2, cfg_scale=3, width=128, height=128)
assert len(drawn.images) == 2 and drawn.image.size == (128, 128)
assert drawn.info["all_seeds"] == [7, 8], drawn.info
again = api.txt2img(prompt="a red turtle", seed=7, cfg_scale=3, width=128, height=128)
assert again.image.tobytes() == drawn.image.tobytes(), "the same seed is the same picture"
varied = api.img2img(prompt="a red turtle", images=[drawn.image], denoising_strength=0.4, seed=1, cfg_scale=3)
assert varied.image.size == (512, 512)
mask = Image.new("RGB", drawn.image.size)
ImageDraw.Draw(mask).rectangle((32, 32, 80, 80), fill="white")
edited = api.img2img(prompt="a red turtle", images=[drawn.image], mask_image=mask, seed=1, cfg_scale=3)
before, after = drawn.image.convert("RGB"), edited.image.convert("RGB")
outside = [(x, y) for x in range(128) for y in range(128) if not (32 <= x <= 80 and 32 <= y <= 80)]
assert all(before.getpixel(at) == after.getpixel(at) for at in outside)
assert "a red turtle" in api.png_info(drawn.image).info or api.png_info(drawn.image).info == ""
assert api.get_progress()["progress"] == 0
assert api.get_options()["sd_model_checkpoint"] == "impasto-mini"
assert "raster" in [sampler["name"] for sampler in api.get_samplers()]
assert [model["model_name"] for model in api.get_sd_models()] == ["impasto-mini"]
api.interrupt()
with_it, without = (api.txt2img(prompt="a hat", negative_prompt=negative, seed=1, cfg_scale=5).image.tobytes() for negative in ["a red hat", ""])
assert with_it != without
print("webuiapi: passed")
