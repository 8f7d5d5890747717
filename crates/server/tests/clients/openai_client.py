"""OpenAI's client for Python against a server: sync, async, streaming, every class of error.

python3 openai_client.py http://127.0.0.1:PORT
"""

import asyncio
import base64
import io
import struct
import sys
import zlib

import openai

base = sys.argv[1].rstrip("/")
options = {"base_url": f"{base}/v1", "api_key": "none", "max_retries": 0}
client = openai.OpenAI(**options)


def png(width, height, pixel):
    """A PNG of RGBA pixels."""
    rows = b"".join(b"\0" + b"".join(bytes(pixel(x, y)) for x in range(width)) for y in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def named(name, data):
    file = io.BytesIO(data)
    file.name = name
    return file


def is_png(text):
    return base64.b64decode(text).startswith(b"\x89PNG")


result = client.images.generate(
    model="gpt-image-1", prompt="a red turtle", n=2, size="auto", quality="high", extra_body={"seed": 7, "guidance": 3}
)
assert len(result.data) == 2 and all(is_png(image.b64_json) for image in result.data)
assert result.size == "64x64" and result.output_format == "png" and result.usage.output_tokens > 0
again = client.images.generate(prompt="a red turtle", extra_body={"seed": 8, "guidance": 3})
assert again.data[0].b64_json == result.data[1].b64_json, "the same seed is the same picture"
url = client.images.generate(model="dall-e-2", prompt="a red turtle").data[0].url
assert url.startswith(f"{base}/files/"), url

stream = client.images.generate(prompt="a hat", stream=True, partial_images=2)
events = list(stream)
assert [event.type.split(".")[1] for event in events] == ["partial_image", "partial_image", "completed"], events
assert all(is_png(event.b64_json) for event in events) and events[1].partial_image_index == 1

picture = base64.b64decode(again.data[0].b64_json)
mask = png(64, 64, lambda x, y: (0, 0, 0, 0 if 20 <= x < 40 and 20 <= y < 40 else 255))
edited = client.images.edit(image=named("a.png", picture), mask=named("m.png", mask), prompt="a red turtle", n=2)
assert len(edited.data) == 2 and is_png(edited.data[0].b64_json)
edited = client.images.edit(image=[named("a.png", picture)], mask=named("m.png", mask), prompt="a red turtle", stream=True)
assert list(edited)[-1].type == "image_edit.completed"
varied = client.images.create_variation(image=named("a.png", picture), n=2, response_format="b64_json")
assert len(varied.data) == 2

embedding = client.embeddings.create(model="impasto-clip", input=["a red turtle", "a star"])
assert len(embedding.data) == 2 and abs(sum(x * x for x in embedding.data[0].embedding) - 1) < 1e-3
names = [model.id for model in client.models.list()]
assert "impasto-mini" in names and client.models.retrieve("impasto-mini").owned_by == "impasto"


def fails(kind, work):
    try:
        work()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


error = fails(openai.BadRequestError, lambda: client.images.generate(prompt="a", size="1024x1024"))
assert error.param == "size" and error.code == "invalid_value" and "64x64" in str(error), error
assert error.request_id
fails(openai.NotFoundError, lambda: client.images.generate(prompt="a", model="nothing"))
fails(openai.BadRequestError, lambda: client.images.generate(prompt="long " * 500))
moderated = client.moderations.create(model="omni-moderation-latest", input=["a red turtle", "a n.u.d.e man", "割腕"])
assert [result.flagged for result in moderated.results] == [False, True, True], moderated
assert moderated.results[1].categories.sexual and moderated.results[1].category_scores.sexual == 1
assert moderated.results[2].categories.self_harm and not moderated.results[0].category_scores.violence
together = client.moderations.create(input=[{"type": "text", "text": "a hat"}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{again.data[0].b64_json}"}}])
assert len(together.results) == 1 and not together.results[0].flagged
error = fails(openai.BadRequestError, lambda: client.images.generate(prompt="a n.u.d.e man"))
assert (error.code, error.type, error.param) == ("moderation_blocked", "image_generation_user_error", "prompt"), error
assert "sexual" in str(error), error
fails(openai.APIError, lambda: list(client.images.generate(prompt="long " * 500, stream=True)))
fails(openai.BadRequestError, lambda: client.images.edit(image=named("a.png", b"no picture"), prompt="a"))


async def together():
    async with openai.AsyncOpenAI(**options) as several:
        drawn = await asyncio.gather(*(
            several.images.generate(prompt="a red turtle", extra_body={"seed": 8, "guidance": 3}) for _ in range(4)
        ))
        assert all(one.data[0].b64_json == again.data[0].b64_json for one in drawn)
        kinds = [event.type async for event in await several.images.generate(prompt="a hat", stream=True)]
        assert kinds == ["image_generation.completed"], kinds


asyncio.run(together())

if len(sys.argv) > 2:
    # A server that wants keys, with room for one job: its address and one of its keys.
    closed, key = f"{sys.argv[2].rstrip('/')}/v1", sys.argv[3]
    stranger = openai.OpenAI(base_url=closed, api_key="wrong", max_retries=0)
    error = fails(openai.AuthenticationError, lambda: stranger.images.generate(prompt="a"))
    assert error.code == "invalid_api_key"
    known = openai.OpenAI(base_url=closed, api_key=key, max_retries=0)

    async def crowd():
        async with openai.AsyncOpenAI(base_url=closed, api_key=key, max_retries=0) as several:
            work = (several.images.generate(prompt="a red turtle", n=4) for _ in range(6))
            return await asyncio.gather(*work, return_exceptions=True)

    answers = asyncio.run(crowd())
    refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
    assert refused and len(refused) < 6, answers
    assert int(refused[0].response.headers["retry-after"]) >= 1
    assert is_png(known.images.generate(prompt="a hat").data[0].b64_json)
print("openai for Python: passed")
